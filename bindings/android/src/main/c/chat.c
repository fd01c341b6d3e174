/* org.edgegemma.Native: conversations. */
#include "common.h"

#include <stdlib.h>
#include <string.h>

/* The texts of an array of byte arrays, [*n], each to be freed, as the array itself. False: thrown, and nothing is left. */
static bool read_texts(JNIEnv *env, jobjectArray array, char ***out, size_t *n)
{
    const jsize length = array ? (*env)->GetArrayLength(env, array) : 0;
    char **texts = calloc((size_t)length + 1, sizeof *texts);
    bool read = texts != NULL;
    if (!texts) eg_jni_throw(env, EG_ERROR_MEMORY, "no memory for texts.");
    for (jsize i = 0; i < length && read; i++) {
        jbyteArray bytes = (*env)->GetObjectArrayElement(env, array, i);
        read = eg_jni_text(env, bytes, &texts[i]);
        (*env)->DeleteLocalRef(env, bytes);
    }
    *n = (size_t)length;
    if (read) {
        *out = texts;
        return true;
    }
    for (jsize i = 0; texts && i < length; i++) free(texts[i]);
    free(texts);
    return false;
}

static void free_texts(char **texts, size_t n)
{
    for (size_t i = 0; i < n; i++) free(texts[i]);
    free(texts);
}

/* numbers: context, kind of cache, overflow, most tokens, thinking, empty thought. */
NATIVE(jlong, chatOpen)(JNIEnv *env, jclass type, jlong model, jintArray numbers, jbyteArray system, jbyteArray tools,
                        jobjectArray stops)
{
    (void)type;
    jint v[6];
    char **texts, *instructions = NULL, *declarations = NULL;
    size_t n;
    eg_chat *chat = NULL;
    EG_STRUCT(eg_error, err);
    EG_STRUCT(eg_chat_params, p);
    (*env)->GetIntArrayRegion(env, numbers, 0, 6, v);
    if ((*env)->ExceptionCheck(env) || !read_texts(env, stops, &texts, &n)) return 0;
    if (eg_jni_text(env, system, &instructions) && eg_jni_text(env, tools, &declarations)) {
        p.context = (uint32_t)v[0], p.kv = (eg_kv_type)v[1], p.overflow = (eg_chat_overflow)v[2];
        p.max_tokens = (uint32_t)v[3], p.thinking = v[4], p.empty_thought = v[5];
        p.system = instructions, p.tools = declarations;
        p.stops = (const char *const *)texts, p.n_stops = n;
        eg_jni_failed(env, eg_chat_open(from_handle(model), &p, &chat, &err), &err);
    }
    free_texts(texts, n);
    free(instructions);
    free(declarations);
    return to_handle(chat);
}

NATIVE(void, chatClose)(JNIEnv *env, jclass type, jlong handle)
{
    (void)env, (void)type;
    eg_chat_close(from_handle(handle));
}

NATIVE(void, chatCancel)(JNIEnv *env, jclass type, jlong handle)
{
    (void)env, (void)type;
    eg_chat_cancel(from_handle(handle));
}

NATIVE(void, chatSeed)(JNIEnv *env, jclass type, jlong handle, jlong seed)
{
    (void)env, (void)type;
    eg_session_seed(eg_chat_session(from_handle(handle)), (uint64_t)seed);
}

NATIVE(void, chatSetPriority)(JNIEnv *env, jclass type, jlong handle, jint priority)
{
    (void)type;
    EG_STRUCT(eg_error, err);
    eg_jni_failed(env, eg_session_set_priority(eg_chat_session(from_handle(handle)), priority, &err), &err);
}

/* Calls one of the functions that take two texts. */
static void with_texts(JNIEnv *env, jlong handle, jbyteArray a, jbyteArray b,
                       eg_status (*call)(eg_chat *, const char *, const char *, eg_error *))
{
    char *first = NULL, *second = NULL;
    EG_STRUCT(eg_error, err);
    if (eg_jni_text(env, a, &first) && eg_jni_text(env, b, &second))
        eg_jni_failed(env, call(from_handle(handle), first, second, &err), &err);
    free(first);
    free(second);
}

