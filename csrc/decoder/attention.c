/* Attention of one layer:
 *
 *   h = rms(x; attn_norm);  q = rope(rms(W_q h; q_norm)), k = rope(rms(W_k h; k_norm)), v = rms(W_v h), each by head
 *   t = W_o softmax(q K) V  over the cache, which has k and v of these tokens by then
 *
 * Threads share the queries of a prompt; for a few tokens they share the keys, in spans whose results are merged.
 */
#include "attention.h"

#include <math.h>

#include "../base/numbers.h"

/* Pairs of a row of the angle tables: those of the wider kind of head. */
static int64_t angle_pairs(const eg_config *c) { return eg_larger(c->head_dim_global, c->head_dim_local) / 2; }

void eg_attend_init(eg_decoder *y)
{
    const eg_config *c = y->config;
    int64_t half = angle_pairs(c);
    /* "Proportional" RoPE: the file's factors are 1 for pairs that rotate, a quarter of them, and 1e30 for the others. */
    for (int64_t i = 0; i < c->head_dim_global / 2; i++) {
        float factor = y->weights->rope_freqs ? y->weights->rope_freqs[i] : i < c->head_dim_global / 8 ? 1 : 1e30f;
        y->frequency[i] = (float)pow(c->theta_global, -2.0 * (double)i / c->head_dim_global) / factor;
    }
    for (int64_t i = 0; i < c->head_dim_local / 2; i++)
        y->frequency[half + i] = (float)pow(c->theta_local, -2.0 * (double)i / c->head_dim_local);
}

void eg_attend_angles(eg_decoder *y, int64_t n, int64_t position)
{
    const eg_config *c = y->config;
    int64_t table = angle_pairs(c);
    if (y->angle_first == position && y->angle_count >= n) return;
    y->angle_first = position;
    y->angle_count = n;
    for (int local = 0; local < 2; local++)
        for (int64_t t = 0; t < n; t++)
            for (int64_t i = 0; i < (local ? c->head_dim_local : c->head_dim_global) / 2; i++) {
                int64_t at = ((int64_t)local * EG_BLOCK + t) * table + i;
                float angle = (float)(position + t) * y->frequency[local * table + i];
                bool still = angle < 1e-15f;
                y->cos[at] = still ? 1 : (float)cos(angle);
                y->sin[at] = still ? 0 : (float)sin(angle);
            }
}

typedef struct step {
    eg_decoder *y;
    const eg_layer *w;
    const eg_layer_shape *s;
    int64_t n, position;
    int32_t layer;
    bool queries, keys;        /* which of q and k/v are computed */
    int64_t window;            /* attention: keys that a query sees, 0 for all */
    int64_t tile;              /* queries of a task */
    int64_t span, spans;       /* or the first span of keys, and how many there are */
} step;

static void norm_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    step *p = context;
    int64_t d = p->y->config->hidden;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        p->y->kernels->rms_norm(p->y->h + t * d, p->y->x + t * d, p->w->attn_norm, d, p->y->config->eps);
}

/* (x_i, x_{i+D/2}) rotated by the angle of pair i. */
static void rotate(float *x, const float *cos, const float *sin, int64_t half)
{
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}

/* Norms and RoPE of q and k, the norm of v, and k and v into the cache. */
static void heads_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    step *p = context;
    eg_decoder *y = p->y;
    const eg_config *c = y->config;
    int64_t D = p->s->head_dim, half = D / 2, table = angle_pairs(c);
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        const float *cos = y->cos + ((p->s->local ? EG_BLOCK : 0) + t) * table;
        const float *sin = y->sin + ((p->s->local ? EG_BLOCK : 0) + t) * table;
        for (int64_t h = 0; p->queries && h < p->s->heads; h++) {
            float *q = y->q + (t * p->s->heads + h) * D;
            y->kernels->rms_norm(q, q, p->w->q_norm, D, c->eps);
            rotate(q, cos, sin, half);
        }
        if (!p->keys) continue;
        const eg_layer_cache *cache = &y->cache.layer[p->layer];
        for (int64_t h = 0; h < p->s->kv_heads; h++) {
            int64_t slot = (p->position + t) % cache->capacity;
            size_t offset = (size_t)slot * cache->slot_bytes + (size_t)h * cache->row_bytes;
            float *k = y->k + (t * p->s->kv_heads + h) * D, *v = y->v + (t * p->s->kv_heads + h) * D;
            y->kernels->rms_norm(v, p->w->v.data ? v : k, NULL, D, c->eps);   /* k_eq_v: from k before its norm */
            y->kernels->rms_norm(k, k, p->w->k_norm, D, c->eps);
            rotate(k, cos, sin, half);
            y->kernels->kv_store(y->cache.format, cache->k + offset, k, D);
            y->kernels->kv_store(y->cache.format, cache->v + offset, v, D);
        }
    }
}

/* Queries `first` and on that use one KV head, and where their results go. */
typedef struct queries {
    const float *q;
    float *o;
    int64_t n, share, width;   /* share: heads of q that use the KV head; width: floats from one token to the next */
    eg_kv_view view;
} queries;

