/* A chat in the terminal in plain C. Ctrl-C interrupts an answer, the end of input ends the chat.
 *
 *     cmake -S csrc -B build && cmake --build build
 *     cc examples/simple.c -Icsrc build/libedge_gemma.a -lm -pthread -o simple
 *     ./simple gemma-4-E2B-it-Q4_0.gguf
 */
#include "edge_gemma.h"

#include <signal.h>
#include <stdio.h>

static eg_session *session;

static void interrupt(int number)
{
    (void)number;
    eg_session_cancel(session);
}

static eg_status feed(const char *text, uint32_t flags, eg_error *err)
{
    return eg_session_feed_text(session, text, SIZE_MAX, flags, err);
}

/* One turn of each side. Only our own markers may become control tokens, so what the user typed goes in without the flag. */
static eg_status turn(const char *opening, const char *text, eg_error *err)
{
    if (feed(opening, EG_TEXT_SPECIAL, err) || feed(text, 0, err) || feed("<turn|>\n<|turn>model\n", EG_TEXT_SPECIAL, err))
        return err->status;
    EG_STRUCT(eg_token, token);
    do {
        if (eg_session_next(session, NULL, &token, err)) return err->status;
        fwrite(token.text, 1, token.text_length, stdout);
        fflush(stdout);
    } while (!token.stop);
    return EG_OK;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL.gguf\n", argv[0]);
        return 2;
    }
    EG_STRUCT(eg_error, err);
    eg_model *model;
    EG_STRUCT(eg_model_params, model_params);
    model_params.path = argv[1];
    if (eg_model_open(&model_params, &model, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    EG_STRUCT(eg_session_params, session_params);
    eg_status status = eg_session_open(model, &session_params, &session, &err);
    if (!status) signal(SIGINT, interrupt);

    const char *opening = "<bos><|turn>user\n";
    char line[4096];
    while (!status && printf("> ") && !fflush(stdout) && scanf("%4095[^\n]", line) == 1) {
        getchar();
        status = turn(opening, line, &err);
        opening = "\n<|turn>user\n";
        if (status == EG_CANCELLED) {   /* close the turn that was cut short, and go on */
            opening = "<turn|>\n<|turn>user\n";
            status = EG_OK;
        }
        putchar('\n');
    }
    if (status) fprintf(stderr, "%s\n", err.message);
    eg_session_close(session);
    eg_model_close(model);
    return status != EG_OK;
}
