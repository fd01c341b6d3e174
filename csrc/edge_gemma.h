/* edge_gemma: Gemma 4 on the device, from GGUF files.
 *
 * The one installed header. C11 and C++; nothing but the C library is needed.
 *
 *     eg_error err;
 *     eg_model *model;  eg_session *session;
 *     eg_model_params mp = {sizeof mp};  mp.path = "gemma-4-E2B-it-Q4_0.gguf";
 *     eg_session_params sp = {sizeof sp};  sp.context = 4096;
 *     if (eg_model_open(&mp, &model, &err) || eg_session_open(model, &sp, &session, &err)) puts(err.message);
 *     eg_session_feed_text(session, "<bos><|turn>user\nHello<turn|>\n<|turn>model\n", SIZE_MAX, EG_TEXT_SPECIAL, &err);
 *     eg_token token;
 *     while (!eg_session_next(session, NULL, &token, &err) && !token.stop)
 *         fwrite(token.text, 1, token.text_length, stdout);
 *     eg_session_close(session);  eg_model_close(model);
 *
 * Objects. An eg_model is immutable once open and may be shared between threads. An eg_session is one timeline
 * (KV cache, position, sampler) and is used by one thread at a time; eg_session_cancel alone may be called from another.
 * Close sessions before their model.
 *
 * Errors. Every function that can fail returns an eg_status and writes a sentence to the caller's eg_error (which may be
 * NULL). Nothing exits, aborts or prints, whatever a file contains. Unless a function says otherwise, after a failure its
 * outputs are untouched and its objects are as they were before the call.
 *
 * Parameters go in structs that begin with struct_size = sizeof the struct; zero in any other field is its default.
 * Matrices are row-major. Text is UTF-8; lengths are in bytes, and SIZE_MAX stands for strlen.
 */
#ifndef EDGE_GEMMA_H
#define EDGE_GEMMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32) && defined(EG_SHARED)
#ifdef EG_BUILD
#define EG_API __declspec(dllexport)
#else
#define EG_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define EG_API __attribute__((visibility("default")))
#else
#define EG_API
#endif

/* ---- status and errors ------------------------------------------------------------------------------------------- */

typedef enum eg_status {
    EG_OK = 0,
    EG_ERROR_ARGUMENT = 1,     /* a parameter is out of its range */
    EG_ERROR_FILE = 2,         /* the operating system could not open, map, read or write a file */
    EG_ERROR_FORMAT = 3,       /* a file is damaged, foreign, or lacks something; the message names key or tensor */
    EG_ERROR_UNSUPPORTED = 4,  /* a well-formed file uses something this version does not know */
    EG_ERROR_MEMORY = 5,       /* out of memory */
    EG_ERROR_CONTEXT = 6,      /* the session's context is full */
    EG_ERROR_STATE = 7,        /* not possible now, such as asking for logits before anything was fed */
    EG_CANCELLED = 8           /* eg_session_cancel stopped the call */
} eg_status;

typedef struct eg_error {
    eg_status status;
    char message[500];         /* zero-terminated UTF-8 sentence that says what is wrong and what to do */
} eg_error;

/* The version of this header, to compare with that of the library an application has loaded. */
#define EG_VERSION "0.1.0"

/* The version of the library as "major.minor.patch". Static; any thread. */
EG_API const char *eg_version(void);

/* The name of the chosen kernel set: "scalar", "avx2", "avxvnni", "avx512vnni", "neon_dotprod" or "neon_i8mm". Static; any
 * thread. */
EG_API const char *eg_isa(void);

/* ---- files ------------------------------------------------------------------------------------------------------- */

typedef struct eg_file eg_file;   /* an open, fully checked GGUF file, split or not */

/* Value types of GGUF metadata, by their number in the format. */
enum {
    EG_GGUF_U8 = 0,
    EG_GGUF_I8 = 1,
    EG_GGUF_U16 = 2,
    EG_GGUF_I16 = 3,
    EG_GGUF_U32 = 4,
    EG_GGUF_I32 = 5,
    EG_GGUF_F32 = 6,
    EG_GGUF_BOOL = 7,
    EG_GGUF_STRING = 8,
    EG_GGUF_ARRAY = 9,
    EG_GGUF_U64 = 10,
    EG_GGUF_I64 = 11,
    EG_GGUF_F64 = 12
};

typedef struct eg_file_entry {
    const char *key;           /* not zero-terminated; valid while the file is open */
    size_t key_length;
    uint32_t type;             /* EG_GGUF_... of the value, or of the elements of an array */
    bool is_array;
    uint64_t count;            /* elements of an array; 1 for a scalar */
} eg_file_entry;

