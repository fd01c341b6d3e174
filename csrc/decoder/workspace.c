/* Lays the work space out; see workspace.h. */
#include "workspace.h"

#include <stdlib.h>

#include "../base/numbers.h"
#include "attention.h"

enum { PARTIALS = 64 };        /* partial results of one query for which there is room: the keys of 8,192 positions */

static float *floats(eg_arena *arena, int64_t rows, int64_t cols)
{
    return eg_arena_take(arena, (size_t)rows, (size_t)cols * sizeof(float));
}

static void layout_experts(eg_workspace *ws, int64_t rows, eg_arena *arena)
{
    const eg_config *c = ws->config;
    ws->moe.z = floats(arena, ws->rows, c->experts);
    ws->moe.x = floats(arena, rows, c->hidden);
    ws->moe.gate = floats(arena, rows, c->expert_ffn);
    ws->moe.up = floats(arena, rows, c->expert_ffn);
    ws->moe.weight = floats(arena, rows, 1);
    ws->moe.expert = eg_arena_take(arena, (size_t)rows, sizeof(int32_t));
    ws->moe.row = eg_arena_take(arena, (size_t)rows, sizeof(int32_t));
    ws->moe.order = eg_arena_take(arena, (size_t)c->experts, sizeof(int32_t));
    ws->moe.uses = eg_arena_take(arena, (size_t)c->experts, sizeof(int32_t));
    ws->moe.first = eg_arena_take(arena, (size_t)c->experts + 1, sizeof(int32_t));
    ws->moe.products = eg_arena_take(arena, 2 * (size_t)c->experts, sizeof(eg_product));
}

static void layout(eg_workspace *ws, eg_arena *arena)
{
    const eg_config *c = ws->config;
    int64_t B = ws->rows, d = c->hidden, head_dim = eg_larger(c->head_dim_global, c->head_dim_local), ffn = 0;
    int64_t q_width = 0, kv_width = 0, heads = 0, group = 1;
    for (int32_t l = 0; l < c->layers; l++) {
        ffn = eg_larger(ffn, c->layer[l].ffn);
        kv_width = eg_larger(kv_width, (int64_t)c->layer[l].kv_heads * c->layer[l].head_dim);
        q_width = eg_larger(q_width, (int64_t)c->layer[l].heads * c->layer[l].head_dim);
        heads = eg_larger(heads, c->layer[l].heads);
        group = eg_larger(group, c->layer[l].heads / c->layer[l].kv_heads);
    }
    int64_t expert_rows = B * eg_larger(c->experts_used, 1), expert_widest = c->experts ? eg_larger(d, c->expert_ffn) : 0;
    int64_t widest = eg_larger(eg_larger(d, q_width), eg_larger(eg_larger(ffn, c->per_layer), c->expert_ffn));
    ws->row = eg_arena_take(arena, (size_t)B, sizeof *ws->row);
    ws->stretch = eg_arena_take(arena, (size_t)B, sizeof *ws->stretch);
    ws->split = eg_arena_take(arena, (size_t)B, sizeof *ws->split);
    ws->x = floats(arena, B, d);
    ws->h = floats(arena, B, d);
    ws->t = floats(arena, B, d);
    ws->q = floats(arena, B, q_width);
    ws->o = floats(arena, B, q_width);
    ws->k = floats(arena, B, kv_width);
    ws->v = floats(arena, B, kv_width);
    ws->gate = floats(arena, B, ffn);
    ws->up = floats(arena, B, ffn);
    ws->ple = floats(arena, B, (int64_t)c->layers * c->per_layer);
    ws->cos = floats(arena, 2 * B, head_dim / 2);
    ws->sin = floats(arena, 2 * B, head_dim / 2);
    ws->angle = eg_arena_take(arena, (size_t)B, sizeof *ws->angle);
    ws->frequency = floats(arena, 2, head_dim / 2);
    if (c->experts) layout_experts(ws, expert_rows, arena);
    if (ws->weights->output_lean.data) {
        ws->head.best = eg_arena_take(arena, (size_t)c->vocab / EG_HEAD_GROUP + 1, sizeof(int32_t));
        ws->head.token = eg_arena_take(arena, EG_HEAD_SEEN, sizeof(int32_t));
        ws->head.value = eg_arena_take(arena, EG_HEAD_SEEN, sizeof(int32_t));
        ws->head.exact = eg_arena_take(arena, EG_HEAD_MOST, sizeof(float));
        ws->head.rows = eg_arena_take(arena, EG_HEAD_MOST, ws->weights->output.row_bytes);
    }
    eg_sampler_layout(&ws->sampler, c->vocab, arena);
    ws->partials_size = PARTIALS * eg_attention_partial_floats(head_dim, heads);
    ws->partials = eg_arena_take(arena, ws->partials_size, sizeof(float));
    size_t attention = eg_attention_scratch_bytes(head_dim, group, EG_SPAN_QUERIES);
    ws->row_bytes = (size_t)eg_larger((int64_t)c->layers * c->per_layer, d) * sizeof(float);
    size_t row = 2 * ws->row_bytes;
    ws->matmul.kernels = ws->kernels;
    ws->matmul.pool = ws->pool;
    eg_matmul_layout(&ws->matmul, eg_larger(B * widest, expert_rows * expert_widest), widest, attention > row ? attention : row,
                     arena);
}

