/* KV cache: one pair of arrays for each layer that owns K/V, a ring for the sliding ones.
 *
 * Position p of a layer lies in slot p % capacity. A sliding layer's ring holds its window and one block more, so that a
 * block of tokens can be written before it is read, and a short rewind costs nothing.
 */
#ifndef EG_DECODER_CACHE_H
#define EG_DECODER_CACHE_H

#include "../base/arena.h"
#include "../kernels/kernels.h"
#include "config.h"

typedef struct eg_layer_cache {
    uint8_t *k, *v;            /* [capacity, kv_heads] rows */
    int64_t capacity;
    size_t row_bytes, slot_bytes;   /* of one head; of all heads of one position */
} eg_layer_cache;

typedef struct eg_cache {
    eg_kv_type format;
    eg_layer_cache layer[EG_MAX_LAYERS];   /* [kv_layers] */
} eg_cache;

/* Lays the cache out in the arena for `context` positions and blocks of `block` tokens. */
void eg_cache_layout(eg_cache *cache, const eg_config *config, int64_t context, int64_t block, eg_kv_type format,
                     eg_arena *arena);

/* What the attention kernel reads: one head of the layer that owns the K/V. */
eg_kv_view eg_cache_view(const eg_cache *cache, int32_t layer, int32_t head);

/* Whether the token at `position` can be evaluated after the session once reached `high` positions: the rings must still
 * hold what its window sees. */
bool eg_cache_can_resume(const eg_cache *cache, const eg_config *config, int64_t position, int64_t high);

#endif