typedef struct eg_file_tensor {
    const char *name;          /* not zero-terminated; valid while the file is open */
    size_t name_length;
    const char *type_name;     /* "Q4_0"; NULL for a type that this version does not know */
    uint32_t type;             /* GGML type number */
    uint32_t n_dims;
    uint64_t dims[4];          /* fastest first, as GGUF writes them; 1 beyond n_dims */
    const void *data;          /* in the mapping; NULL for an unknown type */
    uint64_t bytes;            /* 0 for an unknown type */
} eg_file_tensor;

/* Opens any GGUF file for inspection: versions 2 and 3; the further files of a split one are found beside the first.
 * The file stays mapped until eg_file_close. Any thread. */
EG_API eg_status eg_file_open(const char *path, eg_file **out, eg_error *err);
EG_API void eg_file_close(eg_file *file);
EG_API uint64_t eg_file_entry_count(const eg_file *file);
EG_API uint64_t eg_file_tensor_count(const eg_file *file);
/* Describe entry or tensor `index`, below the count. EG_ERROR_ARGUMENT when it is not. */
EG_API eg_status eg_file_get_entry(const eg_file *file, uint64_t index, eg_file_entry *out, eg_error *err);
EG_API eg_status eg_file_get_tensor(const eg_file *file, uint64_t index, eg_file_tensor *out, eg_error *err);
/* Element `element` of entry `index` (0 for a scalar) as a number. EG_ERROR_ARGUMENT for a string,
 * EG_ERROR_UNSUPPORTED for an array of arrays. */
EG_API eg_status eg_file_get_number(const eg_file *file, uint64_t index, uint64_t element, double *out, eg_error *err);
/* Element of a string entry: a pointer into the file, not zero-terminated. Reading an array in order is cheap. */
EG_API eg_status eg_file_get_string(const eg_file *file, uint64_t index, uint64_t element, const char **text, size_t *length,
                                    eg_error *err);

/* ---- tokenizer --------------------------------------------------------------------------------------------------- */

typedef struct eg_tokenizer eg_tokenizer;   /* immutable; any thread */

enum {
    /* Encode: the texts of control tokens become these tokens. Decode: control tokens are written out, not skipped. */
    EG_TEXT_SPECIAL = 1,
    /* Encode: put <bos> first unless the text begins with it. */
    EG_TEXT_BOS = 2
};

/* A tokenizer alone, from any Gemma 4 GGUF file (a vocabulary-only one too). Close it with eg_tokenizer_close. */
EG_API eg_status eg_tokenizer_open(const char *path, eg_tokenizer **out, eg_error *err);
EG_API void eg_tokenizer_close(eg_tokenizer *tokenizer);
EG_API uint32_t eg_tokenizer_vocab_size(const eg_tokenizer *tokenizer);

/* Encodes text[length] into ids[capacity]; *n is the number of tokens, also when it exceeds the capacity, in which case
 * only the first `capacity` are written. Without EG_TEXT_SPECIAL no part of the text becomes a control or user-defined
 * token: the right way for text that came from outside. Invalid UTF-8 becomes byte tokens. */
EG_API eg_status eg_tokenizer_encode(const eg_tokenizer *tokenizer, const char *text, size_t length, uint32_t flags,
                                     int32_t *ids, size_t capacity, size_t *n, eg_error *err);

/* Decodes ids[n] to bytes (they form UTF-8 if the tokens do; nothing is repaired). As with encode, *length is the full
 * length and at most `capacity` bytes are written. EG_ERROR_ARGUMENT names an id outside the vocabulary. */
EG_API eg_status eg_tokenizer_decode(const eg_tokenizer *tokenizer, const int32_t *ids, size_t n, uint32_t flags, char *text,
                                     size_t capacity, size_t *length, eg_error *err);

/* The id of the token written exactly so, such as "<|turn>"; -1 if there is none. */
EG_API int32_t eg_tokenizer_find(const eg_tokenizer *tokenizer, const char *text, size_t length);

/* The file's Jinja chat template: a pointer that lives as long as the tokenizer, not zero-terminated; NULL if none. */
EG_API const char *eg_tokenizer_chat_template(const eg_tokenizer *tokenizer, size_t *length);

/* ---- chat turns -------------------------------------------------------------------------------------------------- */

typedef struct eg_chat_message {
    const char *role;          /* "system", "developer", "user", "assistant" or "model"; zero-terminated */
    const char *content;       /* zero-terminated UTF-8, trimmed when rendered */
} eg_chat_message;

