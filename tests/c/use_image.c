/* Pictures through the public header: argv[1] a model, argv[2] its encoders. Made-up pictures go through the encoder and through a
 * session, with what must be refused in between; prints lines of `name value` that are equal on every machine. */
#include "edge_gemma.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 150, HEIGHT = 70, STRIDE = 3 * WIDTH + 5, TOKENS = 70 };

#define REQUIRE(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(EXIT_FAILURE); \
        } \
    } while (0)

static unsigned long long hash(const void *data, size_t n)
{
    const unsigned char *p = data;
    unsigned long long h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

/* Stripes in noise; the memory ends with the last pixel, so that reading further is found. */
static unsigned char *make_pixels(unsigned state)
{
    const size_t bytes = (size_t)STRIDE * (HEIGHT - 1) + 3 * WIDTH;
    unsigned char *pixels = malloc(bytes);
    REQUIRE(pixels);
    for (size_t i = 0; i < bytes; i++) {
        state = state * 1664525u + 1013904223u;
        pixels[i] = (unsigned char)((i / 30 * 40 & 255) / 2 + (state >> 25));
    }
    return pixels;
}

static void count(void *context, uint32_t done, uint32_t total)
{
    uint32_t *last = context;
    REQUIRE(done == *last + 1 && done <= total);
    *last = done;
}

static void cancel_encoder(void *encoder, uint32_t done, uint32_t total)
{
    (void)done;
    (void)total;
    eg_image_encoder_cancel(encoder);
}

static void cancel_session(void *session, uint32_t done, uint32_t total)
{
    (void)done;
    (void)total;
    eg_session_cancel(session);
}

static void check_encoder(eg_model *model, eg_image image, size_t hidden)
{
    EG_STRUCT(eg_error, err);
    eg_image_encoder *encoder;
    size_t n = 0, written = 0;
    uint32_t steps = 0;
    REQUIRE(!eg_image_tokens(model, WIDTH, HEIGHT, TOKENS, &n, &err) && n > 50 && n <= TOKENS);
    float *rows = malloc(n * hidden * sizeof *rows);
    REQUIRE(rows && !eg_image_encoder_open(model, &encoder, &err));
    REQUIRE(eg_image_encoder_run(encoder, &image, rows, n - 1, &written, &err) == EG_ERROR_ARGUMENT);
    image.progress = cancel_encoder;
    image.progress_context = encoder;
    REQUIRE(eg_image_encoder_run(encoder, &image, rows, n, &written, &err) == EG_CANCELLED);
    image.progress = count;
    image.progress_context = &steps;
    REQUIRE(!eg_image_encoder_run(encoder, &image, rows, n, &written, &err) && written == n && steps);
    eg_image_encoder_close(encoder);
    printf("embeddings %lu %016llx\n", (unsigned long)n, hash(rows, n * hidden * sizeof *rows));
    free(rows);
}

/* Sizes that no picture should have: one pixel, slivers. Either an error with a sentence, or the tokens that were counted. */
static void check_sizes(eg_model *model, eg_image image)
{
    static const uint32_t sides[][2] = {{1, 1}, {WIDTH, 1}, {1, HEIGHT}, {0, 1}, {1, 0}, {1u << 31, 1}};
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++) {
        EG_STRUCT(eg_error, err);
        EG_STRUCT(eg_session_params, params);
        eg_session *session;
        size_t n = 0;
        params.context = 2048;
        REQUIRE(!eg_session_open(model, &params, &session, &err));
        image.width = sides[i][0];
        image.height = sides[i][1];
        eg_status counted = eg_image_tokens(model, image.width, image.height, image.max_tokens, &n, &err);
        REQUIRE(eg_session_feed_image(session, &image, &err) == counted);
        REQUIRE(eg_session_position(session) == (counted ? 0 : n + 2) && (!counted || strlen(err.message) > 10));
        eg_session_close(session);
    }
}

static void check_session(eg_model *model, eg_image image, size_t vocabulary)
{
    EG_STRUCT(eg_error, err);
    EG_STRUCT(eg_session_params, params);
    EG_STRUCT(eg_stats, stats);
    eg_session *session, *fork;
    params.context = 1024;
    float *logits = malloc(vocabulary * sizeof *logits);
    REQUIRE(logits && !eg_session_open(model, &params, &session, &err));
    REQUIRE(!eg_session_feed_text(session, "<bos>Look", SIZE_MAX, EG_TEXT_SPECIAL, &err));
    const size_t start = eg_session_position(session);
    image.progress = cancel_session;
    image.progress_context = session;
    REQUIRE(eg_session_feed_image(session, &image, &err) == EG_CANCELLED && eg_session_position(session) == start);
    image.progress = NULL;
    REQUIRE(!eg_session_feed_image(session, &image, &err) && !eg_session_fork(session, &fork, &err));
    for (int i = 0; i < 2; i++) REQUIRE(!eg_session_feed_frame(session, &image, 59.9 * i, i, &err));
    REQUIRE(!eg_session_feed_text(session, "what", SIZE_MAX, 0, &err) && !eg_session_logits(session, logits, &err));
    REQUIRE(!eg_session_get_stats(session, &stats, &err) && stats.image_tokens > 100);
    printf("logits %lu %016llx\n", (unsigned long)eg_session_position(session), hash(logits, vocabulary * sizeof *logits));
    REQUIRE(!eg_session_rewind_to(session, eg_session_position(session) - 1, &err));
    eg_session_close(session);
    REQUIRE(!eg_session_logits(fork, logits, &err));
    printf("fork %016llx\n", hash(logits, vocabulary * sizeof *logits));
    eg_session_close(fork);
    free(logits);
}

int main(int argc, char **argv)
{
    if (argc != 3) return EXIT_FAILURE;
    EG_STRUCT(eg_error, err);
    EG_STRUCT(eg_model_params, params);
    EG_STRUCT(eg_model_info, info);
    EG_STRUCT(eg_image, image);
    eg_model *model;
    params.path = argv[1];
    params.mmproj = argv[2];
    params.threads = 2;
    if (eg_model_open(&params, &model, &err) || eg_model_get_info(model, &info, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return EXIT_FAILURE;
    }
    REQUIRE(info.vision);
    unsigned char *pixels = make_pixels(1);
    image.rgb = pixels;
    image.width = WIDTH;
    image.height = HEIGHT;
    image.stride = STRIDE;
    image.max_tokens = TOKENS;
    check_encoder(model, image, info.hidden_size);
    check_sizes(model, image);
    check_session(model, image, info.vocab_size);
    free(pixels);
    eg_model_close(model);
    return EXIT_SUCCESS;
}
