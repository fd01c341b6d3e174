/* What a model and a session are made of; for the files of this directory alone. */
#ifndef EG_API_OBJECTS_H
#define EG_API_OBJECTS_H

#include "../model/decoder.h"
#include "../model/sampler.h"
#include "../text/tokenizer.h"

struct eg_model {
    eg_gguf *file;
    eg_config config;
    eg_weights weights;
    eg_tokenizer *tokenizer;
    eg_pool *pool;
    char name[128];
    uint64_t parameters;
};

/* Timeline: tokens [0, evaluated) are in the KV cache, [evaluated, length) wait: a token that was drawn but not fed back
 * yet, or what a rewind left to be evaluated again. Waiting tokens are never soft. */
struct eg_session {
    eg_model *model;
    eg_decoder decoder;
    eg_sampler sampler;
    eg_detokenizer detokenizer;
    eg_stats stats;
    int32_t *tokens;           /* [context]; -1: soft */
    int64_t context, length, evaluated;
    int64_t high;              /* most positions ever evaluated since the cache was last empty: bounds the rings */
    /* The last evaluated token, before the layers that only logits need. */
    bool has_last, has_logits; /* has_logits: decoder.logits belong to it */
    float *last_embedding, *last_x;   /* [d] */
    char *piece;               /* text of the last drawn token */
    atomic_bool cancel, running;
    void *cache_memory, *work_memory;
    size_t cache_bytes, work_bytes;
};

/* Tells models apart; reads a few bytes of every tensor. */
uint64_t eg_model_fingerprint(const eg_model *model);

/* Checks params and opens an empty session. */
eg_status eg_session_create(eg_model *model, int64_t context, eg_kv_type kv, eg_session **out, eg_error *err);

/* Evaluates what waits. */
eg_status eg_session_settle(eg_session *session, eg_error *err);

#endif