enum {
    EG_CHAT_GENERATION = 1,    /* end with the opening of the model's turn */
    EG_CHAT_THINKING = 2,      /* ask for a thought before the answer */
    EG_CHAT_EMPTY_THOUGHT = 4  /* with GENERATION and without THINKING: an empty thought, as the larger models expect */
};

/* Writes plain turns in Gemma 4's format into text[capacity], zero-terminated when it fits; *length is the full length
 * without the zero. Thoughts are removed from model turns. Feed the result with EG_TEXT_SPECIAL; when contents come from
 * outside, feed the markers with it and the contents without. Any thread. */
EG_API eg_status eg_chat_render(const eg_chat_message *messages, size_t n, uint32_t flags, char *text, size_t capacity,
                                size_t *length, eg_error *err);

/* ---- model ------------------------------------------------------------------------------------------------------- */

typedef struct eg_model eg_model;

typedef struct eg_model_params {
    uint32_t struct_size;
    uint32_t threads;          /* 0: the fast cores that this process may use */
    const char *path;          /* a GGUF file; the first of a split one */
    int fd;                    /* used when path is NULL: an open file descriptor (kept by the caller), */
    uint64_t offset, length;   /* and where in it the GGUF lies; length 0: to the end of the file */
    const char *mmproj;        /* the file of the model's encoders; NULL: none, unless mmproj_length is given: */
    int mmproj_fd;             /* an open file descriptor (kept by the caller), */
    uint64_t mmproj_offset, mmproj_length;   /* and where in it that GGUF lies */
} eg_model_params;

typedef struct eg_model_info {
    uint32_t struct_size;
    uint32_t layers;           /* num_hidden_layers */
    uint32_t kv_layers;        /* layers that own K/V; the others read those of an earlier layer */
    uint32_t hidden_size, vocab_size, context_length;
    uint32_t heads;            /* num_attention_heads */
    uint32_t sliding_window;
    uint32_t per_layer_input;  /* hidden_size_per_layer_input; 0 when the model has none */
    uint32_t experts, experts_used;
    uint32_t threads;
    bool audio;                /* it was opened with an audio encoder */
    uint64_t parameters;       /* weights in the model's file */
    uint64_t decode_bytes;     /* weight bytes read to decode one token */
    char name[128];            /* general.name, cut to fit */
} eg_model_info;

typedef struct eg_memory {
    uint32_t struct_size;
    uint64_t mapped;           /* bytes of the files in the address space: shared, clean, evictable */
    uint64_t resident;         /* of these, in memory now; 0 where the system does not tell */
    uint64_t tables;           /* heap of the model: tensor directory, tokenizer tables */
    uint64_t kv;               /* KV cache of the session */
    uint64_t scratch;          /* activations and work space of the session */
} eg_memory;

/* Opens and checks a model, with its encoders if they are named. Weights stay in the file's mapping: nothing is read,
 * copied or repacked. */
EG_API eg_status eg_model_open(const eg_model_params *params, eg_model **out, eg_error *err);
EG_API void eg_model_close(eg_model *model);
EG_API eg_status eg_model_get_info(const eg_model *model, eg_model_info *out, eg_error *err);
EG_API eg_status eg_model_get_memory(const eg_model *model, eg_memory *out, eg_error *err);
EG_API const eg_tokenizer *eg_model_tokenizer(const eg_model *model);

/* ---- session ----------------------------------------------------------------------------------------------------- */

typedef struct eg_session eg_session;

typedef enum eg_kv_type { EG_KV_F16 = 0, EG_KV_F32 = 1, EG_KV_Q8 = 2 } eg_kv_type;

typedef struct eg_session_params {
    uint32_t struct_size;
    uint32_t context;          /* tokens; 0: 4096 or the model's context length if that is shorter */
    eg_kv_type kv;
} eg_session_params;

typedef struct eg_logit_bias {
    int32_t id;
    float bias;                /* -INFINITY: never */
} eg_logit_bias;

typedef struct eg_sampling {
    uint32_t struct_size;
    bool greedy;               /* the most likely token; the fields below but penalties and biases are ignored */
    float temperature;         /* 0: the default 1.0; use greedy for temperature zero */
    uint32_t top_k;            /* 0: the default 64; UINT32_MAX: off */
    float top_p;               /* 0: the default 0.95; 1: off */
    float min_p;               /* 0: off */
    float repetition_penalty;  /* 0: the default 1.0, off */
    float presence_penalty, frequency_penalty;
    uint32_t penalty_window;   /* last tokens that penalties look at; 0: 64 */
    const eg_logit_bias *biases;   /* [n_biases], added to the logits; read during the call only */
    size_t n_biases;
    const int32_t *suppress;   /* [n_suppress] ids never drawn; the file's own list is always obeyed */
    size_t n_suppress;
    uint32_t text_flags;       /* EG_TEXT_SPECIAL: token.text shows control tokens */
} eg_sampling;

