/* The public header from C11: one chat turn on the model argv[1], greedily, printed as lines of `name value` that
 * test_embedding.py compares with the Python package's results. Texts are printed as hexadecimal bytes. */
#include "edge_gemma.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_hex(const char *name, const char *text, size_t length)
{
    printf("%s ", name);
    for (size_t i = 0; i < length; i++) printf("%02x", (unsigned)(unsigned char)text[i]);
    putchar('\n');
}

static int failed(const char *what, const eg_error *err)
{
    fprintf(stderr, "%s: status %d: %s\n", what, (int)err->status, err->message);
    return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    if (argc != 2) return EXIT_FAILURE;

    eg_error err = {.struct_size = sizeof err};
    eg_model *model = NULL;
    eg_model_params missing = {.struct_size = sizeof missing, .path = "no-such-file.gguf"};
    if (eg_model_open(&missing, &model, &err) != EG_ERROR_FILE || err.status != EG_ERROR_FILE || !err.message[0] || model)
        return failed("a missing file must be an EG_ERROR_FILE", &err);

    eg_model_params model_params = {.struct_size = sizeof model_params, .threads = 2, .path = argv[1]};
    if (eg_model_open(&model_params, &model, &err)) return failed("open", &err);

    static const eg_chat_message messages[] = {{sizeof *messages, "system", "Be brief."},
                                               {sizeof *messages, "user", "Hello there"}};
    char chat[500];
    size_t chat_length;
    if (eg_chat_render(messages, 2, EG_CHAT_GENERATION, chat, sizeof chat, &chat_length, &err)) return failed("render", &err);

    int32_t ids[200];
    size_t n;
    const eg_tokenizer *tokenizer = eg_model_tokenizer(model);
    if (eg_tokenizer_encode(tokenizer, chat, SIZE_MAX, EG_TEXT_SPECIAL, ids, 200, &n, &err) || n > 200)
        return failed("encode", &err);

    eg_session *session;
    eg_session_params session_params = {.struct_size = sizeof session_params, .context = 256, .kv = EG_KV_F32};
    if (eg_session_open(model, &session_params, &session, &err)) return failed("session", &err);
    if (eg_session_feed_tokens(session, ids, n, &err)) return failed("feed", &err);

    printf("version %s\nheader %s\n", eg_version(), EG_VERSION);
    print_hex("chat", chat, chat_length);
    printf("prompt");
    for (size_t i = 0; i < n; i++) printf(" %d", (int)ids[i]);

    eg_sampling greedy = {.struct_size = sizeof greedy};
    char answer[4000];
    size_t answer_length = 0;
    printf("\nanswer");
    for (int i = 0; i < 8; i++) {
        eg_token token = {.struct_size = sizeof token};
        if (eg_session_next(session, &greedy, &token, &err)) return failed("next", &err);
        printf(" %d", (int)token.id);
        if (token.stop) break;
        if (token.text_length > sizeof answer - answer_length) return EXIT_FAILURE;
        memcpy(answer + answer_length, token.text, token.text_length);
        answer_length += token.text_length;
    }
    putchar('\n');
    print_hex("text", answer, answer_length);
    printf("position %lu\n", (unsigned long)eg_session_position(session));

    eg_session_close(session);
    eg_model_close(model);
    return EXIT_SUCCESS;
}
