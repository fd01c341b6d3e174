/* What a model and a session are made of; for the files of this directory alone. */
#ifndef EG_API_OBJECTS_H
#define EG_API_OBJECTS_H

#include "../audio/encoder.h"
#include "../audio/mel.h"
#include "../decoder/decoder.h"
#include "../decoder/sampler.h"
#include "../text/tokenizer.h"

struct eg_model {
    eg_gguf *file;
    eg_config config;
    eg_weights weights;
    eg_tokenizer *tokenizer;
    eg_pool *pool;
    eg_gguf *mmproj;           /* NULL: no encoders */
    bool has_audio;
    eg_audio_weights audio;
    _Atomic(float *) audio_relative;   /* for all streams; made by the first one, NULL until then */
    atomic_int recordings;     /* in progress; the last one to end gives the encoder's pages back */
    char name[128];
    uint64_t parameters;
    _Atomic uint64_t warmed;   /* bytes that eg_model_warm has touched */
};

/* Samples to soft tokens. Frames that do not fill a token wait in `frames`. */
struct eg_audio_stream {
    eg_model *model;
    eg_mel mel;
    eg_audio encoder;
    float *frames;             /* [EG_AUDIO_BLOCK * EG_AUDIO_FRAMES, features] */
    int64_t n_frames;
    bool broken;               /* cancelled within a block: reset before the next use */
    atomic_bool cancel, running;
    void *memory;
    size_t bytes;
};

enum { EG_TOKEN_SAMPLES = EG_AUDIO_FRAMES * EG_MEL_HOP };   /* 640: 40 ms */

/* Audio that is being fed to a session. Samples gather until they are worth reading the encoder's weights for. */
typedef struct eg_session_audio {
    eg_audio_stream *stream;   /* opened with the first audio, kept until the session is closed */
    bool open, markers;
    /* It counts in model->recordings: while open, and for so many draws after the end, since giving the encoder's pages
     * back would delay the first one by 10 ms. */
    int recording;
    int64_t start;             /* position before the begin marker */
    float *samples;            /* [EG_AUDIO_BLOCK * EG_TOKEN_SAMPLES] */
    int64_t n_samples;
    float *embeddings;         /* [EG_AUDIO_BLOCK + 1, d] */
    int64_t gather;            /* samples to wait for */
    void *memory;              /* of samples and embeddings */
} eg_session_audio;

/* Timeline: tokens [0, evaluated) are in the KV cache, [evaluated, length) wait: a token that was drawn but not fed back
 * yet, what a rewind left to be evaluated again, or the end of a recording, which is evaluated with what follows. If there
 * are soft ones among them, they come first. */
struct eg_session {
    eg_model *model;
    eg_decoder decoder;
    eg_sampler sampler;
    eg_detokenizer detokenizer;
    eg_stats stats;
    int32_t *tokens;           /* [context]; -1: soft */
    const float *waiting_soft; /* rows of the soft tokens that wait, if any do, in audio.embeddings */
    int64_t context, length, evaluated;
    int64_t high;              /* most positions ever evaluated since the cache was last empty: bounds the rings */
    /* The last evaluated token, before the layers that only logits need. */
    bool has_last, has_logits; /* has_logits: decoder.logits belong to it */
    float *last_embedding, *last_x;   /* [d] */
    char *piece;               /* text of the last drawn token */
    eg_session_audio audio;
    atomic_bool cancel, running;
    void *cache_memory, *work_memory;
    size_t cache_bytes, work_bytes;
};

/* Touches some more of the weights that only logits need, until all have been: in a new process the first answer would spend
 * a fifth of a second on having them mapped. For moments when nobody waits; any thread. */
void eg_model_warm(eg_model *model);

/* Tells models apart; reads a few bytes of every tensor. */
uint64_t eg_model_fingerprint(const eg_model *model);

/* Checks params and opens an empty session. */
eg_status eg_session_create(eg_model *model, int64_t context, eg_kv_type kv, eg_session **out, eg_error *err);

/* Frame every call that computes: between them eg_session_cancel has an effect. end returns the status it is given. */
void eg_session_begin(eg_session *session);
eg_status eg_session_end(eg_session *session, eg_status status);
/* The same for a call that fed something at old_length: after a failure what was evaluated stays, and what waited before. */
eg_status eg_session_end_feed(eg_session *session, int64_t old_length, eg_status status);

/* The parts of feeding, between begin and end: room for n tokens; tokens that wait; evaluate what waits; soft tokens. */
eg_status eg_session_check_room(const eg_session *session, size_t n, eg_error *err);
void eg_session_append(eg_session *session, const int32_t *ids, size_t n);
eg_status eg_session_settle(eg_session *session, eg_error *err);
eg_status eg_session_append_soft(eg_session *session, const float *embeddings, size_t n, eg_error *err);

/* Checks params (NULL: defaults) and that there is an encoder; *context is what was asked for. */
eg_status eg_audio_check_params(const eg_model *model, const eg_audio_params *params, int32_t *context, eg_error *err);
/* EG_ERROR_ARGUMENT names the first sample that is not finite. */
eg_status eg_audio_check_samples(const float *samples, size_t n, eg_error *err);
/* Size of model->audio_relative, once it is made. */
size_t eg_audio_relative_bytes(const eg_model *model);
/* Streams that are not counted as recordings: new, and an independent one that goes on where `from` is. */
eg_status eg_audio_stream_create(eg_model *model, int32_t context, eg_audio_stream **out, eg_error *err);
void eg_audio_stream_free(eg_audio_stream *stream);
eg_status eg_audio_stream_copy(const eg_audio_stream *from, eg_audio_stream **out, eg_error *err);
/* Tokens that n more samples and the end give. */
size_t eg_audio_stream_all_tokens(const eg_audio_stream *stream, size_t n);
/* A recording begins or ends. */
void eg_audio_enter(eg_model *model);
void eg_audio_leave(eg_model *model);
/* Samples without checks: soft tokens of all that is complete, or, with `last`, of all there is, into embeddings. False when
 * cancelled. */
bool eg_audio_stream_run(eg_audio_stream *stream, const float *samples, size_t n, bool last, float *embeddings,
                         size_t *written);

/* A session's part of a fork, and of closing. */
eg_status eg_session_audio_fork(const eg_session *from, eg_session *to, eg_error *err);
void eg_session_audio_free(eg_session *session);
/* Ends audio that is being fed, if any, without what has gathered and without marker. */
void eg_session_audio_abandon(eg_session *session);
/* A token is about to be drawn. */
void eg_session_audio_draw(eg_session *session);
size_t eg_session_audio_bytes(const eg_session *session);
/* EG_ERROR_STATE while audio is being fed: nothing else may be then. */
eg_status eg_session_audio_check_closed(const eg_session *session, eg_error *err);

#endif
