/* edge_gemma: Gemma 4 on the device, from GGUF files.
 *
 * C11 and C++; nothing but the C library is needed. edge_gemma_chat.h has what applications build on top of sessions.
 *
 *     eg_model *model;  eg_session *session;
 *     EG_STRUCT(eg_error, err);
 *     EG_STRUCT(eg_model_params, mp);  mp.path = "gemma-4-E2B-it-Q4_0.gguf";
 *     EG_STRUCT(eg_session_params, sp);  sp.context = 4096;
 *     if (eg_model_open(&mp, &model, &err) || eg_session_open(model, &sp, &session, &err)) return report(err.message);
 *     eg_session_feed_text(session, "<bos><|turn>user\nHello<turn|>\n<|turn>model\n", SIZE_MAX, EG_TEXT_SPECIAL, &err);
 *     EG_STRUCT(eg_token, token);
 *     while (!eg_session_next(session, NULL, &token, &err) && !token.stop)
 *         fwrite(token.text, 1, token.text_length, stdout);
 *     eg_session_close(session);  eg_model_close(model);
 *
 * Objects. Files, tokenizers and models are immutable once open and may be shared between threads. An eg_session is one
 * timeline (KV cache, position, sampler) and is used by one thread at a time; eg_session_cancel alone may be called from
 * another. Sessions and audio streams keep their model alive: they may be used and closed after eg_model_close.
 *
 * Closing while busy. Opening an object gives a reference, eg_session_retain and the like give another, every close takes one
 * away, and the last one frees. If one thread may close what another works with, the worker has a reference of its own, taken
 * before it begins. Then the first cancels and closes without waiting, and the memory is freed when the worker has closed too.
 *
 * Structs begin with struct_size, which the caller sets to sizeof the struct before every use, also for a struct that a
 * function fills. It lets an application and a library of different versions work together. Fields that an older
 * application does not know are zero for the library, and zero is the default of every field. A field that this version
 * does not know must be zero, or the call is refused (EG_ERROR_ARGUMENT). Results are written as far as the caller's
 * struct_size goes, and zeros where this version has nothing to say. A struct_size of 0 is refused.
 *
 * Errors. Every function that can fail returns an eg_status and writes a sentence to the caller's eg_error (which may be
 * NULL). Nothing exits, aborts or prints, whatever a file contains. Unless a function says otherwise, after a failure its
 * outputs are untouched and its objects are as they were before the call. EG_ERROR_ARGUMENT (a pointer that must be given
 * is NULL, a number is out of range) and EG_ERROR_MEMORY are possible everywhere and not repeated below.
 *
 * Matrices are row-major. Text is UTF-8; lengths are in bytes, and SIZE_MAX stands for strlen.
 */
#ifndef EDGE_GEMMA_H
#define EDGE_GEMMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "edge_gemma_platform.h"