NATIVE(void, chatAddText)(JNIEnv *env, jclass type, jlong handle, jbyteArray role, jbyteArray text)
{
    (void)type;
    with_texts(env, handle, role, text, eg_chat_add_text);
}

NATIVE(void, chatAddResult)(JNIEnv *env, jclass type, jlong handle, jbyteArray name, jbyteArray json)
{
    (void)type;
    with_texts(env, handle, name, json, eg_chat_add_result);
}

static eg_status add_json(eg_chat *chat, const char *json, const char *nothing, eg_error *err)
{
    (void)nothing;
    return eg_chat_add_json(chat, json, err);
}

NATIVE(void, chatAddJson)(JNIEnv *env, jclass type, jlong handle, jbyteArray json)
{
    (void)type;
    with_texts(env, handle, json, NULL, add_json);
}

static eg_status set_system(eg_chat *chat, const char *system, const char *nothing, eg_error *err)
{
    (void)nothing;
    return eg_chat_set_system(chat, system, err);
}

NATIVE(void, chatSetSystem)(JNIEnv *env, jclass type, jlong handle, jbyteArray system)
{
    (void)type;
    with_texts(env, handle, system, NULL, set_system);
}

/* ---- messages of several parts ----------------------------------------------------------------------------------- */

enum { SHAPE = 5 }; /* a picture's width, height, stride and most tokens; and samples: their number, otherwise 0 */

/* One part, if it is no text: a buffer of pixels, or of samples. */
static bool read_part(JNIEnv *env, jobject buffer, const jint shape[SHAPE], eg_image *image, eg_chat_part *part)
{
    if (shape[4]) {
        part->n_samples = (size_t)shape[4];
        part->samples = eg_jni_direct(env, buffer, 0, shape[4], sizeof *part->samples);
        return part->samples != NULL;
    }
    const jlong stride = shape[2] ? shape[2] : 3 * (jlong)shape[0];
    if (shape[0] < 1 || shape[1] < 1 || stride < 3 * (jlong)shape[0]) {
        eg_jni_throw(env, EG_ERROR_ARGUMENT, "a picture has no pixels, or its stride is less than three bytes a pixel.");
        return false;
    }
    *image = (eg_image){.struct_size = sizeof *image, .width = (uint32_t)shape[0], .height = (uint32_t)shape[1]};
    image->stride = (size_t)stride;
    image->max_tokens = (uint32_t)shape[3];
    image->rgb = eg_jni_direct(env, buffer, 0, stride * (shape[1] - 1) + 3 * (jlong)shape[0], 1);
    part->image = image;
    return image->rgb != NULL;
}

/* texts[n]: null where the part is what buffers[n] and shapes[n][SHAPE] have. */
NATIVE(void, chatAddParts)(JNIEnv *env, jclass type, jlong handle, jobjectArray texts, jobjectArray buffers, jintArray shapes)
{
    (void)type;
    char **copies;
    size_t n;
    EG_STRUCT(eg_error, err);
    if (!read_texts(env, texts, &copies, &n)) return;
    eg_chat_part *parts = calloc(n + 1, sizeof *parts);
    eg_image *images = calloc(n + 1, sizeof *images);
    bool read = parts && images;
    if (!read) eg_jni_throw(env, EG_ERROR_MEMORY, "no memory for a message.");
    for (size_t i = 0; i < n && read; i++) {
        jint shape[SHAPE];
        parts[i].struct_size = sizeof *parts;
        parts[i].text = copies[i];
        if (copies[i]) continue;
        (*env)->GetIntArrayRegion(env, shapes, (jsize)(i * SHAPE), SHAPE, shape);
        jobject buffer = (*env)->ExceptionCheck(env) ? NULL : (*env)->GetObjectArrayElement(env, buffers, (jsize)i);
        read = !(*env)->ExceptionCheck(env) && read_part(env, buffer, shape, &images[i], &parts[i]);
    }
    if (read) eg_jni_failed(env, eg_chat_add_parts(from_handle(handle), parts, n, &err), &err);
    free(parts);
    free(images);
    free_texts(copies, n);
}

