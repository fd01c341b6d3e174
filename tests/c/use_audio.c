/* Audio through the public header: argv[1] a model, argv[2] its encoders. Synthetic sound goes through a stream and through a
 * session, in uneven pieces; prints lines of `name value` that are equal on every machine. */
#include "edge_gemma.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 20000, TOKENS = 32 };

static int failed(const char *what, const eg_error *err)
{
    fprintf(stderr, "%s: status %d: %s\n", what, (int)err->status, err->message);
    return EXIT_FAILURE;
}

static unsigned long long hash(const void *data, size_t n)
{
    const unsigned char *p = data;
    unsigned long long h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

/* A chirp in noise. */
static void make_sound(float *samples)
{
    unsigned state = 1;
    for (int i = 0; i < N; i++) {
        state = state * 1664525u + 1013904223u;
        float phase = (float)(i % 400) / 400 * (1 + (float)i / N);
        samples[i] = 0.3f * (phase - floorf(phase)) - 0.15f + ((float)(state >> 8) / 16777216 - 0.5f) * 0.05f;
    }
}

static int check_stream(eg_model *model, size_t hidden, const float *samples)
{
    eg_error err = {.struct_size = sizeof err};
    eg_audio_stream *stream;
    eg_audio_params params = {sizeof params, 13, false};
    if (eg_audio_stream_open(model, &params, &stream, &err)) return failed("stream", &err);
    float *rows = malloc(TOKENS * hidden * sizeof *rows);
    size_t tokens = 0, written = 0;
    if (!rows) return EXIT_FAILURE;
    if (eg_audio_stream_push(stream, samples, N, rows, 1, &written, &err) != EG_ERROR_ARGUMENT)
        return failed("too little room must be refused", &err);
    for (int at = 0, n = 1; at < N; at += n, n = n * 3 % 1999 + 1) {
        if (n > N - at) n = N - at;
        size_t ready = eg_audio_stream_token_count(stream, (size_t)n);
        if (eg_audio_stream_push(stream, samples + at, (size_t)n, rows + tokens * hidden, ready, &written, &err))
            return failed("push", &err);
        if (written != ready) return EXIT_FAILURE;
        tokens += written;
    }
    if (eg_audio_stream_finish(stream, rows + tokens * hidden, TOKENS - tokens, &written, &err)) return failed("finish", &err);
    tokens += written;
    eg_audio_stream_close(stream);
    if (tokens != eg_audio_token_count(model, N)) return EXIT_FAILURE;
    printf("embeddings %lu %016llx\n", (unsigned long)tokens, hash(rows, tokens * hidden * sizeof *rows));
    free(rows);
    return EXIT_SUCCESS;
}

static int answer(eg_session *session, const char *name)
{
    eg_error err = {.struct_size = sizeof err};
    eg_sampling greedy = {.struct_size = sizeof greedy};
    if (eg_session_feed_text(session, "<turn|>\n<|turn>model\n", SIZE_MAX, EG_TEXT_SPECIAL, &err)) return failed("feed", &err);
    printf("%s", name);
    for (int i = 0; i < 4; i++) {
        eg_token token = {.struct_size = sizeof token};
        if (eg_session_next(session, &greedy, &token, &err)) return failed("next", &err);
        printf(" %d", (int)token.id);
    }
    printf("\n%s position %lu\n", name, (unsigned long)eg_session_position(session));
    return EXIT_SUCCESS;
}

static int check_session(eg_model *model, float *samples)
{
    eg_error err = {.struct_size = sizeof err};
    eg_session *session, *fork = NULL;
    eg_session_params params = {.struct_size = sizeof params, .context = 256};
    if (eg_session_open(model, &params, &session, &err)) return failed("session", &err);
    if (eg_session_audio_push(session, samples, 10, &err) != EG_ERROR_STATE) return failed("nothing was begun", &err);
    if (eg_session_feed_text(session, "<bos><|turn>user\n", SIZE_MAX, EG_TEXT_SPECIAL, &err) ||
        eg_session_audio_begin(session, NULL, &err))
        return failed("begin", &err);
    for (int at = 0, n = 700; at < N; at += n, n = n * 7 % 3001 + 1) {
        if (n > N - at) n = N - at;
        if (eg_session_audio_push(session, samples + at, (size_t)n, &err)) return failed("push", &err);
        if (!fork && at > N / 2 && eg_session_fork(session, &fork, &err)) return failed("fork", &err);
    }
    float good = samples[5];
    samples[5] = NAN;
    if (eg_session_audio_push(session, samples, 10, &err) != EG_ERROR_ARGUMENT) return failed("not a number", &err);
    samples[5] = good;
    if (eg_session_audio_end(session, &err) || eg_session_audio_end(fork, &err)) return failed("end", &err);
    int status = answer(session, "whole") || answer(fork, "half");
    eg_session_close(fork);
    fork = NULL;
    if (eg_session_feed_audio(session, samples, N, NULL, &err)) return failed("feed_audio", &err);
    if (eg_session_audio_begin(session, NULL, &err) || eg_session_audio_push(session, samples, 5000, &err))
        return failed("again", &err);
    eg_session_close(session);   /* with audio open */
    return status;
}

int main(int argc, char **argv)
{
    eg_error err = {.struct_size = sizeof err};
    eg_model *model;
    eg_model_info info;
    static float samples[N];
    if (argc != 3) return EXIT_FAILURE;
    eg_model_params params = {.struct_size = sizeof params, .threads = 2, .path = argv[1], .mmproj = argv[2]};
    info.struct_size = sizeof info;
    if (eg_model_open(&params, &model, &err) || eg_model_get_info(model, &info, &err)) return failed("open", &err);
    if (!info.audio) return EXIT_FAILURE;
    make_sound(samples);
    int status = check_stream(model, info.hidden_size, samples) || check_session(model, samples);
    eg_model_close(model);
    return status;
}