#ifdef __cplusplus
extern "C" {
#endif
EG_NONNULL_BEGIN

/* ---- status and errors ------------------------------------------------------------------------------------------- */

typedef enum EG_ENUM eg_status {
    EG_OK EG_NAMED(ok) = 0,
    EG_ERROR_ARGUMENT EG_NAMED(argument) = 1,     /* a parameter is out of its range */
    EG_ERROR_FILE EG_NAMED(file) = 2,         /* the operating system could not open, map, read or write a file */
    EG_ERROR_FORMAT EG_NAMED(format) = 3, /* a file is damaged, foreign, or lacks something; the message says what */
    EG_ERROR_UNSUPPORTED EG_NAMED(unsupported) = 4, /* a well-formed file uses something this version does not know */
    EG_ERROR_MEMORY EG_NAMED(memory) = 5, /* out of memory */
    EG_ERROR_CONTEXT EG_NAMED(context) = 6, /* the session's context is full */
    EG_ERROR_STATE EG_NAMED(state) = 7, /* not possible now, such as asking for logits before anything was fed */
    EG_CANCELLED EG_NAMED(cancelled) = 8 /* eg_session_cancel, or the like of a stream or encoder, stopped the call */
} eg_status;

/* With a struct_size that has no room for a message (0, for one) nothing is written into it. */
typedef struct eg_error {
    uint32_t struct_size;
    eg_status status;
    char message[500];         /* zero-terminated UTF-8 sentence that says what is wrong and what to do */
} eg_error;

/* The version of this header, to compare with that of the library an application has loaded. */
#define EG_VERSION "0.1.0"
#define EG_VERSION_MAJOR 0
#define EG_VERSION_MINOR 1
#define EG_VERSION_PATCH 0

/* The version of the library as "major.minor.patch". Static; any thread. */
EG_API const char *eg_version(void);

/* The name of the chosen kernel set: "scalar", "avx2", "avxvnni", "avx512vnni", "neon_dotprod" or "neon_i8mm". Static; any
 * thread. */
EG_API const char *eg_isa(void);

/* ---- files ------------------------------------------------------------------------------------------------------- */

typedef struct eg_file eg_file;   /* an open, fully checked GGUF file, split or not */

/* Value types of GGUF metadata, by their number in the format. */
typedef enum EG_ENUM eg_gguf_type {
    EG_GGUF_U8 EG_NAMED(u8) = 0,
    EG_GGUF_I8 EG_NAMED(i8) = 1,
    EG_GGUF_U16 EG_NAMED(u16) = 2,
    EG_GGUF_I16 EG_NAMED(i16) = 3,
    EG_GGUF_U32 EG_NAMED(u32) = 4,
    EG_GGUF_I32 EG_NAMED(i32) = 5,
    EG_GGUF_F32 EG_NAMED(f32) = 6,
    EG_GGUF_BOOL EG_NAMED(bool) = 7,
    EG_GGUF_STRING EG_NAMED(string) = 8,
    EG_GGUF_ARRAY EG_NAMED(array) = 9,
    EG_GGUF_U64 EG_NAMED(u64) = 10,
    EG_GGUF_I64 EG_NAMED(i64) = 11,
    EG_GGUF_F64 EG_NAMED(f64) = 12
} eg_gguf_type;

/* Where a GGUF file is: at a path, or in an open file, such as an asset of an application. */
typedef struct eg_file_params {
    uint32_t struct_size;
    const char *EG_NULLABLE path; /* a GGUF file; the first of a split one */
    int fd;                    /* used when path is NULL: an open file descriptor (kept by the caller), */
    uint64_t offset, length;   /* and where in it the GGUF lies, at any byte; length 0: to the end of the file */
    bool guard;                /* eg_file_open only: a disk that fails does not end the process, see eg_file_check */
} eg_file_params;

typedef struct eg_file_metadata {
    uint32_t struct_size;
    uint32_t type;             /* EG_GGUF_... of the value, or of the elements of an array */
    const char *EG_NULLABLE key; /* not zero-terminated; valid while the file is open */
    size_t key_length;
    uint64_t count;            /* elements of an array; 1 for a scalar */
    bool is_array;
} eg_file_metadata;

typedef struct eg_file_tensor {
    uint32_t struct_size;
    uint32_t type;             /* GGML type number */
    const char *EG_NULLABLE name; /* not zero-terminated; valid while the file is open */
    size_t name_length;
    const char *EG_NULLABLE type_name; /* "Q4_0", static, also for types that cannot be read; NULL: unknown */
    uint64_t dims[4];          /* fastest first, as GGUF writes them; 1 beyond n_dims */
    const void *EG_NULLABLE data; /* in the mapping, valid while the file is open; NULL for an unknown type */
    uint64_t bytes;            /* 0 for an unknown type */
    uint32_t n_dims;
} eg_file_tensor;

/* Opens any GGUF file for inspection: versions 2 and 3; with a path, the further files of a split one are found beside the
 * first. The file stays mapped until eg_file_close; a descriptor is not needed after the call. Any thread.
 * EG_ERROR_FILE, EG_ERROR_FORMAT, EG_ERROR_UNSUPPORTED. */
EG_API eg_status eg_file_open(const eg_file_params *params, eg_file **out, eg_error *EG_NULLABLE err);

/* Frees the file and everything that it has handed out. NULL does nothing. */
EG_API void eg_file_close(eg_file *EG_NULLABLE file);

/* Number of metadata values. 0 for NULL. Any thread. */
EG_API uint64_t eg_file_metadata_count(const eg_file *file);

/* Number of tensors, those of all parts of a split file together. 0 for NULL. Any thread. */
EG_API uint64_t eg_file_tensor_count(const eg_file *file);

/* Bytes of the file, of a split one all parts together. 0 for NULL. Any thread. */
EG_API uint64_t eg_file_bytes(const eg_file *file);

/* What a sidecar of the file must have as its digest: a hash of the directory and of a few pages of the data. 0 for NULL. Any
 * thread. */
EG_API uint64_t eg_file_sidecar_digest(const eg_file *file);

/* EG_ERROR_FILE if data of a tensor could not be read, because the disk fails or the file was cut short. Without `guard` that
 * is a SIGBUS. With it the library handles the signal as eg_model_open describes: the page that failed, and all behind it, are
 * zeros from then on. So call this when data was read, and before it is used. The library itself notices by this call only. Any
 * thread. */
EG_API eg_status eg_file_check(const eg_file *file, eg_error *EG_NULLABLE err);

/* Describes the metadata value `index`, below eg_file_metadata_count. Any thread. */
EG_API eg_status eg_file_get_metadata(const eg_file *file, uint64_t index, eg_file_metadata *out, eg_error *EG_NULLABLE err);

/* Describes the tensor `index`, below eg_file_tensor_count. Any thread. */
EG_API eg_status eg_file_get_tensor(const eg_file *file, uint64_t index, eg_file_tensor *out, eg_error *EG_NULLABLE err);

/* Element `element` (0 for a scalar) of the metadata value `index`, as a number: exact for whole numbers below 2^53, and 0
 * or 1 for a bool. EG_ERROR_ARGUMENT for a string, EG_ERROR_UNSUPPORTED for an array of arrays. Any thread. */
EG_API eg_status eg_file_get_number(const eg_file *file, uint64_t index, uint64_t element, double *out,
                                    eg_error *EG_NULLABLE err);

/* Element `element` (0 for a scalar) of the metadata value `index`, a string: a pointer into the file, not zero-terminated,
 * valid while the file is open. EG_ERROR_ARGUMENT for a number, EG_ERROR_UNSUPPORTED for an array of arrays. Any thread. */
EG_API eg_status eg_file_get_string(const eg_file *file, uint64_t index, uint64_t element, const char **text, size_t *length,
                                    eg_error *EG_NULLABLE err);

/* ---- tokenizer --------------------------------------------------------------------------------------------------- */

typedef struct eg_tokenizer eg_tokenizer;   /* immutable; any thread */

typedef enum EG_FLAGS eg_text_flags {
    /* Encode: the texts of control tokens become these tokens. Decode: control tokens are written out, not skipped. */
    EG_TEXT_SPECIAL EG_NAMED(special) = 1,
    /* Encode: put <bos> first unless the text begins with it. */
    EG_TEXT_BOS EG_NAMED(bos) = 2
} eg_text_flags;

/* Opens a tokenizer alone, from any Gemma 4 GGUF file (a vocabulary-only one too). The file stays mapped until
 * eg_tokenizer_close; a descriptor is not needed after the call. Any thread.
 * EG_ERROR_FILE, EG_ERROR_FORMAT, EG_ERROR_UNSUPPORTED (another kind of vocabulary). */
EG_API eg_status eg_tokenizer_open(const eg_file_params *params, eg_tokenizer **out, eg_error *EG_NULLABLE err);

/* Frees a tokenizer from eg_tokenizer_open, never one of eg_model_tokenizer. NULL does nothing. */
EG_API void eg_tokenizer_close(eg_tokenizer *EG_NULLABLE tokenizer);

/* Number of tokens; ids are below it. Any thread. */
EG_API uint32_t eg_tokenizer_vocab_size(const eg_tokenizer *tokenizer);

/* Encodes text[length] into ids[capacity]; *n is the number of tokens, also when it exceeds the capacity, in which case
 * only the first `capacity` are written. Without EG_TEXT_SPECIAL no part of the text becomes a control or user-defined
 * token: the right way for text that came from outside. Invalid UTF-8 becomes byte tokens. Any thread.
 * EG_ERROR_UNSUPPORTED: EG_TEXT_BOS with a vocabulary that has no <bos>. */
EG_API eg_status eg_tokenizer_encode(const eg_tokenizer *tokenizer, const char *EG_NULLABLE text, size_t length, uint32_t flags,
                                     int32_t *EG_NULLABLE ids, size_t capacity, size_t *n, eg_error *EG_NULLABLE err);

/* Decodes ids[n] to bytes (they form UTF-8 if the tokens do; nothing is repaired). *length is the full length, also when it
 * exceeds the capacity, in which case only the first `capacity` bytes are written. EG_ERROR_ARGUMENT names an id outside
 * the vocabulary. Any thread. */
EG_API eg_status eg_tokenizer_decode(const eg_tokenizer *tokenizer, const int32_t *EG_NULLABLE ids, size_t n, uint32_t flags,
                                     char *EG_NULLABLE text, size_t capacity, size_t *length, eg_error *EG_NULLABLE err);

/* The bytes of all tokens, one behind the other, each as eg_tokenizer_decode writes it alone: token i has those from
 * offsets[i] up to offsets[i + 1] in bytes[capacity]. offsets[vocab_size + 1] may be NULL. *length is the full length, also
 * when it exceeds the capacity, in which case only the first `capacity` bytes are written; offsets are complete in any case.
 * Without EG_TEXT_SPECIAL control tokens have no bytes. For programs that look at the whole vocabulary, such as grammar
 * engines. Any thread. */
EG_API eg_status eg_tokenizer_get_pieces(const eg_tokenizer *tokenizer, uint32_t flags, uint8_t *EG_NULLABLE bytes,
                                         size_t capacity, uint64_t *EG_NULLABLE offsets, size_t *length,
                                         eg_error *EG_NULLABLE err);

/* The id of the token written exactly so, such as "<|turn>"; -1 if there is none. Any thread. */
EG_API int32_t eg_tokenizer_find(const eg_tokenizer *tokenizer, const char *text, size_t length);

/* The control and user-defined tokens, which EG_TEXT_SPECIAL finds in a text: writes the first `capacity` of their ids to
 * ids[capacity], in the order of their texts, and returns how many there are. Any thread. */
EG_API size_t eg_tokenizer_special_ids(const eg_tokenizer *tokenizer, int32_t *EG_NULLABLE ids, size_t capacity);

/* The id of the token that ends an answer as <eos> does; the file may name another token for that. -1 if there is none. Any
 * thread. */
EG_API int32_t eg_tokenizer_eos(const eg_tokenizer *tokenizer);

/* The file's Jinja chat template: a pointer that lives as long as the tokenizer, not zero-terminated; NULL if the file has
 * no template. *length (which may be NULL) is its length, 0 without one. Any thread. */
EG_API const char *EG_NULLABLE eg_tokenizer_chat_template(const eg_tokenizer *tokenizer, size_t *EG_NULLABLE length);

/* ---- chat turns -------------------------------------------------------------------------------------------------- */

typedef struct eg_chat_message {
    uint32_t struct_size;      /* the same in all messages of an array, which lie so many bytes apart */
    const char *EG_NULLABLE role; /* "system", "developer", "user", "assistant" or "model"; zero-terminated */
    const char *EG_NULLABLE content; /* zero-terminated UTF-8, trimmed when rendered */
} eg_chat_message;

typedef enum EG_FLAGS eg_chat_flags {
    EG_CHAT_GENERATION EG_NAMED(generation) = 1, /* end with the opening of the model's turn */
    EG_CHAT_THINKING EG_NAMED(thinking) = 2, /* ask for a thought before the answer */
    EG_CHAT_EMPTY_THOUGHT EG_NAMED(emptyThought) = 4 /* GENERATION without THINKING: as larger models expect */
} eg_chat_flags;

/* Writes messages[n] as plain turns in Gemma 4's format into text[capacity], zero-terminated when it fits; *length is the
 * full length without the zero. Thoughts are removed from model turns. Feed the result with EG_TEXT_SPECIAL; when contents
 * come from outside, feed the markers with it and the contents without. Keeps no pointer. Any thread. */
EG_API eg_status eg_chat_render(const eg_chat_message *EG_NULLABLE messages, size_t n, uint32_t flags, char *EG_NULLABLE text,
                                size_t capacity, size_t *length, eg_error *EG_NULLABLE err);

/* ---- model ------------------------------------------------------------------------------------------------------- */

typedef struct eg_model eg_model;

typedef struct eg_model_params {
    uint32_t struct_size;
    uint32_t threads;          /* 0: the fast cores that this process may use */
    const char *EG_NULLABLE path; /* a GGUF file; the first of a split one */
    int fd;                    /* used when path is NULL: an open file descriptor (kept by the caller), */
    uint64_t offset, length;   /* and where in it the GGUF lies; length 0: to the end of the file */
    const char *EG_NULLABLE mmproj; /* the file of the model's encoders; NULL: none, unless mmproj_length is given: */
    int mmproj_fd;             /* an open file descriptor (kept by the caller), */
    uint64_t mmproj_offset, mmproj_length;   /* and where in it that GGUF lies */
    /* A sidecar has a leaner version of the head, so that a token reads less; `edge-gemma prepare` makes it. With `path`,
     * X.lean.gguf beside X.gguf is used if it exists. */
    const char *EG_NULLABLE sidecar; /* another file; NULL: none, unless sidecar_length is given: */
    int sidecar_fd;            /* an open file descriptor (kept by the caller), */
    uint64_t sidecar_offset, sidecar_length;   /* and where in it that GGUF lies */
    bool no_sidecar;           /* opens the model as it is */
    uint64_t memory_limit;     /* bytes that the process is to stay within; 0: what the system gives it, see below */
    bool keep_sigbus;          /* the library installs no handler of SIGBUS, see below */
    /* Unless NULL: told, in eg_model_open only, what was chosen: kernels, threads, sidecar, memory; a line without its end. */
    void (*EG_NULLABLE log)(void *EG_NULLABLE log_context, const char *line);
    void *EG_NULLABLE log_context;
} eg_model_params;

typedef struct eg_model_info {
    uint32_t struct_size;
    uint32_t layers; /* num_hidden_layers */
    uint32_t kv_layers; /* layers that own K/V; the others read those of an earlier layer */
    uint32_t hidden_size, vocab_size, context_length;
    uint32_t heads; /* num_attention_heads */
    uint32_t sliding_window;
    uint32_t per_layer_input; /* hidden_size_per_layer_input; 0 when the model has none */
    uint32_t experts, experts_used;
    uint32_t threads;
    bool audio; /* it was opened with an audio encoder */
    uint64_t parameters; /* weights in the model's file */
    uint64_t decode_bytes; /* weight bytes read to decode one token */
    char name[128]; /* general.name, cut to fit */
    bool vision; /* it was opened with a vision encoder */
    bool sidecar; /* it was opened with a sidecar */
    uint64_t weight_budget; /* bytes of weights that are in memory at once, if they do not fit the memory limit; else 0 */
    uint64_t weight_least; /* the least that this can be, however small the limit; it may be exceeded then */
} eg_model_info;

typedef struct eg_memory {
    uint32_t struct_size;
    uint64_t mapped; /* bytes of the files in the address space: shared, clean, evictable */
    uint64_t resident; /* of these, in memory now; 0 where the system does not tell */
    uint64_t tables; /* heap of the model: tensor directory, tokenizer tables */
    uint64_t kv; /* KV cache of the session */
    uint64_t scratch; /* what a session holds beside it */
    uint64_t workspace; /* of the model: activations, one set for each call that runs at the same time */
} eg_memory;

/* Opens and checks a model, with its encoders if they are named, and with its sidecar if there is one. Weights stay in the
 * files' mappings: nothing is read, copied or repacked. Descriptors are not needed after the call. Any thread.
 *
 * Weights that are larger than memory. Memory is the least of memory_limit, the physical memory, and what the control groups of
 * the process allow (Linux). Where the weights do not fit, the model reads them with
 * threads of its own: experts as soon as the router has chosen them, and everything else a layer ahead. Those that are used most
 * stay in memory, within what the limit leaves. The results have the same bits. A model that fits is not touched by any of this.
 * Sessions that are opened later take their share from the weights. Below a least budget, two layers, or all but
 * the experts and a few of these, the limit is exceeded.
 *
 * A disk that fails. When a page of a mapped file cannot be read, because the disk fails or the file was cut short, POSIX systems
 * send SIGBUS, which ends the process. So while a model is open the library has a handler of SIGBUS. In the weights of its open
 * models the page that failed, and all behind it, become zeros; the call that computes, and every later one, returns
 * EG_ERROR_FILE, which names the file, and the model can only be closed. Every other SIGBUS goes to the handler that was there
 * before, or does what it would have done without one. An application that installs a handler after opening a model should hand
 * on what is not its own; else the default is back. The handler is removed when the last model is closed. With keep_sigbus in all
 * models the library never installs one; then only the threads that read for a model larger than memory notice a disk that fails.
 * EG_ERROR_FILE, EG_ERROR_FORMAT (also a sidecar of another file), EG_ERROR_UNSUPPORTED. */
EG_API eg_status eg_model_open(const eg_model_params *params, eg_model **out, eg_error *EG_NULLABLE err);

/* Gives the model up. Its threads stop, its files are unmapped, and it is freed, its tokenizer included, when its last reference,
 * session and stream has been closed: at once if there is none. NULL does nothing. */
EG_API void eg_model_close(eg_model *EG_NULLABLE model);

/* One more reference: one more eg_model_close. NULL does nothing. Any thread. */
EG_API void eg_model_retain(eg_model *EG_NULLABLE model);

/* The model's shape and name. Any thread. */
EG_API eg_status eg_model_get_info(const eg_model *model, eg_model_info *out, eg_error *EG_NULLABLE err);

/* The memory of the model alone: kv and scratch are 0, and workspace is what its sessions have needed so far. Reads a file of
 * the system, so not for inner loops. Any thread. */
EG_API eg_status eg_model_get_memory(const eg_model *model, eg_memory *out, eg_error *EG_NULLABLE err);

/* Gives back all memory of the model that can be read or made again: pages of the files, and the work spaces of decoder and
 * encoders that no call is using. The next call reads them again, and takes a work space (EG_ERROR_MEMORY is possible then). Where
 * the C library can, memory that was freed goes back to the system as well. For an application that goes to the background.
 * Results do not change. Any thread, also while calls are running: those keep their work space, and go on more slowly. */
EG_API eg_status eg_model_trim(eg_model *model, eg_error *EG_NULLABLE err);

/* From now on so many threads compute, at most as many as the model was opened with; 0: all of them. For a device that gets hot, and
 * for an application in the background. Results do not change. Any thread, also while calls are running. */
EG_API eg_status eg_model_set_threads(eg_model *model, uint32_t threads, eg_error *EG_NULLABLE err);

/* The model's tokenizer, which lives as long as the model; not to be closed. NULL for NULL. Any thread. */
EG_API const eg_tokenizer *eg_model_tokenizer(const eg_model *model);

/* ---- session ----------------------------------------------------------------------------------------------------- */

typedef struct eg_session eg_session;

typedef enum EG_ENUM eg_kv_type {
    EG_KV_F16 EG_NAMED(f16) = 0,
    EG_KV_F32 EG_NAMED(f32) = 1,
    EG_KV_Q8 EG_NAMED(q8) = 2
} eg_kv_type;

typedef struct eg_session_params {
    uint32_t struct_size;
    uint32_t context; /* tokens; 0: 4096 or the model's context length if that is shorter */
    eg_kv_type kv;
    uint32_t picture; /* most tokens of a picture, where a picture's tokens see each other (models without per-layer
                                  embeddings): the KV cache has room for them; 0: 1120, as many as there can be */
} eg_session_params;

typedef struct eg_logit_bias {
    int32_t id;
    float bias; /* -INFINITY: never */
} eg_logit_bias;

/* How a token is drawn. All zero is greedy decoding; eg_sampling_default fills in what Gemma is recommended with. The
 * order: biases, suppressed ids and mask, penalties, temperature, top_k, top_p, min_p. */
typedef struct eg_sampling {
    uint32_t struct_size;
    float temperature; /* 0: greedy, the most likely token; then top_k, top_p and min_p have no effect */
    uint32_t top_k; /* only the so many likeliest tokens; 0: off */
    float top_p; /* only the likeliest tokens that reach this probability together; 0 and 1: off */
    float min_p; /* only tokens of at least this probability, relative to the likeliest; 0: off */
    float repetition_penalty; /* positive logits of recent tokens are divided by it, negative multiplied; 0 and 1: off */
    float presence_penalty; /* subtracted from the logits of recent tokens; 0: off */
    float frequency_penalty; /* subtracted for each time that a recent token occurred; 0: off */
    uint32_t penalty_window; /* how many last tokens count as recent; 0: 64 */
    uint32_t text_flags; /* EG_TEXT_SPECIAL: token.text shows control tokens */
    const eg_logit_bias *EG_NULLABLE biases; /* [n_biases], added to the logits; read during the call only */
    size_t n_biases;
    const int32_t *EG_NULLABLE suppress; /* [n_suppress] ids never drawn; the file's own list is always obeyed */
    size_t n_suppress;
    const uint32_t *EG_NULLABLE mask; /* [n_mask] a bit for each token, from the lowest bit of the first word on; only */
    size_t n_mask; /* tokens whose bit is 1 are drawn: vocab_size / 32 words, rounded up. NULL: all; not kept */
    bool logprobs; /* the token comes with its log-probability, */
    uint32_t top_logprobs; /* and, with `logprobs`, those of so many likeliest tokens, at most EG_TOP_LOGPROBS */
    /* A grammar, which need not make a mask for every token: it is asked about the token that was drawn. NULL: the token may
     * stand here. Else a mask like the one above, with which the token is drawn anew; it must stay valid until the call ends,
     * or until check_token is called again. Greedy decoding thus takes the best token that is allowed, and at a temperature the
     * probabilities are those of the allowed tokens. It is called on the thread of the call, once for each token drawn, and
     * must not use the session. NULL: none. eg_session_verify refuses it. */
    const uint32_t *(*EG_NULLABLE check_token)(void *EG_NULLABLE check_context, int32_t id);
    void *EG_NULLABLE check_context;
} eg_sampling;

enum { EG_TOP_LOGPROBS = 64 };

/* The natural logarithm of a token's probability, by the logits of the model alone, without what eg_sampling changes. */
typedef struct eg_logprob {
    int32_t id;
    float logprob;
} eg_logprob;

typedef enum EG_ENUM eg_stop {
    EG_STOP_NONE EG_NAMED(none) = 0,
    EG_STOP_EOS EG_NAMED(eos) = 1, /* <eos> */
    EG_STOP_TURN EG_NAMED(turn) = 2, /* <turn|> */
    EG_STOP_TOOL_RESPONSE EG_NAMED(toolResponse) = 3 /* <|tool_response> */
} eg_stop;

enum { EG_TOKEN_TEXT_MAX = 3096 }; /* no token adds more bytes */

typedef struct eg_token {
    uint32_t struct_size;
    int32_t id;
    eg_stop stop; /* why the answer ends with this token, which then has no text of its own */
    /* What this token adds, whole UTF-8 characters only, not zero-terminated; it may be empty while a character is
     * incomplete. Owned by the session, valid until its next call. */
    const char *EG_NULLABLE text;
    size_t text_length;
    float logprob; /* with eg_sampling.logprobs; else 0 */
    const eg_logprob *EG_NULLABLE top_logprobs; /* [n_top_logprobs] the best first; valid as `text` is */
    size_t n_top_logprobs;
} eg_token;

typedef struct eg_stats {
    uint32_t struct_size;
    uint64_t prefill_tokens, decode_tokens; /* tokens fed by the caller; tokens drawn by eg_session_next */
    double prefill_seconds, decode_seconds; /* wall time spent in them */
    uint64_t audio_tokens; /* soft tokens that the audio encoder made; they count as prefilled too */
    double audio_seconds; /* wall time spent in it */
    uint64_t image_tokens; /* soft tokens that the vision encoder made; they count as prefilled too */
    double image_seconds; /* wall time spent in it */
    /* Of a model larger than memory; else 0. A batch counts in all of its sessions. */
    uint64_t expert_hits, expert_misses; /* experts of a layer that were in memory when a block chose them, and that were not */
    uint64_t weight_bytes; /* bytes of weights that were read from the disk, or from the system's page cache */
} eg_stats;

/* Fills what Gemma 4 is recommended with: temperature 1, top_k 64, top_p 0.95; all else off, the window 64. The caller sets
 * struct_size before; without it nothing is written. Any thread. */
EG_API void eg_sampling_default(eg_sampling *EG_NULLABLE sampling);

/* What a session would take, before it is opened: fills kv and scratch, and workspace with what one call at a time needs; the
 * rest is 0. Any thread. */
EG_API eg_status eg_session_estimate(const eg_model *model, const eg_session_params *params, eg_memory *out,
                                     eg_error *EG_NULLABLE err);

/* Opens a session at position 0. All of its memory is taken here, and the model's first work space. Evaluating and decoding
 * allocate nothing after that, unless calls on several sessions run at the same time: each of these takes a work space of its
 * own, which the model keeps. Any thread, also while other sessions of the model are used. */
EG_API eg_status eg_session_open(eg_model *model, const eg_session_params *params, eg_session **out, eg_error *EG_NULLABLE err);

/* Takes a reference away; the last one frees the session, also with audio open. No call of this reference's owner may be running.
 * NULL does nothing. Any thread. */
EG_API void eg_session_close(eg_session *EG_NULLABLE session);

/* One more reference, for a thread whose calls must outlast a close: one more eg_session_close. NULL does nothing. Any thread. */
EG_API void eg_session_retain(eg_session *EG_NULLABLE session);

/* Appends ids[n] to the timeline. Only the layers that write K/V are run; the others wait until logits are wanted, and then
 * run for the last position alone. EG_ERROR_CONTEXT: nothing was added. EG_ERROR_STATE: audio is open.
 * EG_CANCELLED: eg_session_position tells how many tokens were kept. */
EG_API eg_status eg_session_feed_tokens(eg_session *session, const int32_t *EG_NULLABLE ids, size_t n,
                                        eg_error *EG_NULLABLE err);

/* Appends text[length], encoded with `flags` as by eg_tokenizer_encode. Failures are as in eg_session_feed_tokens. */
EG_API eg_status eg_session_feed_text(eg_session *session, const char *EG_NULLABLE text, size_t length, uint32_t flags,
                                      eg_error *EG_NULLABLE err);

typedef enum EG_FLAGS eg_embeddings_flags {
    /* They are the tokens of one picture. Models without per-layer embeddings (26B-A4B, 31B) let these see each other, in the
     * layers with a sliding window; for other models the flag changes nothing. */
    EG_EMBEDDINGS_PICTURE EG_NAMED(picture) = 1
} eg_embeddings_flags;

/* Appends soft tokens: rows embeddings[n, hidden_size] made by an encoder. Failures are as in eg_session_feed_tokens.
 * EG_ERROR_ARGUMENT: more tokens of a picture than eg_session_params.picture. */
EG_API eg_status eg_session_feed_embeddings(eg_session *session, const float *EG_NULLABLE embeddings, size_t n, uint32_t flags,
                                            eg_error *EG_NULLABLE err);

/* Appends ids[n] and computes every position in full: logits[n, vocab_size] and, unless NULL,
 * hidden[layers + 1, n, hidden_size]: the scaled embeddings, then the output of each layer, the last one after the
 * final norm. Either pointer may be NULL. Failures are as in eg_session_feed_tokens; after EG_CANCELLED logits and hidden
 * are filled in part. */
EG_API eg_status eg_session_forward(eg_session *session, const int32_t *EG_NULLABLE ids, size_t n, float *EG_NULLABLE logits,
                                    float *EG_NULLABLE hidden, eg_error *EG_NULLABLE err);

/* The logits[vocab_size] that follow the last token. EG_ERROR_STATE: nothing was fed yet, or the last token is soft and was
 * rewound to. EG_CANCELLED: the timeline is unchanged. */
EG_API eg_status eg_session_logits(eg_session *session, float *logits, eg_error *EG_NULLABLE err);

/* Draws one token, appends it, and tells its text. sampling NULL: what eg_sampling_default fills in. After a token with
 * `stop`, feed the next turn and go on. EG_ERROR_CONTEXT: there is no room for the token. EG_ERROR_STATE: as in
 * eg_session_logits, or audio is open, or every token is suppressed or masked. After a failure, EG_CANCELLED included, nothing
 * was drawn. */
EG_API eg_status eg_session_next(eg_session *session, const eg_sampling *EG_NULLABLE sampling, eg_token *out,
                                 eg_error *EG_NULLABLE err);

/* Checks a draft, a guess at the next tokens: ids[n]. Keeps its beginning as far as eg_session_next with these options would have
 * drawn the same tokens, and appends that; *kept (unless NULL) is their number. The session is then as if they had been drawn,
 * random sequence and text included, and eg_session_next goes on with the first token that differs. Several tokens are
 * evaluated in one pass, which takes little longer than one token. logprobs[n], unless NULL, receives the log-probabilities of
 * the kept ones. What does not fit the context is not checked. Failures are as in eg_session_next, but after EG_CANCELLED
 * *kept tokens were appended. EG_ERROR_ARGUMENT: there is a check_token, which could not follow a draft. */
EG_API eg_status eg_session_verify(eg_session *session, const int32_t *EG_NULLABLE ids, size_t n,
                                   const eg_sampling *EG_NULLABLE sampling, float *EG_NULLABLE logprobs,
                                   size_t *EG_NULLABLE kept, eg_error *EG_NULLABLE err);

/* Makes the timeline equal to ids[n] with the least work: goes back to where they differ, and feeds the rest. In ids, -1 stands
 * for a soft token that the timeline has at this place. *kept (unless NULL) is the number of tokens that need not be evaluated
 * again. EG_ERROR_ARGUMENT: a soft token would have to be fed. EG_ERROR_STATE: as in eg_session_rewind_to.
 * EG_ERROR_CONTEXT: n is more than the context. Nothing changes in these cases. EG_CANCELLED: as in eg_session_feed_tokens. */
EG_API eg_status eg_session_sync(eg_session *session, const int32_t *EG_NULLABLE ids, size_t n, size_t *EG_NULLABLE kept,
                                 eg_error *EG_NULLABLE err);

/* Who goes first when calls on several sessions of a model run at the same time: the higher priority; those of the same
 * priority share the threads evenly, some milliseconds at a time. 0 for a new session; a fork has that of its original.
 * EG_ERROR_ARGUMENT: it is not within -1000 and 1000. Between calls of the session. */
EG_API eg_status eg_session_set_priority(eg_session *session, int32_t priority, eg_error *EG_NULLABLE err);

/* Starts the random sequence anew; the same seed, tokens and options give the same text on every machine. A new session
 * has a seed of its own from the system's clock. */
EG_API void eg_session_seed(eg_session *session, uint64_t seed);

/* One session's part in eg_batch_run. */
typedef struct eg_batch_item {
    uint32_t struct_size; /* the same in all items of an array, which lie so many bytes apart */
    eg_session *EG_NULLABLE session;
    const int32_t *EG_NULLABLE ids; /* [n] appended first: a piece of a prompt, for one. NULL with n = 0: none */
    size_t n;
    bool draw; /* then draws a token */
    const eg_sampling *EG_NULLABLE sampling; /* how; NULL: what eg_sampling_default fills in */
    eg_token *EG_NULLABLE token; /* receives it, with its struct_size set; with `draw` only */
    bool cancelled; /* set: this session was cancelled */
} eg_batch_item;

/* Works for several sessions of one model in one pass through the weights. Where memory is the limit that takes little longer
 * than for one: each session's waiting tokens and ids are evaluated, and a token is drawn where `draw` says so. The results
 * have the same bits as eg_session_feed_tokens and eg_session_next on each session alone. A pass has 128 rows, shared by all;
 * what is more takes further passes, and the call returns after the last. n is at most 128. One thread uses these sessions at
 * a time. EG_ERROR_ARGUMENT: the same session twice, or sessions of different models. EG_ERROR_CONTEXT, EG_ERROR_STATE: as in
 * eg_session_next; the sentence tells which item. EG_CANCELLED: some session was cancelled, which its item tells; call again
 * without it. After a failure nothing was drawn in any session. Nothing was appended either, but for what was evaluated before
 * EG_CANCELLED, or before no token could be drawn (EG_ERROR_STATE): then the positions tell what was kept. */
EG_API eg_status eg_batch_run(eg_batch_item *items, size_t n, eg_error *EG_NULLABLE err);

/* One token each for sessions[n]: eg_batch_run without ids. sampling[n], or NULL for the defaults; an element may be NULL too.
 * tokens[n]: struct_size is set in each, and they lie that far apart. */
EG_API eg_status eg_batch_next(eg_session *const *sessions, size_t n, const eg_sampling *const *EG_NULLABLE sampling,
                               eg_token *tokens, eg_error *EG_NULLABLE err);

/* Number of tokens in the timeline; 0 for NULL. */
EG_API size_t eg_session_position(const eg_session *session);

/* Number of tokens that the timeline has room for; 0 for NULL. */
EG_API size_t eg_session_context(const eg_session *session);

/* Copies the ids of the timeline from position `first` on, at most n, into ids[n]; soft tokens are -1. Returns how many were
 * written. */
EG_API size_t eg_session_get_tokens(const eg_session *session, size_t first, int32_t *EG_NULLABLE ids, size_t n);

/* Goes back to `position`, at most eg_session_position, which then is the number of tokens. Going back further than the
 * sliding windows remember evaluates the kept tokens again with the next call, which takes the time of a prefill and is
 * impossible over soft tokens. EG_ERROR_STATE: for that reason, or audio is open (end or abort it before); nothing
 * changes. */
EG_API eg_status eg_session_rewind_to(eg_session *session, size_t position, eg_error *EG_NULLABLE err);

/* A second session with the same timeline, independent from now on; close it as well. It costs a copy of the KV cache in
 * use (20 MB for 2,000 tokens of E2B), and has a copy of audio that is open. The thread that uses `session` calls it. */
EG_API eg_status eg_session_fork(const eg_session *session, eg_session **out, eg_error *EG_NULLABLE err);

/* Writes the timeline to a file: beside it first, then renamed, so that a failure leaves an older file as it was. The file
 * is the same on every machine. EG_ERROR_FILE. EG_ERROR_STATE: audio is open. EG_CANCELLED: the end of a recording, which
 * still waited to be evaluated, was not; nothing was written. */
EG_API eg_status eg_session_save(eg_session *session, const char *path, eg_error *EG_NULLABLE err);

/* Opens a session from a file of eg_session_save; it goes on exactly as the saved one would have. `context` 0: as saved.
 * EG_ERROR_FORMAT: saved with another model, or damaged. EG_ERROR_UNSUPPORTED: another version of the format.
 * EG_ERROR_CONTEXT: more tokens than `context`. Any thread. */
EG_API eg_status eg_session_restore(eg_model *model, const char *path, uint32_t context, eg_session **out,
                                    eg_error *EG_NULLABLE err);

/* Writes the same to bytes[capacity]. *size is the number of bytes, also when it exceeds the capacity; then nothing is written. So
 * capacity 0 asks for the size. Failures are as in eg_session_save, without EG_ERROR_FILE. */
EG_API eg_status eg_session_save_to_memory(eg_session *session, void *EG_NULLABLE bytes, size_t capacity, size_t *size,
                                           eg_error *EG_NULLABLE err);

/* Opens a session from bytes[size], which are read during the call only. Failures are as in eg_session_restore. */
EG_API eg_status eg_session_restore_from_memory(eg_model *model, const void *bytes, size_t size, uint32_t context,
                                                eg_session **out, eg_error *EG_NULLABLE err);

/* Writes the same bytes through a descriptor, which may be a pipe, from where it is. It stays the caller's. Failures are as in
 * eg_session_save; after EG_ERROR_FILE a part may have been written. */
EG_API eg_status eg_session_save_to_fd(eg_session *session, int fd, eg_error *EG_NULLABLE err);

/* Opens a session from a file that is open, such as an asset of an application: `length` bytes from `offset` on; length 0: to the
 * end of the file. The descriptor stays the caller's, and its position moves. Failures are as in eg_session_restore. */
EG_API eg_status eg_session_restore_from_fd(eg_model *model, int fd, uint64_t offset, uint64_t length, uint32_t context,
                                            eg_session **out, eg_error *EG_NULLABLE err);

/* Makes a call that computes return EG_CANCELLED: the one that runs now, within one layer, or, when none runs or it is too
 * late for that one, the next. The call that returns EG_CANCELLED uses the request up. Calls that compute are those that
 * feed (also of nothing), eg_session_forward, eg_session_logits, eg_session_next, and eg_session_audio_begin, _push and
 * _end. No other call uses a request up but an eg_session_save that must evaluate. So to drop a request that came too
 * late, feed no tokens: eg_session_feed_tokens(session, NULL, 0, NULL). From any thread, also a signal handler. */
EG_API void eg_session_cancel(eg_session *EG_NULLABLE session);

/* Counters since the session was opened; a fork begins at 0. Between calls only. */
EG_API eg_status eg_session_get_stats(const eg_session *session, eg_stats *out, eg_error *EG_NULLABLE err);

/* The memory of the model and of this session together. Between calls only. */
EG_API eg_status eg_session_get_memory(const eg_session *session, eg_memory *out, eg_error *EG_NULLABLE err);

/* ---- audio ------------------------------------------------------------------------------------------------------- */

/* Sound is 16 kHz mono, float, in [-1, 1]. The encoder makes a soft token of every 40 ms and is causal, so it can run, and the
 * decoder with it, while somebody speaks:
 *
 *     eg_session_feed_text(session, "<|turn>user\nTranscribe this:", SIZE_MAX, EG_TEXT_SPECIAL, &err);
 *     eg_session_audio_begin(session, NULL, &err);
 *     while (speaking) eg_session_audio_push(session, samples, n, &err);
 *     eg_session_audio_end(session, &err);
 *     eg_session_feed_text(session, "<turn|>\n<|turn>model\n", SIZE_MAX, EG_TEXT_SPECIAL, &err);
 *
 * Pieces may have any length, and the result does not depend on it. The model was trained on recordings of up to 30 s (750
 * tokens). */
typedef struct eg_audio_params {
    uint32_t struct_size;
    uint32_t left_context; /* tokens that a token of the encoder sees, itself included: 12 (and 0 means 12) or 13 */
    bool no_markers; /* of a session: without <|audio> before and <audio|> behind it */
} eg_audio_params;

/* Soft tokens of a recording of so many samples. Encoders (E2B, E4B; also for a model that is NULL or hears nothing):
 * ceil(floor((samples - 1) / 160) / 4), none below 161. The 12B: ceil(samples / 640). Any thread. */
EG_API size_t eg_audio_token_count(const eg_model *EG_NULLABLE model, size_t samples);

/* Begins audio in the timeline; params NULL: all defaults. Until its end nothing else can be fed or drawn, nor can the session
 * be rewound or saved (EG_ERROR_STATE); reading logits and positions is fine, and a fork has a copy of the audio in
 * progress. The first begin of a session takes memory for the state of the encoder, 2 MB.
 * EG_ERROR_UNSUPPORTED: the model has no audio encoder. EG_ERROR_STATE: audio is open already. EG_ERROR_CONTEXT: there is no
 * room for audio. EG_CANCELLED: no audio was begun; the position tells what was kept. */
EG_API eg_status eg_session_audio_begin(eg_session *session, const eg_audio_params *EG_NULLABLE params,
                                        eg_error *EG_NULLABLE err);

/* Adds samples[n] to the open audio. Samples gather (160 to 480 ms, by the speed of the machine) before they are encoded and
 * prefilled together. Allocates nothing. EG_ERROR_STATE: no audio is open. EG_ERROR_ARGUMENT (a sample that is not finite)
 * and EG_ERROR_CONTEXT: these samples were not taken, and more may be pushed or the audio ended. EG_CANCELLED: the audio is
 * over, without end marker, and the position tells what was kept. */
EG_API eg_status eg_session_audio_push(eg_session *session, const float *EG_NULLABLE samples, size_t n,
                                       eg_error *EG_NULLABLE err);

/* Completes the open audio: encodes the last samples and appends the end marker; both are prefilled with what is fed next.
 * EG_ERROR_STATE: no audio is open. EG_ERROR_ARGUMENT: there were too few samples for a token; the audio is over, and the timeline
 * is as before begin. EG_CANCELLED: as in eg_session_audio_push. */
EG_API eg_status eg_session_audio_end(eg_session *session, eg_error *EG_NULLABLE err);

/* Drops the open audio: the timeline goes back to where it was before begin. The audio is over in every case.
 * EG_ERROR_STATE: no audio is open; or the timeline cannot go back so far (see eg_session_rewind_to), and then what was
 * prefilled stays in it, without end marker. */
EG_API eg_status eg_session_audio_abort(eg_session *session, eg_error *EG_NULLABLE err);

/* Whether audio was begun and is neither ended nor aborted. False for NULL. */
EG_API bool eg_session_audio_is_open(const eg_session *session);

/* A whole recording samples[n] at once: begin, push and end. After EG_ERROR_ARGUMENT and EG_ERROR_CONTEXT nothing was added;
 * other failures are as in these three. */
EG_API eg_status eg_session_feed_audio(eg_session *session, const float *samples, size_t n,
                                       const eg_audio_params *EG_NULLABLE params, eg_error *EG_NULLABLE err);

/* The encoder alone: a stream takes samples and gives soft tokens, each as soon as it is final. It is used by one thread at a
 * time; eg_audio_stream_cancel alone may be called from another. */
typedef struct eg_audio_stream eg_audio_stream;

/* Opens a stream; params NULL: all defaults. All memory is taken here, and the stream may run without end. Close it before its
 * model. Any thread. EG_ERROR_UNSUPPORTED: the model has no audio encoder. */
EG_API eg_status eg_audio_stream_open(eg_model *model, const eg_audio_params *EG_NULLABLE params, eg_audio_stream **out,
                                      eg_error *EG_NULLABLE err);

/* Takes a reference away; the last one frees the stream. No call of this reference's owner may be running. NULL does nothing. Any
 * thread. */
EG_API void eg_audio_stream_close(eg_audio_stream *EG_NULLABLE stream);

/* One more reference: one more eg_audio_stream_close. NULL does nothing. Any thread. */
EG_API void eg_audio_stream_retain(eg_audio_stream *EG_NULLABLE stream);

/* How many tokens a push of n more samples will give. */
EG_API size_t eg_audio_stream_token_count(const eg_audio_stream *stream, size_t n);

/* Takes samples[n] and writes the tokens that are final now, embeddings[*written, hidden_size], ready for
 * eg_session_feed_embeddings. EG_ERROR_ARGUMENT: they do not fit embeddings[capacity, hidden_size], or a sample is not
 * finite; nothing was taken. EG_CANCELLED: the recording is lost, and every call returns EG_ERROR_STATE until
 * eg_audio_stream_reset. */
EG_API eg_status eg_audio_stream_push(eg_audio_stream *stream, const float *EG_NULLABLE samples, size_t n,
                                      float *EG_NULLABLE embeddings, size_t capacity, size_t *written,
                                      eg_error *EG_NULLABLE err);

/* Ends the recording and writes what is left of it, one token at most; the stream is then ready for another recording.
 * Failures are as in eg_audio_stream_push. */
EG_API eg_status eg_audio_stream_finish(eg_audio_stream *stream, float *EG_NULLABLE embeddings, size_t capacity,
                                        size_t *written, eg_error *EG_NULLABLE err);

/* Forgets the recording and begins another. A request to cancel stays. */
EG_API void eg_audio_stream_reset(eg_audio_stream *stream);

/* Makes a push or finish return EG_CANCELLED: the one that runs now, within one layer, or else the next one, which uses the
 * request up. From any thread, also a signal handler. */
EG_API void eg_audio_stream_cancel(eg_audio_stream *EG_NULLABLE stream);

/* ---- pictures ---------------------------------------------------------------------------------------------------- */

/* A picture becomes soft tokens, one for every 48 x 48 pixels after it was resized to fit a budget. The resizing is that of the
 * model's own training: the ratio of the sides is kept but for rounding to whole tokens, and smaller pictures are enlarged.
 *
 *     EG_STRUCT(eg_image, image);  image.rgb = pixels;  image.width = 640;  image.height = 480;
 *     eg_session_feed_text(session, "<|turn>user\n", SIZE_MAX, EG_TEXT_SPECIAL, &err);
 *     eg_session_feed_image(session, &image, &err);
 *     eg_session_feed_text(session, "What is this?<turn|>\n<|turn>model\n", SIZE_MAX, EG_TEXT_SPECIAL, &err);
 *
 * A picture that is fed again is encoded again: an application that shows the same one several times keeps the tokens of
 * eg_image_encoder_run and feeds them with eg_session_feed_embeddings. */
enum { EG_IMAGE_TOKENS = 280, EG_FRAME_TOKENS = 70 }; /* the budgets that the model was made for: pictures, and frames */

typedef struct eg_image {
    uint32_t struct_size;
    uint32_t width, height; /* pixels: 1 to 1,048,576 */
    const uint8_t *EG_NULLABLE rgb; /* the rows from the top, three bytes a pixel, sRGB; read during the call only */
    size_t stride; /* bytes from a row to the next; 0: 3 * width */
    uint32_t max_tokens; /* budget: 70, 140, 280, 560 or 1120; 0: EG_IMAGE_TOKENS, or EG_FRAME_TOKENS for a frame */
    bool no_markers; /* of a session: without <|image> before and <image|> behind it */
    /* Unless NULL: called while the picture is encoded, on the thread of the call; done grows up to total. It must not call
     * functions of the same session or encoder but their cancel. */
    void (*EG_NULLABLE progress)(void *EG_NULLABLE context, uint32_t done, uint32_t total);
    void *EG_NULLABLE progress_context;
} eg_image;

/* *n: soft tokens of a picture of this size, at most max_tokens (as in eg_image; 0: EG_IMAGE_TOKENS). Markers are not counted.
 * EG_ERROR_UNSUPPORTED: the model has no vision encoder. EG_ERROR_ARGUMENT: also a picture so long that, resized, it leaves the
 * encoder's table of positions. Any thread. */
EG_API eg_status eg_image_tokens(const eg_model *model, uint32_t width, uint32_t height, uint32_t max_tokens, size_t *n,
                                 eg_error *EG_NULLABLE err);

/* Appends a picture: begin marker, soft tokens, end marker, which is prefilled with what is fed next. Memory for the encoder (30
 * to 130 MB, by the budget and the model) is taken for the time of the call. Failures: those of eg_image_tokens, and
 * EG_ERROR_CONTEXT and EG_ERROR_STATE as in eg_session_feed_tokens; then nothing was added. EG_ERROR_ARGUMENT: also more tokens
 * than eg_session_params.picture. EG_CANCELLED: nothing was added, or, when the picture was encoded already, the position tells
 * what was kept. */
EG_API eg_status eg_session_feed_image(eg_session *session, const eg_image *image, eg_error *EG_NULLABLE err);

/* Appends a frame of a video: its time as MM:SS, a space, and the picture. `seconds` is its time, from 0 on; with `follows` a
 * space comes first, as it separates a frame from the one before. Failures are as in eg_session_feed_image. */
EG_API eg_status eg_session_feed_frame(eg_session *session, const eg_image *frame, double seconds, bool follows,
                                       eg_error *EG_NULLABLE err);

/* The encoder alone. It is used by one thread at a time; eg_image_encoder_cancel alone may be called from another. */
typedef struct eg_image_encoder eg_image_encoder;

/* Opens an encoder, which takes little memory until it is used. Any thread. EG_ERROR_UNSUPPORTED: the model has no vision
 * encoder. */
EG_API eg_status eg_image_encoder_open(eg_model *model, eg_image_encoder **out, eg_error *EG_NULLABLE err);

/* Takes a reference away; the last one frees the encoder. No call of this reference's owner may be running. NULL does nothing. Any
 * thread. */
EG_API void eg_image_encoder_close(eg_image_encoder *EG_NULLABLE encoder);

/* One more reference: one more eg_image_encoder_close. NULL does nothing. Any thread. */
EG_API void eg_image_encoder_retain(eg_image_encoder *EG_NULLABLE encoder);

/* Encodes a picture to embeddings[*written, hidden_size], ready for eg_session_feed_embeddings with EG_EMBEDDINGS_PICTURE.
 * EG_ERROR_ARGUMENT: also if they do not fit embeddings[capacity, hidden_size]; eg_image_tokens tells how many there are.
 * EG_CANCELLED: embeddings are undefined. */
EG_API eg_status eg_image_encoder_run(eg_image_encoder *encoder, const eg_image *image, float *embeddings, size_t capacity,
                                      size_t *written, eg_error *EG_NULLABLE err);

/* Makes eg_image_encoder_run return EG_CANCELLED: the one that runs now, within one layer, or else the next one, which uses the
 * request up. From any thread, also a signal handler. */
EG_API void eg_image_encoder_cancel(eg_image_encoder *EG_NULLABLE encoder);

EG_NONNULL_END
#ifdef __cplusplus
}
#endif
#endif
