/* Attention of one layer:
 *
 *   h = rms(x; attn_norm);  q = rope(rms(W_q h; q_norm)), k = rope(rms(W_k h; k_norm)), v = rms(W_v h), for each head
 *   t = W_o softmax(q K) V,  K and V from the cache, into which k and v of these tokens have been written
 *
 * In a prompt, threads split the queries. For a few tokens they split the keys, in spans whose partial results are merged. In a
 * block of several timelines, the work of all of them is one list.
 */
#include "attention.h"

#include <math.h>

#include "../base/numbers.h"

/* Width of a row of the angle tables: half of the larger head_dim. */
static int64_t angle_pairs(const eg_config *c) { return eg_larger(c->head_dim_global, c->head_dim_local) / 2; }

void eg_attend_init(eg_workspace *ws)
{
    const eg_config *c = ws->config;
    int64_t half = angle_pairs(c);
    /* "Proportional" RoPE: a factor of 1 for the quarter of the pairs that rotate, 1e30 for the others. */
    for (int64_t i = 0; i < c->head_dim_global / 2; i++) {
        float factor = ws->weights->rope_freqs ? ws->weights->rope_freqs[i] : i < c->head_dim_global / 8 ? 1 : 1e30f;
        ws->frequency[i] = (float)pow(c->theta_global, -2.0 * (double)i / c->head_dim_global) / factor;
    }
    for (int64_t i = 0; i < c->head_dim_local / 2; i++)
        ws->frequency[half + i] = (float)pow(c->theta_local, -2.0 * (double)i / c->head_dim_local);
    for (int64_t t = 0; t < ws->rows; t++) ws->angle[t] = -1;
}

static void angles_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    eg_workspace *ws = context;
    const eg_config *c = ws->config;
    int64_t table = angle_pairs(c);
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        if (ws->angle[t] == ws->row[t].position) continue;
        ws->angle[t] = ws->row[t].position;
        for (int local = 0; local < 2; local++)
            for (int64_t i = 0; i < (local ? c->head_dim_local : c->head_dim_global) / 2; i++) {
                int64_t at = ((int64_t)local * ws->rows + t) * table + i;
                float angle = (float)ws->angle[t] * ws->frequency[local * table + i];
                bool still = angle < 1e-15f;
                ws->cos[at] = still ? 1 : (float)cos(angle);
                ws->sin[at] = still ? 0 : (float)sin(angle);
            }
    }
}

void eg_attend_angles(eg_workspace *ws, int64_t n) { eg_pool_run(ws->pool, angles_task, ws, n, 1); }

typedef struct attention_call {
    eg_workspace *ws;
    const eg_layer *w;
    const eg_layer_shape *s;
    int32_t layer;
    bool queries, keys;        /* which of q and k/v are computed */
    int64_t window;            /* keys that a query sees; 0: all */
    int64_t tile;              /* queries of a unit of work, where queries are split */
    int64_t n_splits;          /* of ws->split */
} attention_call;

static void norm_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    attention_call *call = context;
    eg_workspace *ws = call->ws;
    int64_t d = ws->config->hidden;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        ws->kernels->rms_norm(ws->h + t * d, ws->x + t * d, call->w->attn_norm, d, ws->config->eps);
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
    eg_workspace *ws = call->ws;
    const eg_config *c = ws->config;
    int64_t D = call->s->head_dim, half = D / 2, table = angle_pairs(c);
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        const float *cos = ws->cos + ((call->s->local ? ws->rows : 0) + t) * table;
        const float *sin = ws->sin + ((call->s->local ? ws->rows : 0) + t) * table;
        for (int64_t h = 0; call->queries && h < call->s->heads; h++) {
            float *q = ws->q + (t * call->s->heads + h) * D;
            ws->kernels->rms_norm(q, q, call->w->q_norm, D, c->eps);
            rotate(q, cos, sin, half);
        }
        if (!call->keys) continue;
        const eg_cache *cache = ws->row[t].cache;
        const eg_layer_cache *of_layer = &cache->layer[call->layer];
        for (int64_t h = 0; h < call->s->kv_heads; h++) {
            int64_t slot = ws->row[t].position % of_layer->capacity;
            size_t offset = (size_t)slot * of_layer->slot_bytes + (size_t)h * of_layer->row_bytes;
            float *k = ws->k + (t * call->s->kv_heads + h) * D, *v = ws->v + (t * call->s->kv_heads + h) * D;
            ws->kernels->rms_norm(v, call->w->v.data ? v : k, NULL, D, c->eps);   /* k_eq_v: v is k before its norm */
            ws->kernels->rms_norm(k, k, call->w->k_norm, D, c->eps);
            rotate(k, cos, sin, half);
            ws->kernels->kv_store(cache->format, of_layer->k + offset, k, D);
            ws->kernels->kv_store(cache->format, of_layer->v + offset, v, D);
        }
    }
}

/* ---- queries and keys --------------------------------------------------------------------------------------------- */

