/* What models, sessions and audio streams are made of, and what the files of this folder do for each other. */
#ifndef EG_API_OBJECTS_H
#define EG_API_OBJECTS_H

#include <stdatomic.h>

#include "../audio/encoder.h"
#include "../audio/mel.h"
#include "../base/idle.h"
#include "../decoder/decoder.h"
#include "../decoder/sampler.h"
#include "../decoder/store.h"
#include "../text/tokenizer.h"
#include "../vision/encoder.h"

struct eg_model {
    eg_gguf *file;
    eg_config config;
    eg_weights weights;
    eg_store *store;           /* what of the weights is in memory; NULL: all of it */
    uint64_t memory_limit;     /* with a store: bytes of the whole process */
    uint64_t process_bytes;    /* with a store: of the process when the model was opened */
    atomic_size_t session_bytes;   /* of all sessions */
    eg_tokenizer *tokenizer;
    eg_pool *pool;
    eg_gguf *mmproj;           /* file of the encoders; NULL without them */
    bool has_audio;
    eg_audio_weights audio;
    bool has_vision;
    eg_vision_weights vision;
    _Atomic(float *) audio_relative;   /* keys of relative positions, for all streams; the first one makes them */
    atomic_int recordings;     /* in progress; the last one to end releases the encoder's pages */
    char name[128];
    uint64_t parameters;
    _Atomic uint64_t prefaulted;   /* bytes that eg_model_prefault has touched */
    eg_idle idle;              /* eg_workspace: of no call, each for EG_BLOCK rows */
    eg_idle audio_idle;        /* eg_audio_work */
    atomic_size_t workspace_bytes;   /* of all of both */
    atomic_int sessions;
    atomic_int references;     /* the caller's, and one of each session and stream */
};

/* A call that computes: its turn on the model's threads, and its work space. */
typedef struct eg_call {
    eg_turn turn;
    eg_workspace *ws;
} eg_call;

/* Samples to soft tokens. Frames that do not fill a token wait in `frames`. */
struct eg_audio_stream {
    eg_model *model;
    eg_mel mel;
    eg_audio encoder;
    float *frames;             /* [EG_AUDIO_BLOCK * EG_AUDIO_FRAMES, features] */
    int64_t n_frames;
    bool broken;               /* cancelled: reset before the next use */
    atomic_bool cancel;        /* requested and not reported yet; unused in the stream of a session */
    atomic_int references;     /* unused in the stream of a session */
    eg_turn *turn;             /* of the call that encodes: of the session, or its own */
    eg_turn own_turn;
    void *memory;
    size_t bytes;
};

enum { EG_TOKEN_SAMPLES = EG_AUDIO_FRAMES * EG_MEL_HOP };   /* 640: 40 ms */

/* Audio that is being fed to a session. Samples gather until there are enough to be worth a pass through the encoder. */
typedef struct eg_session_audio {
    eg_audio_stream *stream;   /* opened with the first audio, kept until the session is closed */
    bool open, markers;
    /* Not 0: this session counts in model->recordings. It does while audio is open, and for so many draws after the end,
     * since releasing the encoder's pages would delay the first draw by 10 ms. */
    int recording;
    int64_t start;             /* position before the begin marker */
    float *samples;            /* [EG_AUDIO_BLOCK * EG_TOKEN_SAMPLES] */
    int64_t n_samples;
    float *embeddings;         /* [EG_AUDIO_BLOCK + 1, d] */
    int64_t gather;            /* samples to wait for */
    void *memory;              /* of samples and embeddings */
} eg_session_audio;

/* The timeline: tokens [0, evaluated) are in the KV cache, and [evaluated, length) wait to be evaluated. A token waits after
 * it was drawn, after a rewind that needs it again, or as the end of a recording, which is evaluated with what follows. If
 * soft tokens wait, they come first. */
struct eg_session {
    eg_model *model;
    eg_cache cache;
    uint64_t random;           /* state of the sampler */
    eg_detokenizer detokenizer;
    eg_stats stats;
    int32_t *tokens;           /* [context]; -1: soft */
    const float *waiting_soft; /* rows of the soft tokens that wait, in audio.embeddings; NULL if no soft token waits */
    int64_t context, length, evaluated;
    int64_t picture;           /* most tokens of a picture that see each other; the rings have room for a block of them */
    int64_t high;              /* most positions evaluated since the cache was last empty: tells what the rings still hold */
    eg_last last;              /* the last evaluated token, if it is known */
    bool has_logits;           /* `logits` are those that follow the last token */
    float *logits;             /* [V] */
    char *piece;               /* text of the last drawn token */
    eg_logprob *top;           /* [EG_TOP_LOGPROBS] of the last drawn token */
    eg_session_audio audio;
    int32_t priority;
    eg_call call;              /* of the function that computes */
    atomic_bool cancel;        /* requested and not reported yet */
    atomic_int references;     /* callers who will close it */
    void *cache_memory, *work_memory;
    size_t cache_bytes, work_bytes;
};

