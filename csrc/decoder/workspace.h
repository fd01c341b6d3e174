/* The work space of the decoder: what a block of tokens needs while it is evaluated. Nothing in it outlives the call, so timelines
 * borrow it: a model has one for each call that runs at the same time.
 */
#ifndef EG_DECODER_WORKSPACE_H
#define EG_DECODER_WORKSPACE_H

#include "../nn/multiply.h"
#include "cache.h"
#include "sampler.h"
#include "store.h"

enum {
    EG_BLOCK = 128, /* tokens evaluated together, but for pictures whose tokens see each other */
    EG_PICTURE = 1120 /* most tokens of such a picture */
};

/* Where a row of x belongs. */
typedef struct eg_row {
    const eg_cache *cache; /* of its timeline */
    int64_t position;
    const float *soft; /* [d] its embedding, if id is negative */
    int32_t id;
} eg_row;

/* Rows row .. row + n - 1 of x: consecutive positions of one timeline, whose attention is computed together. */
typedef struct eg_stretch {
    const eg_cache *cache;
    int64_t row, n, position; /* position: of the first row */
    int64_t until; /* in local layers every row sees all positions up to this one; -1: up to its own */
} eg_stretch;

/* A part of the attention of one stretch: some spans of its keys (attention.c). */
typedef struct eg_split {
    int64_t stretch, span, spans, slot, slots;
    size_t partials;
} eg_split;

/* Of a leaner head: logits that are computed again, at most with ties; logits of a group, and logits that are looked at. */
enum { EG_HEAD_EXACT = 128, EG_HEAD_MOST = 160, EG_HEAD_GROUP = 16, EG_HEAD_SEEN = EG_HEAD_EXACT * EG_HEAD_GROUP };

typedef struct eg_workspace {
    const eg_config *config;
    const eg_weights *weights;
    const eg_kernels *kernels;
    eg_pool *pool;
    eg_turn *turn; /* of the call that uses the work space */
    const eg_gguf *file; /* that the weights are in */
    eg_store *store; /* what is in memory; NULL: all of it */
    int64_t rows; /* B: most rows of a block */

    eg_row *row; /* [B] */
    eg_stretch *stretch; /* [B] */
    int64_t stretches;
    float *x; /* [B, d] residual stream */
    float *h; /* [B, d] normalised input of a matrix */
    float *t; /* [B, d] output of a matrix */
    float *q, *o; /* [B, H*D] */
    float *k, *v; /* [B, K*D] */
    eg_split *split; /* [B] */
    float *partials; /* [partials_size] attention of few queries over one span of keys each, to be merged */
    size_t partials_size; /* floats */
    float *gate, *up; /* [B, F] */
    float *ple; /* [B, ple_layers*P]: per-layer inputs of layers ple_from .. ple_from + ple_layers - 1 */
    int32_t ple_from, ple_layers;
    eg_matmul matmul;
    size_t row_bytes; /* of a dequantized row of any table: so much of a thread's scratch, and behind it the row's blocks */
    float *cos, *sin; /* [2 (global, local), B, D/2] */
    int64_t *angle; /* [B] the positions that cos and sin are of; -1: none */
    float *frequency; /* [2, D/2] */
    struct { /* experts; R = B * experts_used rows, sorted by expert */
        float *z; /* [B, E] router logits */
        float *x; /* [R, d] gathered inputs, then [R, d] outputs */
        float *gate, *up; /* [R, Fe] */
        float *weight; /* [B, experts_used] */
        int32_t *expert, *row; /* [B, experts_used]: chosen expert, and the row in x for it */
        int32_t *order; /* [E] experts that have rows, in the order in which they are worked off */
        int32_t *uses; /* [E] rows of each expert */
        int32_t *first; /* [E + 1]: where the rows of order[i] begin */
        eg_product *products; /* [2 * E] */
    } moe;
    struct { /* with a leaner head (head.h) */
        int32_t *best; /* [V / EG_HEAD_GROUP]: the best logit of each group */
        int32_t *token, *value; /* [EG_HEAD_SEEN] candidates; then token[EG_HEAD_MOST] are those that are computed again, */
        uint8_t *rows; /* their rows of the model's own head, */
        float *exact; /* and their logits */
    } head;
    eg_sampler sampler;
    float *logits; /* [logit_rows, V] */
    int64_t logit_rows;
    void *memory, *logit_memory;
    size_t bytes; /* of both */
} eg_workspace;

/* What a work space for blocks of `rows` tokens takes, with one row of logits; SIZE_MAX if that overflows. */
size_t eg_workspace_bytes(const eg_config *config, const eg_weights *weights, eg_pool *pool, int64_t rows);

/* Opens a work space for blocks of `rows` tokens. EG_ERROR_MEMORY. */
eg_status eg_workspace_open(const eg_config *config, const eg_weights *weights, eg_pool *pool, int64_t rows, eg_workspace **out,
                            eg_error *err);
void eg_workspace_close(eg_workspace *ws);

/* Gives it n rows of logits at least. EG_ERROR_MEMORY: it has as many as before. */
eg_status eg_workspace_reserve_logits(eg_workspace *ws, int64_t n, eg_error *err);

#endif
