/* An application by the interface for applications: samples of a file in, partial words, a tool call, its result, and the text to be
 * spoken out; then the same sound again, and a request to cancel in the middle of the answer.
 *
 *     use_voice MODEL MMPROJ TOOLS.json SYSTEM SAMPLES        samples: 32-bit floats, 16 kHz mono
 */
#include <edge_gemma_chat.h>
#include <stdio.h>
#include <stdlib.h>

static EG_STRUCT(eg_error, err);

static void need(eg_status status)
{
    if (!status) return;
    fprintf(stderr, "%s\n", err.message);
    exit(EXIT_FAILURE);
}

/* The whole file with a zero behind it, and its size. */
static char *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    char *bytes = malloc(1 << 24);
    if (!file || !bytes) exit(EXIT_FAILURE);
    *size = fread(bytes, 1, (1 << 24) - 1, file);
    bytes[*size] = '\0';
    fclose(file);
    return bytes;
}

/* Steps until there is nothing to do. Tools are "run" when the answer that calls them is done. cancel: at the first words. */
static void act(eg_voice *voice, eg_chat *chat, bool cancel)
{
    static char called[64];
    EG_STRUCT(eg_sampling, greedy);
    EG_STRUCT(eg_voice_event, event);
    for (;;) {
        need(eg_voice_step(voice, &greedy, &event, &err));
        const eg_reply_event *answer = event.answer;
        if (event.kind == EG_VOICE_IDLE) return;
        if (event.kind == EG_VOICE_SPEECH) puts("speech");
        if (event.kind == EG_VOICE_PARTIAL) printf("partial %s\n", event.text);
        if (event.kind == EG_VOICE_PAUSE) puts("pause");
        if (event.kind == EG_VOICE_WORDS) printf("words %s\n", event.text);
        if (!answer) continue;
        if (answer->kind == EG_EVENT_CALL) {
            printf("call %s %s\n", answer->name, answer->arguments);
            snprintf(called, sizeof called, "%s", answer->name);
        }
        if (answer->kind == EG_EVENT_DONE) printf("done %d %s\n", (int)answer->stop, answer->text);
        if (cancel && answer->kind == EG_EVENT_TEXT) eg_voice_cancel(voice);
        if (answer->kind != EG_EVENT_DONE || !called[0]) continue;
        need(eg_chat_add_result(chat, called, "\"done\"", &err));
        need(eg_voice_answer(voice, &err));
        called[0] = '\0';
    }
}

static void hear(eg_voice *voice, eg_chat *chat, const float *samples, size_t n, bool cancel)
{
    for (size_t at = 0; at < n; at += 320) { /* 20 ms, as a microphone gives them */
        need(eg_voice_push(voice, samples + at, n - at < 320 ? n - at : 320, &err));
        act(voice, chat, cancel);
    }
    need(eg_voice_finish(voice, &err));
    act(voice, chat, cancel);
}

int main(int argc, char **argv)
{
    eg_model *model;
    eg_chat *chat;
    eg_voice *voice;
    size_t size;
    if (argc != 6) return EXIT_FAILURE;
    char *tools = read_file(argv[3], &size), *samples = read_file(argv[5], &size);
    EG_STRUCT(eg_model_params, mp);
    mp.path = argv[1], mp.mmproj = argv[2], mp.threads = 2;
    need(eg_model_open(&mp, &model, &err));
    EG_STRUCT(eg_chat_params, cp);
    cp.context = 2048, cp.tools = tools, cp.system = argv[4];
    need(eg_chat_open(model, &cp, &chat, &err));
    EG_STRUCT(eg_voice_params, vp);
    vp.chat = chat;
    need(eg_voice_open(model, &vp, &voice, &err));
    eg_model_close(model); /* conversation and voice keep it */
    hear(voice, chat, (const float *)(void *)samples, size / sizeof(float), false);
    int32_t ids[2048];
    size_t n = eg_session_get_tokens(eg_chat_session(chat), 0, ids, 2048);
    for (size_t i = 0; i < n; i++) printf("%s%d", i ? " " : "tokens ", (int)ids[i]);
    putchar('\n');
    need(eg_chat_truncate(chat, 0, &err)); /* a conversation of its own */
    hear(voice, chat, (const float *)(void *)samples, size / sizeof(float), true);
    eg_voice_close(voice);
    eg_chat_close(chat);
    free(tools), free(samples);
    return EXIT_SUCCESS;
}