/* ---- history ----------------------------------------------------------------------------------------------------- */

NATIVE(jint, chatCount)(JNIEnv *env, jclass type, jlong handle)
{
    (void)env, (void)type;
    return (jint)eg_chat_count(from_handle(handle));
}

NATIVE(jbyteArray, chatGet)(JNIEnv *env, jclass type, jlong handle, jint index)
{
    (void)type;
    const char *json = index < 0 ? NULL : eg_chat_get(from_handle(handle), (size_t)index);
    return json ? eg_jni_bytes(env, json, strlen(json)) : NULL;
}

NATIVE(void, chatTruncate)(JNIEnv *env, jclass type, jlong handle, jint n)
{
    (void)type;
    EG_STRUCT(eg_error, err);
    eg_jni_failed(env, eg_chat_truncate(from_handle(handle), (size_t)n, &err), &err);
}

NATIVE(jbyteArray, chatPrompt)(JNIEnv *env, jclass type, jlong handle)
{
    (void)type;
    const char *text = NULL;
    size_t length = 0;
    EG_STRUCT(eg_error, err);
    if (eg_jni_failed(env, eg_chat_prompt(from_handle(handle), &text, &length, &err), &err)) return NULL;
    return eg_jni_bytes(env, text, length);
}

NATIVE(jintArray, chatTokens)(JNIEnv *env, jclass type, jlong handle)
{
    (void)type;
    const eg_session *session = eg_chat_session(from_handle(handle));
    const size_t n = eg_session_position(session);
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    if (!ids) {
        eg_jni_throw(env, EG_ERROR_MEMORY, "no memory for tokens.");
        return NULL;
    }
    eg_session_get_tokens(session, 0, ids, n);
    jintArray array = (*env)->NewIntArray(env, (jsize)n);
    if (array) (*env)->SetIntArrayRegion(env, array, 0, (jsize)n, (const jint *)ids);
    free(ids);
    return array;
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

NATIVE(void, chatBegin)(JNIEnv *env, jclass type, jlong handle)
{
    (void)type;
    EG_STRUCT(eg_error, err);
    eg_jni_failed(env, eg_chat_begin(from_handle(handle), &err), &err);
}

/* event[2], texts[4]: see eg_jni_put_event. */
NATIVE(void, chatNext)(JNIEnv *env, jclass type, jlong handle, jfloatArray sampling, jobject mask, jobject check, jint words,
                       jlongArray event, jobjectArray texts)
{
    (void)type;
    EG_STRUCT(eg_error, err);
    EG_STRUCT(eg_reply_event, e);
    eg_jni_sampling how;
    eg_chat *chat = from_handle(handle);
    if (!eg_jni_read_sampling(env, sampling, mask, check, words, chat, &how)) return;
    if (!eg_jni_failed(env, eg_chat_next(chat, how.use, &e, &err), &err)) eg_jni_put_event(env, &e, event, 0, texts);
}

/* Ends an answer, if one was begun, and uses up a request to cancel that came too late. */
NATIVE(void, chatAbandon)(JNIEnv *env, jclass type, jlong handle)
{
    (void)env, (void)type;
    EG_STRUCT(eg_reply_event, e);
    eg_chat *chat = from_handle(handle);
    eg_chat_cancel(chat);
    while (!eg_chat_next(chat, NULL, &e, NULL) && e.kind != EG_EVENT_DONE) continue;
    eg_session_feed_tokens(eg_chat_session(chat), NULL, 0, NULL); /* meets the request, where no answer was begun */
}