static queries queries_of(const step *p, int64_t first, int64_t n, int64_t kv_head)
{
    int64_t D = p->s->head_dim, share = p->s->heads / p->s->kv_heads, width = p->s->heads * D;
    int64_t offset = first * width + kv_head * share * D;
    return (queries){
        p->y->q + offset, p->y->o + offset, n, share, width, eg_cache_view(&p->y->cache, p->s->kv_source, (int32_t)kv_head)};
}

/* Unit of work: a tile of queries and one KV head. */
static void attention_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    step *p = context;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t first = unit / p->s->kv_heads * p->tile;
        queries a = queries_of(p, first, p->n - first < p->tile ? p->n - first : p->tile, unit % p->s->kv_heads);
        p->y->kernels->attention(a.o, a.width, a.q, a.width, a.n, p->position + first, a.share, p->s->head_dim, &a.view,
                                 p->window, eg_multiplier_scratch(&p->y->multiplier, worker));
    }
}

/* Unit of work: one span of the keys of one KV head, for all queries. */
static void span_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    step *p = context;
    for (int64_t unit = begin; unit < end; unit++) {
        queries a = queries_of(p, 0, p->n, unit / p->spans);
        size_t part = eg_attention_part_floats(p->s->head_dim, a.n * a.share);
        p->y->kernels->attention_span(p->y->parts + (size_t)unit * part, a.q, a.width, a.n, p->position, a.share,
                                      p->s->head_dim, &a.view, p->window, p->span + unit % p->spans,
                                      eg_multiplier_scratch(&p->y->multiplier, worker));
    }
}

/* Unit of work: the result of one query and head. */
static void merge_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    step *p = context;
    (void)worker;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t rows = p->n * p->s->heads / p->s->kv_heads, row = unit % rows;
        queries a = queries_of(p, 0, p->n, unit / rows);
        size_t parts = (size_t)p->spans * eg_attention_part_floats(p->s->head_dim, rows);
        p->y->kernels->attention_merge(a.o + row / a.share * a.width + row % a.share * p->s->head_dim,
                                       p->y->parts + (size_t)(unit / rows) * parts, p->spans, rows, row, p->s->head_dim);
    }
}

static void attention(step *p)
{
    eg_decoder *y = p->y;
    int64_t threads = eg_pool_threads(y->pool), kv_heads = p->s->kv_heads, rows = p->n * p->s->heads;
    p->window = p->s->local ? y->config->window : 0;
    p->span = p->window && p->position >= p->window ? (p->position - p->window + 1) / EG_SPAN : 0;
    p->spans = (p->position + p->n - 1) / EG_SPAN - p->span + 1;
    size_t parts = (size_t)p->spans * eg_attention_part_floats(p->s->head_dim, rows);
    if (threads > kv_heads && p->spans > 1 && p->n <= EG_SPAN_QUERIES && parts <= y->parts_size) {
        eg_pool_run(y->pool, span_task, p, p->spans * kv_heads, 1);
        eg_pool_run(y->pool, merge_task, p, rows, 1 + 64 / p->spans);   /* few spans are merged before a thread has come */
        return;
    }
    p->tile = (p->n * kv_heads + threads - 1) / threads;
    if (p->tile > EG_SPAN_QUERIES) p->tile = EG_SPAN_QUERIES;
    eg_pool_run(y->pool, attention_task, p, (p->n + p->tile - 1) / p->tile * kv_heads, 1);
}

void eg_attend(eg_decoder *y, int32_t layer, int64_t n, int64_t position, eg_layer_mode mode)
{
    const eg_config *c = y->config;
    const eg_layer *w = &y->weights->layer[layer];
    const eg_layer_shape *s = &c->layer[layer];
    int64_t q_width = (int64_t)s->heads * s->head_dim, kv_width = (int64_t)s->kv_heads * s->head_dim;
    step p = {.y = y, .w = w, .s = s, .n = n, .position = position, .layer = layer};
    eg_job jobs[3];
    int64_t n_jobs = 0;

    eg_pool_run(y->pool, norm_task, &p, n, 1);
    p.queries = mode != EG_LAYER_KV_ONLY;
    p.keys = s->owns_kv && mode != EG_LAYER_NO_KV;
    if (p.queries) jobs[n_jobs++] = (eg_job){w->q, 0, n, y->q, q_width, NULL, 0};
    if (p.keys) {
        jobs[n_jobs++] = (eg_job){w->k, 0, n, y->k, kv_width, NULL, 0};
        if (w->v.data) jobs[n_jobs++] = (eg_job){w->v, 0, n, y->v, kv_width, NULL, 0};
    }
    eg_multiply(&y->multiplier, y->h, c->hidden, n, jobs, n_jobs);
    eg_pool_run(y->pool, heads_task, &p, n, 1);
    if (mode == EG_LAYER_KV_ONLY) return;

    attention(&p);
    eg_multiply_one(&y->multiplier, &w->o, y->o, n, y->t);
}
