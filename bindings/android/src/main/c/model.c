/* org.edgegemma.Native: the library, and models. */
#include "common.h"

#include <stdlib.h>
#include <string.h>

NATIVE(jbyteArray, version)(JNIEnv *env, jclass type)
{
    (void)type;
    return eg_jni_bytes(env, eg_version(), strlen(eg_version()));
}

NATIVE(jbyteArray, isa)(JNIEnv *env, jclass type)
{
    (void)type;
    return eg_jni_bytes(env, eg_isa(), strlen(eg_isa()));
}

/* Lines of eg_model_params.log, one behind the other. */
typedef struct lines {
    char text[4096];
    size_t length;
} lines;

static void add_line(void *context, const char *line)
{
    lines *l = context;
    const size_t length = strlen(line);
    if (length + 1 >= sizeof l->text - l->length) return; /* there are few lines, and short ones */
    memcpy(l->text + l->length, line, length);
    l->length += length;
    l->text[l->length++] = '\n';
}

enum { FILES = 3 }; /* the model, its encoders, its sidecar */

/* paths[3]: of the model, the encoders and the sidecar; null: the descriptor, offset and length in places[3][3], if the
 * length is not 0 or it is the model's. flags[2]: no sidecar, no handler of SIGBUS. log[1] receives what was chosen. */
NATIVE(jlong, modelOpen)(JNIEnv *env, jclass type, jobjectArray paths, jlongArray places, jbooleanArray flags, jint threads,
                         jlong memory_limit, jobjectArray log)
{
    (void)type;
    char *path[FILES] = {0};
    jlong at[3 * FILES];
    jboolean flag[2] = {0};
    eg_model *model = NULL;
    lines told = {.length = 0};
    EG_STRUCT(eg_error, err);
    EG_STRUCT(eg_model_params, p);
    bool read = true;
    (*env)->GetLongArrayRegion(env, places, 0, 3 * FILES, at);
    if (!(*env)->ExceptionCheck(env)) (*env)->GetBooleanArrayRegion(env, flags, 0, 2, flag);
    for (jsize i = 0; i < FILES && read; i++) {
        if ((*env)->ExceptionCheck(env)) break;
        jbyteArray bytes = (*env)->GetObjectArrayElement(env, paths, i);
        read = !(*env)->ExceptionCheck(env) && eg_jni_text(env, bytes, &path[i]);
    }
    if (!(*env)->ExceptionCheck(env)) {
        p.path = path[0], p.fd = (int)at[0], p.offset = (uint64_t)at[1], p.length = (uint64_t)at[2];
        p.mmproj = path[1], p.mmproj_fd = (int)at[3], p.mmproj_offset = (uint64_t)at[4], p.mmproj_length = (uint64_t)at[5];
        p.sidecar = path[2], p.sidecar_fd = (int)at[6], p.sidecar_offset = (uint64_t)at[7], p.sidecar_length = (uint64_t)at[8];
        p.no_sidecar = flag[0], p.keep_sigbus = flag[1], p.threads = (uint32_t)threads, p.memory_limit = (uint64_t)memory_limit;
        p.log = add_line, p.log_context = &told;
        eg_jni_failed(env, eg_model_open(&p, &model, &err), &err);
    }
    for (int i = 0; i < FILES; i++) free(path[i]);
    if (model && !eg_jni_put(env, log, 0, told.text, told.length)) {
        eg_model_close(model);
        model = NULL;
    }
    return to_handle(model);
}

NATIVE(void, modelClose)(JNIEnv *env, jclass type, jlong handle)
{
    (void)env, (void)type;
    eg_model_close(from_handle(handle));
}

NATIVE(void, modelTrim)(JNIEnv *env, jclass type, jlong handle)
{
    (void)type;
    EG_STRUCT(eg_error, err);
    eg_jni_failed(env, eg_model_trim(from_handle(handle), &err), &err);
}

NATIVE(void, modelSetThreads)(JNIEnv *env, jclass type, jlong handle, jint threads)
{
    (void)type;
    EG_STRUCT(eg_error, err);
    eg_jni_failed(env, eg_model_set_threads(from_handle(handle), (uint32_t)threads, &err), &err);
}

/* numbers[12] in the order of Model.kt, name[1]. */
NATIVE(void, modelInfo)(JNIEnv *env, jclass type, jlong handle, jlongArray numbers, jobjectArray name)
{
    (void)type;
    EG_STRUCT(eg_error, err);
    EG_STRUCT(eg_model_info, i);
    if (eg_jni_failed(env, eg_model_get_info(from_handle(handle), &i, &err), &err)) return;
    const jlong values[] = {
        i.layers,  i.hidden_size,       i.vocab_size,          i.context_length,      i.experts, i.threads, i.audio, i.vision,
        i.sidecar, (jlong)i.parameters, (jlong)i.decode_bytes, (jlong)i.weight_budget};
    (*env)->SetLongArrayRegion(env, numbers, 0, sizeof values / sizeof *values, values);
    if (!(*env)->ExceptionCheck(env)) eg_jni_put(env, name, 0, i.name, strlen(i.name));
}

static void put_memory(JNIEnv *env, const eg_memory *m, jlongArray numbers)
{
    const jlong values[] = {(jlong)m->mapped, (jlong)m->resident, (jlong)m->tables,
                            (jlong)m->kv,     (jlong)m->scratch,  (jlong)m->workspace};
    (*env)->SetLongArrayRegion(env, numbers, 0, sizeof values / sizeof *values, values);
}

/* numbers[6] in the order of eg_memory. */
NATIVE(void, modelMemory)(JNIEnv *env, jclass type, jlong handle, jlongArray numbers)
{
    (void)type;
    EG_STRUCT(eg_error, err);
    EG_STRUCT(eg_memory, m);
    if (!eg_jni_failed(env, eg_model_get_memory(from_handle(handle), &m, &err), &err)) put_memory(env, &m, numbers);
}

/* What a session of a conversation would take: numbers[6]. */
NATIVE(void, modelEstimate)(JNIEnv *env, jclass type, jlong handle, jint context, jint kv, jlongArray numbers)
{
    (void)type;
    EG_STRUCT(eg_error, err);
    EG_STRUCT(eg_memory, m);
    EG_STRUCT(eg_session_params, p);
    p.context = (uint32_t)context, p.kv = (eg_kv_type)kv;
    if (!eg_jni_failed(env, eg_session_estimate(from_handle(handle), &p, &m, &err), &err)) put_memory(env, &m, numbers);
}

NATIVE(jint, imageTokens)(JNIEnv *env, jclass type, jlong handle, jint width, jint height, jint max_tokens)
{
    (void)type;
    EG_STRUCT(eg_error, err);
    size_t n = 0;
    eg_status status = eg_image_tokens(from_handle(handle), (uint32_t)width, (uint32_t)height, (uint32_t)max_tokens, &n, &err);
    eg_jni_failed(env, status, &err);
    return (jint)n;
}
