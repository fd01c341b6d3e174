/* Lays out the KV cache in an arena and finds its rows; see cache.h. */
#include "cache.h"

void eg_cache_layout(eg_cache *cache, const eg_config *c, int64_t context, int64_t block, eg_kv_type format, eg_arena *arena)
{
    cache->format = format;
    for (int32_t l = 0; l < c->kv_layers; l++) {
        eg_layer_cache *kv = &cache->layer[l];
        int64_t ring = (int64_t)c->window + block;
        kv->capacity = c->layer[l].local && ring < context ? ring : context;
        kv->row_bytes = eg_kv_row_bytes(format, c->layer[l].head_dim);
        kv->slot_bytes = kv->row_bytes * (size_t)c->layer[l].kv_heads;
        kv->k = eg_arena_take(arena, (size_t)kv->capacity, kv->slot_bytes);
        kv->v = eg_arena_take(arena, (size_t)kv->capacity, kv->slot_bytes);
    }
}

eg_kv_view eg_cache_view(const eg_cache *cache, int32_t layer, int32_t head)
{
    const eg_layer_cache *kv = &cache->layer[layer];
    size_t offset = kv->row_bytes * (size_t)head;
    return (eg_kv_view){kv->k + offset, kv->v + offset, kv->slot_bytes, kv->capacity, cache->format};
}

bool eg_cache_can_resume(const eg_cache *cache, const eg_config *c, int64_t position, int64_t high)
{
    int64_t oldest = 0;
    for (int32_t l = 0; l < c->kv_layers; l++)
        if (high - cache->layer[l].capacity > oldest) oldest = high - cache->layer[l].capacity;
    return oldest == 0 || position - c->window + 1 >= oldest;
}
