/* Objects that one thread closes while another is in a call: the call is cancelled, and the memory goes when both have closed.
 *
 *     use_close MODEL MMPROJ
 */
#define _POSIX_C_SOURCE 200809L
#include <edge_gemma_chat.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ROUNDS = 12 };

static void need(eg_status status, const eg_error *err)
{
    if (!status) return;
    fprintf(stderr, "%s\n", err->message);
    exit(EXIT_FAILURE);
}

/* Feeds until it is cancelled; then closes. */
static void *feed(void *argument)
{
    eg_session *session = argument;
    int32_t ids[200] = {2};
    EG_STRUCT(eg_error, err);
    eg_status status;
    while (!(status = eg_session_feed_tokens(session, ids, 200, &err))) need(eg_session_rewind_to(session, 0, &err), &err);
    eg_session_close(session);
    return (void *)(intptr_t)status;
}

/* Answers again and again until an answer was cancelled; then closes. */
static void *answer(void *argument)
{
    eg_chat *chat = argument;
    EG_STRUCT(eg_error, err);
    EG_STRUCT(eg_reply_event, event);
    eg_status status = EG_OK;
    while (!status && event.stop != EG_CHAT_STOP_CANCELLED) {
        need(eg_chat_truncate(chat, 0, &err), &err);
        need(eg_chat_add_text(chat, "user", "Hello", &err), &err);
        status = eg_chat_begin(chat, &err);
        event.kind = EG_EVENT_NONE;
        while (!status && event.kind != EG_EVENT_DONE) status = eg_chat_next(chat, NULL, &event, &err);
    }
    eg_chat_close(chat);
    return (void *)(intptr_t)(status ? status : EG_CANCELLED);
}

/* Hears some seconds of noise, through a request to cancel; then closes. */
typedef struct hearing {
    eg_voice *voice;
    const float *noise; /* [16000] */
} hearing;

static void *hear(void *argument)
{
    const hearing *h = argument;
    EG_STRUCT(eg_error, err);
    EG_STRUCT(eg_voice_event, event);
    for (int i = 0; i < 3; i++) {
        need(eg_voice_push(h->voice, h->noise, 16000, &err), &err);
        do need(eg_voice_step(h->voice, NULL, &event, &err), &err);
        while (event.kind != EG_VOICE_IDLE);
    }
    eg_voice_close(h->voice);
    return (void *)(intptr_t)EG_CANCELLED;
}

/* Every end of a stream but the last only takes a reference away. */
static void count(eg_model *model, eg_error *err)
{
    eg_audio_stream *stream;
    size_t written;
    float samples[160] = {0}, embedding[4096];
    need(eg_audio_stream_open(model, NULL, &stream, err), err);
    eg_audio_stream_retain(stream);
    eg_audio_stream_close(stream);
    need(eg_audio_stream_push(stream, samples, 160, embedding, 1, &written, err), err);
    eg_audio_stream_close(stream);
    eg_session_retain(NULL), eg_chat_retain(NULL), eg_voice_retain(NULL), eg_model_retain(NULL);
    eg_audio_stream_retain(NULL), eg_image_encoder_retain(NULL);
}

static void expect_cancelled(pthread_t thread)
{
    void *result;
    pthread_join(thread, &result);
    if ((intptr_t)result != EG_CANCELLED) exit(EXIT_FAILURE);
}

int main(int argc, char **argv)
{
    static float noise[16000];
    eg_model *model;
    EG_STRUCT(eg_error, err);
    EG_STRUCT(eg_model_params, mp);
    if (argc != 3) return EXIT_FAILURE;
    for (size_t i = 0; i < 16000; i++) noise[i] = (float)(rand() % 2000 - 1000) / 1000;
    mp.path = argv[1], mp.mmproj = argv[2], mp.threads = 2;
    need(eg_model_open(&mp, &model, &err), &err);
    count(model, &err);
    for (int i = 0; i < ROUNDS; i++) {
        pthread_t feeding, answering, listening;
        eg_session *session;
        eg_chat *chat, *spoken;
        hearing h = {.noise = noise};
        EG_STRUCT(eg_session_params, sp);
        EG_STRUCT(eg_chat_params, cp);
        EG_STRUCT(eg_voice_params, vp);
        sp.context = cp.context = 256, cp.max_tokens = 40;
        need(eg_session_open(model, &sp, &session, &err), &err);
        need(eg_chat_open(model, &cp, &chat, &err), &err);
        need(eg_chat_open(model, &cp, &spoken, &err), &err);
        vp.chat = spoken, vp.context = 512;
        need(eg_voice_open(model, &vp, &h.voice, &err), &err);
        eg_chat_close(spoken); /* the voice keeps it */
        eg_session_retain(session), eg_chat_retain(chat), eg_voice_retain(h.voice);
        pthread_create(&feeding, NULL, feed, session);
        pthread_create(&answering, NULL, answer, chat);
        pthread_create(&listening, NULL, hear, &h);
        const struct timespec moment = {.tv_nsec = i * 3000000L};
        nanosleep(&moment, NULL);
        eg_session_cancel(session), eg_session_close(session);
        eg_chat_cancel(chat), eg_chat_close(chat);
        eg_voice *voice = h.voice;
        eg_voice_cancel(voice), eg_voice_close(voice);
        expect_cancelled(feeding);
        expect_cancelled(answering);
        expect_cancelled(listening);
    }
    eg_model_retain(model);
    eg_model_close(model);
    eg_model_close(model);
    puts("closed");
    return EXIT_SUCCESS;
}
