/* Attention of one layer:
 *
 *   h = rms(x; attn_norm);  q = rope(rms(W_q h; q_norm)), k = rope(rms(W_k h; k_norm)), v = rms(W_v h), for each head
 *   t = W_o softmax(q K) V,  K and V from the cache, into which k and v of these tokens have been written
 *
 * In a prompt, threads split the queries. For a few tokens they split the keys, in spans whose partial results are merged.
 */
#include "attention.h"

#include <math.h>

#include "../base/numbers.h"

/* Width of a row of the angle tables: half of the larger head_dim. */
static int64_t angle_pairs(const eg_config *c) { return eg_larger(c->head_dim_global, c->head_dim_local) / 2; }

void eg_attend_init(eg_decoder *dec)
{
    const eg_config *c = dec->config;
    int64_t half = angle_pairs(c);
    /* "Proportional" RoPE: a factor of 1 for the quarter of the pairs that rotate, 1e30 for the others. */
    for (int64_t i = 0; i < c->head_dim_global / 2; i++) {
        float factor = dec->weights->rope_freqs ? dec->weights->rope_freqs[i] : i < c->head_dim_global / 8 ? 1 : 1e30f;
        dec->frequency[i] = (float)pow(c->theta_global, -2.0 * (double)i / c->head_dim_global) / factor;
    }
    for (int64_t i = 0; i < c->head_dim_local / 2; i++)
        dec->frequency[half + i] = (float)pow(c->theta_local, -2.0 * (double)i / c->head_dim_local);
}

void eg_attend_angles(eg_decoder *dec, int64_t n, int64_t position)
{
    const eg_config *c = dec->config;
    int64_t table = angle_pairs(c);
    if (dec->angle_first == position && dec->angle_count >= n) return;
    dec->angle_first = position;
    dec->angle_count = n;
    for (int local = 0; local < 2; local++)
        for (int64_t t = 0; t < n; t++)
            for (int64_t i = 0; i < (local ? c->head_dim_local : c->head_dim_global) / 2; i++) {
                int64_t at = ((int64_t)local * EG_BLOCK + t) * table + i;
                float angle = (float)(position + t) * dec->frequency[local * table + i];
                bool still = angle < 1e-15f;
                dec->cos[at] = still ? 1 : (float)cos(angle);
                dec->sin[at] = still ? 0 : (float)sin(angle);
            }
}

typedef struct attention_call {
    eg_decoder *dec;
    const eg_layer *w;
    const eg_layer_shape *s;
    int64_t n, position;
    int32_t layer;
    bool queries, keys;        /* which of q and k/v are computed */
    int64_t window;            /* keys that a query sees; 0: all */
    int64_t tile;              /* queries of a unit of work, if queries are split */
    int64_t span, spans;       /* first span of keys and number of spans, if keys are split */
} attention_call;

static void norm_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    attention_call *call = context;
    int64_t d = call->dec->config->hidden;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        call->dec->kernels->rms_norm(call->dec->h + t * d, call->dec->x + t * d, call->w->attn_norm, d, call->dec->config->eps);
}

/* Rotates each pair (x_i, x_{i+D/2}) by its angle. */
static void rotate(float *x, const float *cos, const float *sin, int64_t half)
{
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}

/* Norm and RoPE of q and k, norm of v; writes k and v into the cache. */
static void heads_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    attention_call *call = context;
    eg_decoder *dec = call->dec;
    const eg_config *c = dec->config;
    int64_t D = call->s->head_dim, half = D / 2, table = angle_pairs(c);
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        const float *cos = dec->cos + ((call->s->local ? EG_BLOCK : 0) + t) * table;
        const float *sin = dec->sin + ((call->s->local ? EG_BLOCK : 0) + t) * table;
        for (int64_t h = 0; call->queries && h < call->s->heads; h++) {
            float *q = dec->q + (t * call->s->heads + h) * D;
            dec->kernels->rms_norm(q, q, call->w->q_norm, D, c->eps);
            rotate(q, cos, sin, half);
        }
        if (!call->keys) continue;
        const eg_layer_cache *cache = &dec->cache.layer[call->layer];
        for (int64_t h = 0; h < call->s->kv_heads; h++) {
            int64_t slot = (call->position + t) % cache->capacity;
            size_t offset = (size_t)slot * cache->slot_bytes + (size_t)h * cache->row_bytes;
            float *k = dec->k + (t * call->s->kv_heads + h) * D, *v = dec->v + (t * call->s->kv_heads + h) * D;
            dec->kernels->rms_norm(v, call->w->v.data ? v : k, NULL, D, c->eps);   /* k_eq_v: v is k before its norm */
            dec->kernels->rms_norm(k, k, call->w->k_norm, D, c->eps);
            rotate(k, cos, sin, half);
            dec->kernels->kv_store(dec->cache.format, cache->k + offset, k, D);
            dec->kernels->kv_store(dec->cache.format, cache->v + offset, v, D);
        }
    }
}

/* Some queries that use one KV head, their outputs, and that head's cache. */
typedef struct queries {
    const float *q;
    float *o;
    int64_t n, share, width;   /* share: query heads that use the KV head; width: floats from one token to the next */
    eg_kv_view view;
} queries;

