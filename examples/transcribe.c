/* Transcribes speech from standard input while it is spoken: 16-bit samples, 16 kHz, mono.
 *
 *     arecord -f S16_LE -r 16000 -t raw | ./transcribe MODEL.gguf MMPROJ.gguf
 *
 * Sound is encoded and fed as it comes, so when the input ends only the last moment of it is left to do. End with Ctrl-D or by
 * ending the recorder. Build it like simple.c.
 */
#include <stdio.h>
#include <stdlib.h>

#ifdef _WIN32
#include <fcntl.h>
#include <io.h>
#endif

#include "edge_gemma.h"

#define PROMPT "<bos><|turn>user\nTranscribe the following speech segment. Only output the transcription, with no newlines.\n"

static int report(const char *message)
{
    fprintf(stderr, "transcribe: %s\n", message);
    return EXIT_FAILURE;
}

/* Everything that standard input has, in pieces of 20 ms. */
static eg_status listen(eg_session *session, eg_error *err)
{
    unsigned char bytes[640];
    float samples[320];
    size_t n;
    eg_status status = eg_session_audio_begin(session, NULL, err);
    while (!status && (n = fread(bytes, 2, 320, stdin)) > 0) {
        for (size_t i = 0; i < n; i++) {
            int value = bytes[2 * i] | bytes[2 * i + 1] << 8;
            samples[i] = (float)(value < 32768 ? value : value - 65536) / 32768;
        }
        status = eg_session_audio_push(session, samples, n, err);
    }
    return status ? status : eg_session_audio_end(session, err);
}

int main(int argc, char **argv)
{
    EG_STRUCT(eg_error, err);
    eg_model *model;
    eg_session *session;
#ifdef _WIN32
    _setmode(_fileno(stdin), _O_BINARY);   /* text would end at a byte of 26 */
#endif
    if (argc != 3) return report("usage: transcribe MODEL.gguf MMPROJ.gguf < SAMPLES");
    EG_STRUCT(eg_model_params, model_params);
    model_params.path = argv[1];
    model_params.mmproj = argv[2];
    EG_STRUCT(eg_session_params, session_params);
    session_params.context = 1024;
    if (eg_model_open(&model_params, &model, &err)) return report(err.message);
    if (eg_session_open(model, &session_params, &session, &err)) {
        eg_model_close(model);
        return report(err.message);
    }

    EG_STRUCT(eg_sampling, greedy);
    EG_STRUCT(eg_token, token);
    eg_status status = eg_session_feed_text(session, PROMPT, SIZE_MAX, EG_TEXT_SPECIAL, &err);
    if (!status) status = listen(session, &err);
    if (!status) status = eg_session_feed_text(session, "<turn|>\n<|turn>model\n", SIZE_MAX, EG_TEXT_SPECIAL, &err);
    for (int i = 0; i < 256 && !status && !token.stop; i++) {
        status = eg_session_next(session, &greedy, &token, &err);
        if (status) break;
        fwrite(token.text, 1, token.text_length, stdout);
        fflush(stdout);
    }
    putchar('\n');
    eg_session_close(session);
    eg_model_close(model);
    return status ? report(err.message) : EXIT_SUCCESS;
}