/* Some queries of a stretch that use one KV head, their outputs, and that head's cache. */
typedef struct queries {
    const float *q;
    float *o;
    int64_t n, position, until;
    int64_t share, width;      /* share: query heads that use the KV head; width: floats from one token to the next */
    eg_kv_view view;
} queries;

/* The last position that the queries of a stretch may see; -1: each sees up to its own. */
static int64_t until_of(const attention_call *call, const eg_stretch *stretch) { return call->s->local ? stretch->until : -1; }

static queries queries_of(const attention_call *call, const eg_stretch *stretch, int64_t first, int64_t n, int64_t kv_head)
{
    int64_t D = call->s->head_dim, share = call->s->heads / call->s->kv_heads, width = call->s->heads * D;
    int64_t offset = (stretch->row + first) * width + kv_head * share * D;
    return (queries){
        .q = call->ws->q + offset,
        .o = call->ws->o + offset,
        .n = n,
        .position = stretch->position + first,
        .until = until_of(call, stretch),
        .share = share,
        .width = width,
        .view = eg_cache_view(stretch->cache, call->s->kv_source, (int32_t)kv_head),
    };
}

/* The spans of keys that a stretch sees. */
static int64_t spans_of(const attention_call *call, const eg_stretch *stretch, int64_t *first)
{
    int64_t until = until_of(call, stretch), newest = until < 0 ? stretch->position + stretch->n - 1 : until;
    *first = call->window && stretch->position >= call->window ? (stretch->position - call->window + 1) / EG_SPAN : 0;
    return newest / EG_SPAN - *first + 1;
}

/* Whether the keys of a stretch are split, and not its queries. */
static bool splits_keys(const attention_call *call, const eg_stretch *stretch)
{
    int64_t first, threads = eg_pool_threads(call->ws->pool);
    return threads > 1 && (threads > call->s->kv_heads || call->ws->stretches > 1) && stretch->n <= EG_SPAN_QUERIES &&
           spans_of(call, stretch, &first) > 1;
}

/* ---- split by queries --------------------------------------------------------------------------------------------- */

static int64_t tiles_of(const attention_call *call, const eg_stretch *stretch)
{
    return splits_keys(call, stretch) ? 0 : (stretch->n + call->tile - 1) / call->tile * call->s->kv_heads;
}

/* Unit of work: a tile of queries and one KV head. The units are numbered through all stretches. */
static void attention_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    attention_call *call = context;
    int64_t start = 0;
    for (int64_t i = 0; begin < end; i++) {
        const eg_stretch *stretch = &call->ws->stretch[i];
        int64_t stop = start + tiles_of(call, stretch);
        for (; begin < end && begin < stop; begin++) {
            int64_t first = (begin - start) / call->s->kv_heads * call->tile;
            queries a = queries_of(call, stretch, first, eg_smaller(stretch->n - first, call->tile),
                                   (begin - start) % call->s->kv_heads);
            call->ws->kernels->attention(a.o, a.width, a.q, a.width, a.n, a.position, a.until, a.share, call->s->head_dim,
                                         &a.view, call->window, eg_matmul_scratch(&call->ws->matmul, worker));
        }
        start = stop;
    }
}

static void attend_by_queries(attention_call *call)
{
    eg_workspace *ws = call->ws;
    int64_t n = 0, units = 0, threads = eg_pool_threads(ws->pool);
    for (int64_t i = 0; i < ws->stretches; i++)
        if (!splits_keys(call, &ws->stretch[i])) n += ws->stretch[i].n;
    call->tile = (n * call->s->kv_heads + threads - 1) / threads;
    call->tile = call->tile < 1 ? 1 : eg_smaller(call->tile, EG_SPAN_QUERIES);
    for (int64_t i = 0; i < ws->stretches; i++) units += tiles_of(call, &ws->stretch[i]);
    eg_pool_run(ws->pool, attention_task, call, units, 1);
}

/* ---- split by keys ------------------------------------------------------------------------------------------------ */

/* Floats of the partial results of one span, for all queries of a stretch that use one KV head. */
static size_t partial_of(const attention_call *call, const eg_split *split)
{
    int64_t share = call->s->heads / call->s->kv_heads;
    return eg_attention_partial_floats(call->s->head_dim, call->ws->stretch[split->stretch].n * share);
}

/* Unit of work: one span of the keys of one KV head, for all queries of a stretch. Units are numbered through all splits. */
static void span_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    attention_call *call = context;
    int64_t start = 0;
    for (const eg_split *split = call->ws->split; begin < end; split++) {
        int64_t stop = start + split->spans * call->s->kv_heads;
        for (; begin < end && begin < stop; begin++) {
            const eg_stretch *stretch = &call->ws->stretch[split->stretch];
            int64_t kv_head = (begin - start) / split->spans, at = (begin - start) % split->spans;
            queries a = queries_of(call, stretch, 0, stretch->n, kv_head);
            size_t slot = (size_t)(kv_head * split->slots + split->slot + at);
            call->ws->kernels->attention_span(call->ws->partials + split->partials + slot * partial_of(call, split), a.q,
                                              a.width, a.n, a.position, a.until, a.share, call->s->head_dim, &a.view,
                                              call->window, split->span + at, eg_matmul_scratch(&call->ws->matmul, worker));
        }
        start = stop;
    }
}

