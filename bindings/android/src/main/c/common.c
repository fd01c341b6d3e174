/* Strings, exceptions and buffers between Java and the library. */
#include "common.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

void eg_jni_throw(JNIEnv *env, eg_status status, const char *sentence)
{
    if ((*env)->ExceptionCheck(env)) return;
    jclass type = (*env)->FindClass(env, "org/edgegemma/EdgeGemmaException");
    jmethodID make = type ? (*env)->GetMethodID(env, type, "<init>", "(I[B)V") : NULL;
    jbyteArray text = make ? eg_jni_bytes(env, sentence, strlen(sentence)) : NULL;
    jobject exception = text ? (*env)->NewObject(env, type, make, (jint)status, text) : NULL;
    if (exception) (*env)->Throw(env, (jthrowable)exception); /* else the reason is pending: no memory, or no such class */
}

bool eg_jni_failed(JNIEnv *env, eg_status status, const eg_error *err)
{
    if (status) eg_jni_throw(env, status, err->message);
    return (*env)->ExceptionCheck(env);
}

bool eg_jni_text(JNIEnv *env, jbyteArray bytes, char **out)
{
    *out = NULL;
    if (!bytes) return true;
    const jsize length = (*env)->GetArrayLength(env, bytes);
    char *text = malloc((size_t)length + 1);
    if (!text) {
        eg_jni_throw(env, EG_ERROR_MEMORY, "no memory for a text.");
        return false;
    }
    (*env)->GetByteArrayRegion(env, bytes, 0, length, (jbyte *)text);
    text[length] = '\0';
    *out = text;
    return true;
}

jbyteArray eg_jni_bytes(JNIEnv *env, const char *bytes, size_t length)
{
    if (length > INT_MAX) {
        eg_jni_throw(env, EG_ERROR_MEMORY, "a text is too long for an array.");
        return NULL;
    }
    jbyteArray array = (*env)->NewByteArray(env, (jsize)length);
    if (array) (*env)->SetByteArrayRegion(env, array, 0, (jsize)length, (const jbyte *)bytes);
    return array;
}

bool eg_jni_put(JNIEnv *env, jobjectArray array, jsize index, const char *text, size_t length)
{
    jbyteArray bytes = text ? eg_jni_bytes(env, text, length) : NULL;
    if (text && !bytes) return false;
    (*env)->SetObjectArrayElement(env, array, index, bytes);
    (*env)->DeleteLocalRef(env, bytes);
    return !(*env)->ExceptionCheck(env);
}

void *eg_jni_direct(JNIEnv *env, jobject buffer, jlong first, jlong count, size_t element)
{
    char *address = buffer ? (*env)->GetDirectBufferAddress(env, buffer) : NULL;
    const jlong capacity = address ? (*env)->GetDirectBufferCapacity(env, buffer) : -1;
    if (first >= 0 && count >= 0 && first <= capacity && count <= capacity - first) return address + (size_t)first * element;
    eg_jni_throw(env, EG_ERROR_ARGUMENT, "a buffer is not direct, or shorter than what is to be read.");
    return NULL;
}

/* Asks the application about a token; after an exception everything is allowed, and the answer is ended. */
static const uint32_t *check_token(void *context, int32_t id)
{
    eg_jni_sampling *s = context;
    JNIEnv *env = s->env;
    if ((*env)->ExceptionCheck(env)) return NULL;
    (*env)->DeleteLocalRef(env, s->mask);
    s->mask = (*env)->CallObjectMethod(env, s->check, s->method, (jint)id);
    const bool thrown = (*env)->ExceptionCheck(env);
    if (thrown) s->mask = NULL;
    if (!thrown && !s->mask) return NULL;
    const uint32_t *mask = thrown ? NULL : eg_jni_direct(env, s->mask, 0, s->words, sizeof *mask);
    if (!mask) eg_chat_cancel(s->chat);
    return mask;
}

bool eg_jni_read_sampling(JNIEnv *env, jfloatArray numbers, jobject mask, jobject check, jint words, eg_chat *chat,
                          eg_jni_sampling *out)
{
    *out = (eg_jni_sampling){
        .options.struct_size = sizeof out->options, .env = env, .check = check, .words = words, .chat = chat};
    eg_sampling *s = &out->options;
    out->use = numbers || mask || check ? s : NULL;
    eg_sampling_default(s);
    if (numbers) {
        jfloat v[SAMPLING_NUMBERS];
        (*env)->GetFloatArrayRegion(env, numbers, 0, SAMPLING_NUMBERS, v);
        if ((*env)->ExceptionCheck(env)) return false;
        s->temperature = v[0], s->top_k = (uint32_t)v[1], s->top_p = v[2], s->min_p = v[3];
        s->repetition_penalty = v[4], s->presence_penalty = v[5], s->frequency_penalty = v[6];
        s->penalty_window = (uint32_t)v[7];
    }
    if (mask) {
        s->n_mask = (size_t)(*env)->GetDirectBufferCapacity(env, mask);
        s->mask = eg_jni_direct(env, mask, 0, (jlong)s->n_mask, sizeof *s->mask);
        if (!s->mask) return false;
    }
    if (check) {
        jclass type = (*env)->FindClass(env, "org/edgegemma/TokenCheck");
        out->method = type ? (*env)->GetMethodID(env, type, "check", "(I)Ljava/nio/IntBuffer;") : NULL;
        if (!out->method) return false;
        s->check_token = check_token;
        s->check_context = out;
    }
    return true;
}

bool eg_jni_put_event(JNIEnv *env, const eg_reply_event *event, jlongArray numbers, jsize first, jobjectArray texts)
{
    const jlong values[2] = {event->kind, event->stop};
    (*env)->SetLongArrayRegion(env, numbers, first, 2, values);
    if ((*env)->ExceptionCheck(env) || !event->kind) return !(*env)->ExceptionCheck(env);
    const char *const parts[] = {event->text, event->name, event->arguments, event->problem};
    for (jsize i = 0; i < 4; i++)
        if (!eg_jni_put(env, texts, i, parts[i], i ? (parts[i] ? strlen(parts[i]) : 0) : event->text_length)) return false;
    return true;
}