typedef enum eg_stop {
    EG_STOP_NONE = 0,
    EG_STOP_EOS = 1,           /* <eos> */
    EG_STOP_TURN = 2,          /* <turn|> */
    EG_STOP_TOOL_RESPONSE = 3  /* <|tool_response> */
} eg_stop;

typedef struct eg_token {
    int32_t id;
    eg_stop stop;              /* why the answer ends with this token, which then has no text of its own */
    /* What this token adds, whole UTF-8 characters only, not zero-terminated; it may be empty while a character is
     * incomplete. Owned by the session, valid until its next call. */
    const char *text;
    size_t text_length;
} eg_token;

typedef struct eg_stats {
    uint32_t struct_size;
    uint64_t prefill_tokens, decode_tokens;   /* tokens fed by the caller; tokens drawn by eg_session_next */
    double prefill_seconds, decode_seconds;   /* wall time spent in them */
    uint64_t audio_tokens;     /* soft tokens that the audio encoder made; they count as prefilled too */
    double audio_seconds;      /* wall time spent in it */
} eg_stats;

/* What a session would take, before it is opened: fills kv and scratch; the rest is the model's. */
EG_API eg_status eg_session_estimate(const eg_model *model, const eg_session_params *params, eg_memory *out, eg_error *err);

/* Opens a session at position 0. All of its memory is taken here; evaluating and decoding allocate nothing. */
EG_API eg_status eg_session_open(eg_model *model, const eg_session_params *params, eg_session **out, eg_error *err);
EG_API void eg_session_close(eg_session *session);

/* Append tokens, text, or soft tokens (rows of embeddings[n, hidden_size] made by an encoder) to the timeline. Only the
 * layers that write K/V are run; the others wait until logits are wanted, and then run for the last position alone.
 * EG_ERROR_CONTEXT: nothing was added. EG_CANCELLED: eg_session_position tells how many tokens were kept. */
EG_API eg_status eg_session_feed_tokens(eg_session *session, const int32_t *ids, size_t n, eg_error *err);
EG_API eg_status eg_session_feed_text(eg_session *session, const char *text, size_t length, uint32_t flags, eg_error *err);
EG_API eg_status eg_session_feed_embeddings(eg_session *session, const float *embeddings, size_t n, eg_error *err);

/* Appends ids[n] and computes every position in full: logits[n, vocab_size] and, unless NULL,
 * hidden[layers + 1, n, hidden_size]: the scaled embeddings, then the output of each layer, the last one after the
 * final norm. Either pointer may be NULL. Failures are as in eg_session_feed_tokens. */
EG_API eg_status eg_session_forward(eg_session *session, const int32_t *ids, size_t n, float *logits, float *hidden,
                                    eg_error *err);

/* The logits[vocab_size] that follow the last token. EG_ERROR_STATE when nothing was fed yet. */
EG_API eg_status eg_session_logits(eg_session *session, float *logits, eg_error *err);

/* Draws one token, appends it, and tells its text. sampling NULL: all defaults. After a token with `stop`, feed the next
 * turn and go on. EG_ERROR_CONTEXT when there is no room for the token: nothing was drawn. */
EG_API eg_status eg_session_next(eg_session *session, const eg_sampling *sampling, eg_token *out, eg_error *err);

/* Starts the random sequence anew; the same seed, tokens and options give the same text on every machine. A new session
 * has a seed of its own from the system's clock. */
EG_API void eg_session_seed(eg_session *session, uint64_t seed);

/* Number of tokens in the timeline, and the ids from `first` on (soft tokens are -1), at most n, into ids. Returns how
 * many were written. */
EG_API size_t eg_session_position(const eg_session *session);
EG_API size_t eg_session_context(const eg_session *session);   /* how many it can have */
EG_API size_t eg_session_tokens(const eg_session *session, size_t first, int32_t *ids, size_t n);

/* Goes back by n tokens. Going back further than the sliding windows remember evaluates the kept tokens again, which
 * takes the time of a prefill and is impossible over soft tokens (EG_ERROR_STATE, nothing changes). */
EG_API eg_status eg_session_rewind(eg_session *session, size_t n, eg_error *err);

/* A second session with the same timeline, independent from now on. Costs a copy of the KV cache in use. */
EG_API eg_status eg_session_fork(const eg_session *session, eg_session **out, eg_error *err);