/* Unit of work: the result of one query and head. */
static void merge_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    attention_call *call = context;
    int64_t start = 0;
    (void)worker;
    for (const eg_split *split = call->ws->split; begin < end; split++) {
        const eg_stretch *stretch = &call->ws->stretch[split->stretch];
        int64_t stop = start + stretch->n * call->s->heads;
        for (; begin < end && begin < stop; begin++) {
            int64_t rows = stretch->n * call->s->heads / call->s->kv_heads;
            int64_t kv_head = (begin - start) / rows, row = (begin - start) % rows;
            queries a = queries_of(call, stretch, 0, stretch->n, kv_head);
            size_t slot = (size_t)(kv_head * split->slots);
            call->ws->kernels->attention_merge(a.o + row / a.share * a.width + row % a.share * call->s->head_dim,
                                               call->ws->partials + split->partials + slot * partial_of(call, split),
                                               split->slot + split->spans, rows, row, call->s->head_dim);
        }
        start = stop;
    }
}

/* Computes the splits, and adds them to the results of their stretches. */
static void run_splits(attention_call *call)
{
    eg_workspace *ws = call->ws;
    int64_t units = 0, rows = 0, fewest = INT64_MAX;
    for (int64_t i = 0; i < call->n_splits; i++) {
        units += ws->split[i].spans * call->s->kv_heads;
        rows += ws->stretch[ws->split[i].stretch].n * call->s->heads;
        fewest = eg_smaller(fewest, ws->split[i].spans);
    }
    eg_pool_run(ws->pool, span_task, call, units, 1);
    /* With few spans a piece is many rows: merging them takes less time than waking another thread. */
    if (rows) eg_pool_run(ws->pool, merge_task, call, rows, 1 + 64 / fewest);
    call->n_splits = 0;
}

/* A stretch whose partial results do not fit at once: some spans at a time, which are merged into slot 0. */
static void attend_in_steps(attention_call *call, eg_split split, int64_t spans)
{
    eg_workspace *ws = call->ws;
    split.slots = (int64_t)(ws->partials_size / partial_of(call, &split)) / call->s->kv_heads;
    split.partials = 0;
    for (int64_t done = 0; done < spans; done += split.spans, split.span += split.spans, split.slot = 1) {
        split.spans = eg_smaller(split.slots - split.slot, spans - done);
        ws->split[0] = split;
        call->n_splits = 1;
        run_splits(call);
    }
}

static void attend_by_keys(attention_call *call)
{
    eg_workspace *ws = call->ws;
    size_t filled = 0;
    for (int64_t i = 0; i < ws->stretches; i++) {
        if (!splits_keys(call, &ws->stretch[i])) continue;
        eg_split split = {.stretch = i, .partials = filled};
        split.spans = split.slots = spans_of(call, &ws->stretch[i], &split.span);
        size_t size = (size_t)(split.spans * call->s->kv_heads) * partial_of(call, &split);
        if (filled + size > ws->partials_size) {
            run_splits(call);
            split.partials = filled = 0;
        }
        if (size > ws->partials_size) {
            attend_in_steps(call, split, split.spans);
            continue;
        }
        filled += size;
        ws->split[call->n_splits++] = split;
    }
    run_splits(call);
}

/* ---- a layer ------------------------------------------------------------------------------------------------------ */

void eg_attend(eg_workspace *ws, int32_t layer, int64_t n, eg_layer_mode mode)
{
    const eg_config *c = ws->config;
    const eg_layer *w = &ws->weights->layer[layer];
    const eg_layer_shape *s = &c->layer[layer];
    int64_t q_width = (int64_t)s->heads * s->head_dim, kv_width = (int64_t)s->kv_heads * s->head_dim;
    attention_call call = {.ws = ws, .w = w, .s = s, .layer = layer, .window = s->local ? c->window : 0};
    eg_product products[3];
    int64_t n_products = 0;

    eg_pool_run(ws->pool, norm_task, &call, n, 1);
    call.queries = mode != EG_LAYER_KV_ONLY;
    call.keys = s->owns_kv && mode != EG_LAYER_NO_KV;
    if (call.queries) products[n_products++] = (eg_product){w->q, 0, n, ws->q, q_width, NULL, 0};
    if (call.keys) {
        products[n_products++] = (eg_product){w->k, 0, n, ws->k, kv_width, NULL, 0};
        if (w->v.data) products[n_products++] = (eg_product){w->v, 0, n, ws->v, kv_width, NULL, 0};
    }
    eg_multiply(&ws->matmul, ws->h, c->hidden, n, products, n_products);
    eg_pool_run(ws->pool, heads_task, &call, n, 1);
    if (mode == EG_LAYER_KV_ONLY) return;

    attend_by_queries(&call);
    attend_by_keys(&call);
    eg_multiply_one(&ws->matmul, &w->o, ws->o, n, ws->t);
}