static eg_workspace described(const eg_config *config, const eg_weights *weights, eg_pool *pool, int64_t rows)
{
    return (eg_workspace){.config = config, .weights = weights, .kernels = eg_kernels_get(), .pool = pool, .rows = rows};
}

size_t eg_workspace_bytes(const eg_config *config, const eg_weights *weights, eg_pool *pool, int64_t rows)
{
    eg_workspace ws = described(config, weights, pool, rows);
    eg_arena arena = {NULL, 0};
    layout(&ws, &arena);
    eg_arena_take(&arena, (size_t)config->vocab, sizeof(float));
    return arena.used;
}

eg_status eg_workspace_open(const eg_config *config, const eg_weights *weights, eg_pool *pool, int64_t rows, eg_workspace **out,
                            eg_error *err)
{
    eg_workspace *ws = malloc(sizeof *ws);
    if (!ws) return eg_fail(err, EG_ERROR_MEMORY, "out of memory.");
    *ws = described(config, weights, pool, rows);
    eg_arena arena = {NULL, 0};
    layout(ws, &arena);
    ws->bytes = arena.used;
    arena = eg_arena_open(arena.used, &ws->memory);
    if (!arena.base) {
        free(ws);
        return eg_fail(err, EG_ERROR_MEMORY, "no memory for the work space of %lld tokens.", (long long)rows);
    }
    layout(ws, &arena);
    eg_attend_init(ws);
    eg_status status = eg_workspace_reserve_logits(ws, 1, err);
    if (status) eg_workspace_close(ws);
    else *out = ws;
    return status;
}

void eg_workspace_close(eg_workspace *ws)
{
    if (!ws) return;
    eg_arena_close(ws->memory);
    eg_arena_close(ws->logit_memory);
    free(ws);
}

eg_status eg_workspace_reserve_logits(eg_workspace *ws, int64_t n, eg_error *err)
{
    if (n <= ws->logit_rows) return EG_OK;
    void *memory;
    eg_arena arena = eg_arena_open((size_t)n * (size_t)ws->config->vocab * sizeof(float), &memory);
    if (!arena.base) return eg_fail(err, EG_ERROR_MEMORY, "no memory for the logits of %lld tokens.", (long long)n);
    eg_arena_close(ws->logit_memory);
    ws->logit_memory = memory;
    ws->logits = (float *)(void *)arena.base;
    ws->bytes += (size_t)(n - ws->logit_rows) * (size_t)ws->config->vocab * sizeof(float);
    ws->logit_rows = n;
    return EG_OK;
}
