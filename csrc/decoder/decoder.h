/* The text decoder: evaluates blocks of tokens for one session.
 *
 * Owns the work buffers and the KV cache layout (both in the session's arenas); knows nothing of timelines. Two phases:
 *   prefill: layers [0, kv_layers - 1) for a block, then only the K/V of layer kv_layers - 1. Everything after that is used
 *            for logits alone, so it is left out until logits are wanted. This changes no bit of the result.
 *   finish:  the remaining layers, only for the rows whose logits are wanted.
 */
#ifndef EG_DECODER_DECODER_H
#define EG_DECODER_DECODER_H

#include <stdatomic.h>

#include "../nn/multiply.h"
#include "cache.h"
#include "weights.h"

enum { EG_BLOCK = 128 };       /* tokens evaluated together */

typedef struct eg_decoder {
    const eg_config *config;
    const eg_weights *weights;
    const eg_kernels *kernels;
    eg_pool *pool;
    atomic_bool *cancel;       /* checked once per layer */
    eg_cache cache;

    float *x;                  /* [B, d] residual stream */
    float *h;                  /* [B, d] normalised input of a matrix */
    float *t;                  /* [B, d] output of a matrix */
    float *q, *o;              /* [B, H*D] */
    float *k, *v;              /* [B, K*D] */
    float *partials;           /* [partials_size] attention of few queries over one span of keys each, to be merged */
    size_t partials_size;      /* floats: enough for one query over the whole context */
    float *gate, *up;          /* [B, F] */
    float *ple;                /* [B, ple_layers*P]: per-layer inputs of layers ple_from .. ple_from + ple_layers - 1 */
    int32_t ple_from, ple_layers;
    int64_t ple_rows;          /* rows of the table read since its pages were last released */
    eg_matmul matmul;
    float *cos, *sin;          /* [2 (global, local), B, D/2] */
    int64_t angle_first, angle_count;   /* first position and number of positions in cos and sin */
    float *frequency;          /* [2, D/2] */
    float *logits;             /* [V] */
    struct {                   /* experts; R = B * experts_used rows, sorted by expert */
        float *z;              /* [B, E] router logits */
        float *x;              /* [R, d] gathered inputs, then [R, d] outputs */
        float *gate, *up;      /* [R, Fe] */
        float *weight;         /* [B, experts_used] */
        int32_t *expert, *row; /* [B, experts_used]: chosen expert, and the row in x for it */
        int32_t *first;        /* [E + 1]: where an expert's rows begin */
        eg_product *products;          /* [2 * E] */
    } moe;
} eg_decoder;

/* Lays out the cache and the buffers in their arenas. The caller sets config, weights, kernels, pool and cancel before. */
void eg_decoder_layout(eg_decoder *decoder, int64_t context, eg_kv_type kv, eg_arena *cache_arena, eg_arena *work_arena);
/* Fills the constant tables. Call once, after the arenas have their memory. */
void eg_decoder_init(eg_decoder *decoder);

/* x[n] := scaled embeddings of ids[n]; for a negative ids[t], row t of soft[n, d] unchanged. */
void eg_decoder_embed(eg_decoder *decoder, const int32_t *ids, const float *soft, int64_t n);

/* Computes the per-layer inputs of layers [from, to) from ids and x, which must still be the embeddings. Does nothing if the
 * model has none. */
void eg_decoder_per_layer_inputs(eg_decoder *decoder, const int32_t *ids, int64_t n, int32_t from, int32_t to);

/* How a layer is run. */
typedef enum eg_layer_mode {
    EG_LAYER_FULL,             /* write K/V and compute the output */
    EG_LAYER_KV_ONLY,          /* write K/V, leave x as it is */
    EG_LAYER_NO_KV             /* K/V are in the cache already */
} eg_layer_mode;

/* Runs layers [from, to) on x[n] at positions position .. position + n - 1. first_mode applies to layer `from`; last_mode
 * applies to layer `to - 1` if that is another one. A layer that computes its output needs its per-layer inputs. Unless
 * `hidden` is NULL, x is copied to hidden + (l + 1) * hidden_stride after layer l. False if cancelled. */
bool eg_decoder_run(eg_decoder *decoder, int64_t n, int64_t position, int32_t from, int32_t to, eg_layer_mode first_mode,
                    eg_layer_mode last_mode, float *hidden, size_t hidden_stride);

/* logits[n, V] of x[n]; normed[n, d], unless NULL, receives the normalised rows. */
void eg_decoder_head(eg_decoder *decoder, int64_t n, float *logits, float *normed);

#endif
