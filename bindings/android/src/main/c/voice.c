/* org.edgegemma.Native: the voice turn. */
#include "common.h"

#include <stdlib.h>
#include <string.h>

/* A voice, and the application's detector, which is called with the environment of the call that runs. */
typedef struct voice {
    eg_voice *voice;
    JNIEnv *env;
    jobject detector; /* a global reference, or NULL */
    jmethodID method;
} voice;

enum { BLOCK = 512 };

/* The probability of speech; 0 once the detector has thrown, so that the call comes to its end. */
static float detect(void *context, const float *block)
{
    voice *v = context;
    JNIEnv *env = v->env;
    if ((*env)->ExceptionCheck(env)) return 0;
    /* The buffer is valid during the call only, as the interface says; nothing writes through it. */
    jobject buffer = (*env)->NewDirectByteBuffer(env, (void *)(uintptr_t)block, BLOCK * sizeof *block);
    if (!buffer) return 0;
    const jfloat probability = (*env)->CallFloatMethod(env, v->detector, v->method, buffer);
    if ((*env)->ExceptionCheck(env)) return 0;
    (*env)->DeleteLocalRef(env, buffer);
    return probability;
}

static void free_voice(JNIEnv *env, voice *v)
{
    eg_voice_close(v->voice);
    if (v->detector) (*env)->DeleteGlobalRef(env, v->detector);
    free(v);
}

/* numbers: silence, pause, shortest speech, longest turn, time between partial transcripts. chat: 0 for words alone.
 * detector: null, or a DetectorBridge. */
NATIVE(jlong, voiceOpen)(JNIEnv *env, jclass type, jlong model, jlong chat, jint context, jbyteArray request,
                         jfloatArray numbers, jobject detector)
{
    (void)type;
    jfloat t[5];
    char *text = NULL;
    EG_STRUCT(eg_error, err);
    EG_STRUCT(eg_voice_params, p);
    (*env)->GetFloatArrayRegion(env, numbers, 0, 5, t);
    voice *v = (*env)->ExceptionCheck(env) ? NULL : calloc(1, sizeof *v);
    if (!v) {
        eg_jni_throw(env, EG_ERROR_MEMORY, "no memory for the voice.");
        return 0;
    }
    v->env = env;
    if (detector) {
        v->method = (*env)->GetMethodID(env, (*env)->GetObjectClass(env, detector), "detect", "(Ljava/nio/ByteBuffer;)F");
        v->detector = v->method ? (*env)->NewGlobalRef(env, detector) : NULL;
        if (!v->detector) eg_jni_throw(env, EG_ERROR_MEMORY, "no memory for the detector.");
    }
    if (!(*env)->ExceptionCheck(env) && eg_jni_text(env, request, &text)) {
        p.chat = from_handle(chat), p.context = (uint32_t)context, p.request = text;
        p.silence = t[0], p.pause = t[1], p.min_speech = t[2], p.max_seconds = t[3], p.partial = t[4];
        if (detector) p.detect = detect, p.detect_context = v;
        eg_jni_failed(env, eg_voice_open(from_handle(model), &p, &v->voice, &err), &err);
    }
    free(text);
    if (v->voice) return to_handle(v);
    free_voice(env, v);
    return 0;
}

NATIVE(void, voiceClose)(JNIEnv *env, jclass type, jlong handle)
{
    (void)type;
    free_voice(env, from_handle(handle));
}

NATIVE(void, voiceCancel)(JNIEnv *env, jclass type, jlong handle)
{
    (void)env, (void)type;
    const voice *v = from_handle(handle);
    eg_voice_cancel(v->voice);
}

/* samples: a direct FloatBuffer. */
NATIVE(void, voicePush)(JNIEnv *env, jclass type, jlong handle, jobject samples, jint first, jint n)
{
    (void)type;
    EG_STRUCT(eg_error, err);
    voice *v = from_handle(handle);
    const float *at = eg_jni_direct(env, samples, first, n, sizeof *at);
    if (!at) return;
    v->env = env;
    eg_jni_failed(env, eg_voice_push(v->voice, at, (size_t)n, &err), &err);
}

NATIVE(void, voiceFinish)(JNIEnv *env, jclass type, jlong handle)
{
    (void)type;
    EG_STRUCT(eg_error, err);
    voice *v = from_handle(handle);
    v->env = env;
    eg_jni_failed(env, eg_voice_finish(v->voice, &err), &err);
}

static void drop_turn(voice *v)
{
    EG_STRUCT(eg_voice_event, e);
    eg_voice_cancel(v->voice);
    while (!eg_voice_step(v->voice, NULL, &e, NULL) && e.kind != EG_VOICE_IDLE) continue;
}

/* Drops the turn and its events, and what the endpointer still has of it. */
NATIVE(void, voiceAbandon)(JNIEnv *env, jclass type, jlong handle)
{
    (void)type;
    voice *v = from_handle(handle);
    v->env = env;
    drop_turn(v);
    eg_voice_finish(v->voice, NULL);
    drop_turn(v);
}

NATIVE(void, voiceAnswer)(JNIEnv *env, jclass type, jlong handle)
{
    (void)type;
    EG_STRUCT(eg_error, err);
    voice *v = from_handle(handle);
    v->env = env;
    eg_jni_failed(env, eg_voice_answer(v->voice, &err), &err);
}

/* event: the kind, the time as the bits of a double, and what eg_jni_put_event has of the answer; texts[4] as there, or the
 * words in texts[0]. */
NATIVE(void, voiceStep)(JNIEnv *env, jclass type, jlong handle, jlong chat, jfloatArray sampling, jobject mask, jobject check,
                        jint words, jlongArray event, jobjectArray texts)
{
    (void)type;
    EG_STRUCT(eg_error, err);
    EG_STRUCT(eg_voice_event, e);
    eg_jni_sampling how;
    voice *v = from_handle(handle);
    v->env = env;
    if (!eg_jni_read_sampling(env, sampling, mask, check, words, from_handle(chat), &how)) return;
    if (eg_jni_failed(env, eg_voice_step(v->voice, how.use, &e, &err), &err)) return;
    jlong values[2] = {e.kind, 0};
    memcpy(&values[1], &e.time, sizeof e.time);
    (*env)->SetLongArrayRegion(env, event, 0, 2, values);
    if ((*env)->ExceptionCheck(env)) return;
    if (e.answer) eg_jni_put_event(env, e.answer, event, 2, texts);
    else eg_jni_put(env, texts, 0, e.text, e.text ? e.text_length : 0);
}
