/* What the files of the JNI library share: strings as UTF-8 bytes, exceptions, handles.
 *
 * Handles are pointers as jlong. They are not checked here: NativeHandle.kt lets no call in after close, and frees an object
 * when the last call has left it. Text crosses as byte arrays of UTF-8, never as JNI's modified UTF-8, which aborts the
 * process or changes the text where a character needs four bytes.
 */
#ifndef EDGE_GEMMA_JNI_COMMON_H
#define EDGE_GEMMA_JNI_COMMON_H

#include <edge_gemma_chat.h>
#include <jni.h>

/* A static method of org.edgegemma.Native. */
#define NATIVE(type, name) JNIEXPORT type JNICALL Java_org_edgegemma_Native_##name

/* Numbers of eg_sampling, in the order of Sampling.numbers in Options.kt. */
enum { SAMPLING_NUMBERS = 8 };

static inline void *from_handle(jlong handle) { return (void *)(intptr_t)handle; }
static inline jlong to_handle(const void *object) { return (jlong)(intptr_t)object; }

/* Throws an EdgeGemmaException with the code and the sentence, unless an exception is pending. */
void eg_jni_throw(JNIEnv *env, eg_status status, const char *sentence);

/* Throws what a call has returned; false if there was no error and no exception is pending. */
bool eg_jni_failed(JNIEnv *env, eg_status status, const eg_error *err);

/* Copies a byte array, which may be null, to a zero-terminated text, which the caller frees; NULL for null. False: thrown. */
bool eg_jni_text(JNIEnv *env, jbyteArray bytes, char **out);

/* bytes[length] as a byte array; NULL: thrown. */
jbyteArray eg_jni_bytes(JNIEnv *env, const char *bytes, size_t length);

/* Puts text[length] at an index of an array of byte arrays; a text of NULL becomes null. False: thrown. */
bool eg_jni_put(JNIEnv *env, jobjectArray array, jsize index, const char *text, size_t length);

/* The address of `count` elements from `first` on in a direct buffer. NULL: thrown; it is not direct, or too short. */
void *eg_jni_direct(JNIEnv *env, jobject buffer, jlong first, jlong count, size_t element);

/* How an answer is drawn, for the time of one call. */
typedef struct eg_jni_sampling {
    eg_sampling options;
    const eg_sampling *use; /* for the call: the options, or NULL for the library's defaults */
    JNIEnv *env;
    jobject check; /* a TokenCheck, or NULL */
    jmethodID method;
    jobject mask; /* what it has returned last, kept while the library reads it */
    jlong words; /* of such a mask: a bit for each token */
    eg_chat *chat; /* is cancelled when the check throws */
} eg_jni_sampling;

/* numbers: null, or SAMPLING_NUMBERS; mask: null, or a direct IntBuffer; check: null, or a TokenCheck; words: how many a mask
 * of the vocabulary has. False: thrown. The struct must not move. */
bool eg_jni_read_sampling(JNIEnv *env, jfloatArray numbers, jobject mask, jobject check, jint words, eg_chat *chat,
                          eg_jni_sampling *out);

/* Gives an event to arrays: numbers[0..1] kind and stop, texts[0..3] text, name, arguments, problem. False: thrown. */
bool eg_jni_put_event(JNIEnv *env, const eg_reply_event *event, jlongArray numbers, jsize first, jobjectArray texts);

#endif
