/* KV cache: one array of keys and one of values for each layer that owns K/V.
 *
 * Position p of a layer is in slot p % capacity. A layer with a sliding window has a ring of window + block slots: a block of
 * tokens is written before its queries read, and a short rewind needs no recomputation.
 */
#ifndef EG_DECODER_CACHE_H
#define EG_DECODER_CACHE_H

#include "../base/arena.h"
#include "../kernels/kernels.h"
#include "config.h"

typedef struct eg_layer_cache {
    uint8_t *k, *v;            /* [capacity, kv_heads] rows */
    int64_t capacity;
    size_t row_bytes, slot_bytes;   /* bytes of one head, and of all heads, at one position */
} eg_layer_cache;

typedef struct eg_cache {
    eg_kv_type format;
    eg_layer_cache layer[EG_MAX_LAYERS];   /* [kv_layers] */
} eg_cache;

/* Lays the cache out in the arena for `context` positions and blocks of `block` tokens. */
void eg_cache_layout(eg_cache *cache, const eg_config *config, int64_t context, int64_t block, eg_kv_type format,
                     eg_arena *arena);

/* One head of a layer that owns K/V, as the attention kernel reads it. */
eg_kv_view eg_cache_view(const eg_cache *cache, int32_t layer, int32_t head);

/* Whether the token at `position` can be evaluated after positions up to `high` have been written: the rings must still hold
 * all keys of its window. */
bool eg_cache_can_resume(const eg_cache *cache, const eg_config *config, int64_t position, int64_t high);

#endif