static queries queries_of(const attention_call *call, int64_t first, int64_t n, int64_t kv_head)
{
    int64_t D = call->s->head_dim, share = call->s->heads / call->s->kv_heads, width = call->s->heads * D;
    int64_t offset = first * width + kv_head * share * D;
    return (queries){
        .q = call->dec->q + offset,
        .o = call->dec->o + offset,
        .n = n,
        .share = share,
        .width = width,
        .view = eg_cache_view(&call->dec->cache, call->s->kv_source, (int32_t)kv_head),
    };
}

/* Unit of work: a tile of queries and one KV head. */
static void attention_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    attention_call *call = context;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t first = unit / call->s->kv_heads * call->tile;
        queries a = queries_of(call, first, call->n - first < call->tile ? call->n - first : call->tile,
                               unit % call->s->kv_heads);
        call->dec->kernels->attention(a.o, a.width, a.q, a.width, a.n, call->position + first, a.share, call->s->head_dim,
                                      &a.view, call->window, eg_matmul_scratch(&call->dec->matmul, worker));
    }
}

/* Unit of work: one span of the keys of one KV head, for all queries. */
static void span_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    attention_call *call = context;
    for (int64_t unit = begin; unit < end; unit++) {
        queries a = queries_of(call, 0, call->n, unit / call->spans);
        size_t partial = eg_attention_partial_floats(call->s->head_dim, a.n * a.share);
        call->dec->kernels->attention_span(call->dec->partials + (size_t)unit * partial, a.q, a.width, a.n, call->position,
                                           a.share, call->s->head_dim, &a.view, call->window, call->span + unit % call->spans,
                                           eg_matmul_scratch(&call->dec->matmul, worker));
    }
}

/* Unit of work: the result of one query and head. */
static void merge_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    attention_call *call = context;
    (void)worker;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t rows = call->n * call->s->heads / call->s->kv_heads, row = unit % rows;
        queries a = queries_of(call, 0, call->n, unit / rows);
        size_t partials = (size_t)call->spans * eg_attention_partial_floats(call->s->head_dim, rows);
        call->dec->kernels->attention_merge(a.o + row / a.share * a.width + row % a.share * call->s->head_dim,
                                            call->dec->partials + (size_t)(unit / rows) * partials, call->spans, rows, row,
                                            call->s->head_dim);
    }
}

static void attention(attention_call *call)
{
    eg_decoder *dec = call->dec;
    int64_t threads = eg_pool_threads(dec->pool), kv_heads = call->s->kv_heads, rows = call->n * call->s->heads;
    call->window = call->s->local ? dec->config->window : 0;
    call->span = call->window && call->position >= call->window ? (call->position - call->window + 1) / EG_SPAN : 0;
    call->spans = (call->position + call->n - 1) / EG_SPAN - call->span + 1;
    size_t partials = (size_t)call->spans * eg_attention_partial_floats(call->s->head_dim, rows);
    if (threads > kv_heads && call->spans > 1 && call->n <= EG_SPAN_QUERIES && partials <= dec->partials_size) {
        eg_pool_run(dec->pool, span_task, call, call->spans * kv_heads, 1);
        /* With few spans a piece is many rows: merging them takes less time than waking another thread. */
        eg_pool_run(dec->pool, merge_task, call, rows, 1 + 64 / call->spans);
        return;
    }
    call->tile = (call->n * kv_heads + threads - 1) / threads;
    if (call->tile > EG_SPAN_QUERIES) call->tile = EG_SPAN_QUERIES;
    eg_pool_run(dec->pool, attention_task, call, (call->n + call->tile - 1) / call->tile * kv_heads, 1);
}

void eg_attend(eg_decoder *dec, int32_t layer, int64_t n, int64_t position, eg_layer_mode mode)
{
    const eg_config *c = dec->config;
    const eg_layer *w = &dec->weights->layer[layer];
    const eg_layer_shape *s = &c->layer[layer];
    int64_t q_width = (int64_t)s->heads * s->head_dim, kv_width = (int64_t)s->kv_heads * s->head_dim;
    attention_call call = {.dec = dec, .w = w, .s = s, .n = n, .position = position, .layer = layer};
    eg_product products[3];
    int64_t n_products = 0;

    eg_pool_run(dec->pool, norm_task, &call, n, 1);
    call.queries = mode != EG_LAYER_KV_ONLY;
    call.keys = s->owns_kv && mode != EG_LAYER_NO_KV;
    if (call.queries) products[n_products++] = (eg_product){w->q, 0, n, dec->q, q_width, NULL, 0};
    if (call.keys) {
        products[n_products++] = (eg_product){w->k, 0, n, dec->k, kv_width, NULL, 0};
        if (w->v.data) products[n_products++] = (eg_product){w->v, 0, n, dec->v, kv_width, NULL, 0};
    }
    eg_multiply(&dec->matmul, dec->h, c->hidden, n, products, n_products);
    eg_pool_run(dec->pool, heads_task, &call, n, 1);
    if (mode == EG_LAYER_KV_ONLY) return;

    attention(&call);
    eg_multiply_one(&dec->matmul, &w->o, dec->o, n, dec->t);
}