/* Write the timeline to a file, and open a session from one: it goes on exactly as the saved one would have.
 * Restoring refuses files of another model (EG_ERROR_FORMAT) and damaged ones. `context` 0: as saved. */
EG_API eg_status eg_session_save(eg_session *session, const char *path, eg_error *err);
EG_API eg_status eg_session_restore(eg_model *model, const char *path, uint32_t context, eg_session **out, eg_error *err);

/* Makes the call that runs now, if any, return EG_CANCELLED within one layer. From any thread, also a signal handler.
 * Without a running call it has no effect. */
EG_API void eg_session_cancel(eg_session *session);

/* Counters since the session was opened, and the memory it holds. Set out->struct_size first; between calls only. */
EG_API eg_status eg_session_get_stats(const eg_session *session, eg_stats *out, eg_error *err);
EG_API eg_status eg_session_get_memory(const eg_session *session, eg_memory *out, eg_error *err);

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
    uint32_t left_context;     /* tokens that a token of the encoder sees, itself included: 12 (and 0 means 12) or 13 */
    bool no_markers;           /* of a session: without <|audio> before and <audio|> behind it */
} eg_audio_params;

/* Soft tokens of a recording of so many samples: ceil(floor((samples - 1) / 160) / 4), none below 161. */
EG_API size_t eg_audio_tokens(size_t samples);

/* Begins audio in the timeline, push adds samples[n], and end completes it. Samples gather (160 to 480 ms, by the speed of the
 * machine) before they are encoded and prefilled together; the last ones are encoded by end, and prefilled with what is fed
 * next. params NULL: all defaults.
 * Until the end nothing else can be fed or drawn (EG_ERROR_STATE); reading logits and positions is fine, a fork has a copy
 * of the audio in progress, and a rewind ends it there, without marker.
 * EG_ERROR_UNSUPPORTED: the model has no audio encoder. EG_ERROR_CONTEXT and EG_ERROR_ARGUMENT (a sample that is not finite)
 * of push: these samples were not taken, and more may be pushed or the audio ended. EG_ERROR_ARGUMENT of end: there were less
 * than 161 samples, and the timeline is as before begin. EG_CANCELLED: the audio is over, without marker, and the position
 * tells what was kept. The first begin of a session takes the encoder's work space, about 10 MB; pushing allocates nothing. */
EG_API eg_status eg_session_audio_begin(eg_session *session, const eg_audio_params *params, eg_error *err);
EG_API eg_status eg_session_audio_push(eg_session *session, const float *samples, size_t n, eg_error *err);
EG_API eg_status eg_session_audio_end(eg_session *session, eg_error *err);
EG_API bool eg_session_audio_is_open(const eg_session *session);

/* A whole recording at once: begin, push and end. After EG_ERROR_ARGUMENT and EG_ERROR_CONTEXT nothing was added. */
EG_API eg_status eg_session_feed_audio(eg_session *session, const float *samples, size_t n, const eg_audio_params *params,
                                       eg_error *err);

/* The encoder alone: a stream takes samples and gives soft tokens, each as soon as it is final. One thread at a time, but for
 * cancel. All memory is taken when it opens, and it may run without end. Close it before its model. */
typedef struct eg_audio_stream eg_audio_stream;
EG_API eg_status eg_audio_stream_open(eg_model *model, const eg_audio_params *params, eg_audio_stream **out, eg_error *err);
EG_API void eg_audio_stream_close(eg_audio_stream *stream);

/* How many tokens a push of n more samples will give. */
EG_API size_t eg_audio_stream_tokens(const eg_audio_stream *stream, size_t n);

/* Take samples[n], or end the recording, and write the tokens that are final now, embeddings[*written, hidden_size], ready for
 * eg_session_feed_embeddings. Finishing gives one token at most, and the stream is then ready for another recording.
 * EG_ERROR_ARGUMENT: no room for them within `capacity` tokens, or a sample that is not finite; nothing was taken.
 * EG_CANCELLED: the recording is lost; reset the stream. */
EG_API eg_status eg_audio_stream_push(eg_audio_stream *stream, const float *samples, size_t n, float *embeddings,
                                      size_t capacity, size_t *written, eg_error *err);
EG_API eg_status eg_audio_stream_finish(eg_audio_stream *stream, float *embeddings, size_t capacity, size_t *written,
                                        eg_error *err);

/* Forgets the recording and begins another. */
EG_API void eg_audio_stream_reset(eg_audio_stream *stream);

/* Makes the push or finish that runs now, if any, return EG_CANCELLED within one layer. From any thread. */
EG_API void eg_audio_stream_cancel(eg_audio_stream *stream);

#ifdef __cplusplus
}
#endif
#endif