/* The model lives until the last reference is released, so objects may be closed in any order, also by a garbage collector. */
void eg_model_release(eg_model *model);

/* Begins a call: waits for the turn and takes a work space for blocks of `rows` tokens. `stopped` as in eg_turn.
 * EG_CANCELLED, EG_ERROR_MEMORY: there is nothing to end. */
eg_status eg_call_begin(eg_call *call, eg_model *model, int32_t priority, bool (*stopped)(void *context), void *context,
                        int64_t rows, eg_error *err);
/* Gives the call's work space n rows of logits at least; it keeps them. EG_ERROR_MEMORY. */
eg_status eg_call_reserve_logits(const eg_call *call, eg_model *model, int64_t n, eg_error *err);
/* Does nothing if the call has not begun. */
void eg_call_end(eg_call *call, eg_model *model);
/* Makes sure that the model has a work space. */
eg_status eg_model_prepare(eg_model *model, eg_error *err);
/* Frees those of the audio encoder but for the first `keep`. */
void eg_audio_trim(eg_model *model, int keep);
/* Closes idle work spaces but for so many of each kind. */
void eg_model_drop_idle(eg_model *model, int keep);

/* Adds what a call has read to the counters of its session. */
void eg_call_count(eg_stats *stats, eg_store_counts counts);

/* Keeps the process within a limit, or, with 0, within the memory that the system gives it: if the weights do not fit, they get a
 * store. Called once, when the weights are bound. EG_ERROR_MEMORY. */
eg_status eg_model_limit_memory(eg_model *model, uint64_t limit, eg_error *err);
/* A session takes `after` bytes where it took `before`. */
void eg_model_count_session(eg_model *model, size_t before, size_t after);

/* Touches the next part of the weights that only logits need, until all of them were touched. Otherwise the first answer of a
 * new process spends a fifth of a second on page faults. For moments when nobody waits; any thread. */
void eg_model_prefault(eg_model *model);

/* What the model's files and tables take; kv and scratch are 0. */
eg_memory eg_model_measure(const eg_model *model);

/* A hash that tells models apart, the same on every machine; reads a few bytes of every tensor. */
uint64_t eg_model_fingerprint(const eg_model *model);

/* Checks the parameters, which are complete (context and picture are not 0), and opens an empty session. */
eg_status eg_session_create(eg_model *model, const eg_session_params *params, eg_session **out, eg_error *err);
/* Parameters of a session like this one. */
eg_session_params eg_session_params_of(const eg_session *session);

/* The options in force: left_context is never 0. params NULL: defaults. EG_ERROR_UNSUPPORTED: there is no encoder. */
eg_status eg_audio_read_params(const eg_model *model, const eg_audio_params *params, eg_audio_params *out, eg_error *err);
/* EG_ERROR_ARGUMENT names the first sample that is not finite. */
eg_status eg_audio_check_samples(const float *samples, size_t n, eg_error *err);
/* Size of model->audio_relative, once it is made. */
size_t eg_audio_relative_bytes(const eg_model *model);
/* Streams that do not count as recordings: a new one, and a copy that goes on where `from` is. */
eg_status eg_audio_stream_create(eg_model *model, uint32_t context, eg_audio_stream **out, eg_error *err);
void eg_audio_stream_free(eg_audio_stream *stream);
eg_status eg_audio_stream_copy(const eg_audio_stream *from, eg_audio_stream **out, eg_error *err);
/* Tokens that n more samples and the end of the recording give. */
size_t eg_audio_stream_all_tokens(const eg_audio_stream *stream, size_t n);
/* A recording begins or ends: the last one to end releases the encoder's pages. */
void eg_audio_enter(eg_model *model);
void eg_audio_leave(eg_model *model);
/* Takes samples without checking them, and writes the soft tokens that are complete, with `last` also the incomplete one. The
 * stream's turn is held. EG_CANCELLED, EG_ERROR_MEMORY, EG_ERROR_FILE: the recording is lost. */
eg_status eg_audio_stream_run(eg_audio_stream *stream, const float *samples, size_t n, bool last, float *embeddings,
                              size_t *written, eg_error *err);

/* Gives a fork its copy of what waits and of open audio. */
eg_status eg_session_audio_fork(const eg_session *from, eg_session *to, eg_error *err);
void eg_session_audio_free(eg_session *session);
/* A token is about to be drawn. */
void eg_session_audio_draw(eg_session *session);
size_t eg_session_audio_bytes(const eg_session *session);
/* EG_ERROR_STATE while audio is open: nothing else may be fed then. */
eg_status eg_session_audio_check_closed(const eg_session *session, eg_error *err);

#endif
