/* The decoder's layers, in the order of the model:
 *   x = embed(ids); for each layer: attention, feed-forward, per-layer embedding, scale; logits = softcap(E rms(x))
 */
#include "decoder.h"

#include <math.h>
#include <string.h>

#include "../base/map.h"

static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static float *floats(eg_arena *arena, int64_t rows, int64_t cols)
{
    return eg_arena_take(arena, (size_t)rows, (size_t)cols * sizeof(float));
}

void eg_decoder_layout(eg_decoder *y, int64_t context, eg_kv_type kv, eg_arena *cache_arena, eg_arena *arena)
{
    const eg_config *c = y->config;
    int64_t d = c->hidden, head_dim = max64(c->head_dim_global, c->head_dim_local), ffn = 0;
    int64_t q_width = 0, kv_width = 0, heads = 0, group = 1;
    for (int32_t l = 0; l < c->layers; l++) {
        ffn = max64(ffn, c->layer[l].ffn);
        kv_width = max64(kv_width, (int64_t)c->layer[l].kv_heads * c->layer[l].head_dim);
        q_width = max64(q_width, (int64_t)c->layer[l].heads * c->layer[l].head_dim);
        heads = max64(heads, c->layer[l].heads);
        group = max64(group, c->layer[l].heads / c->layer[l].kv_heads);
    }
    int64_t rows = (int64_t)EG_BLOCK * max64(c->experts_used, 1);
    int64_t widest = max64(max64(d, q_width), max64(max64(ffn, c->per_layer), c->expert_ffn));
    eg_cache_layout(&y->cache, c, context, EG_BLOCK, kv, cache_arena);

    y->x = floats(arena, EG_BLOCK, d);
    y->h = floats(arena, EG_BLOCK, d);
    y->t = floats(arena, EG_BLOCK, d);
    y->q = floats(arena, EG_BLOCK, q_width);
    y->o = floats(arena, EG_BLOCK, q_width);
    y->k = floats(arena, EG_BLOCK, kv_width);
    y->v = floats(arena, EG_BLOCK, kv_width);
    y->gate = floats(arena, EG_BLOCK, ffn);
    y->up = floats(arena, EG_BLOCK, ffn);
    y->ple = floats(arena, EG_BLOCK, (int64_t)c->layers * c->per_layer);
    y->cos = floats(arena, 2 * EG_BLOCK, head_dim / 2);
    y->sin = floats(arena, 2 * EG_BLOCK, head_dim / 2);
    y->frequency = floats(arena, 2, head_dim / 2);
    y->logits = floats(arena, 1, c->vocab);
    int64_t expert_widest = c->experts ? max64(d, c->expert_ffn) : 0;
    if (c->experts) {
        y->moe.z = floats(arena, EG_BLOCK, c->experts);
        y->moe.x = floats(arena, rows, d);
        y->moe.gate = floats(arena, rows, c->expert_ffn);
        y->moe.up = floats(arena, rows, c->expert_ffn);
        y->moe.weight = floats(arena, rows, 1);
        y->moe.expert = eg_arena_take(arena, (size_t)rows, sizeof(int32_t));
        y->moe.row = eg_arena_take(arena, (size_t)rows, sizeof(int32_t));
        y->moe.first = eg_arena_take(arena, (size_t)c->experts + 1, sizeof(int32_t));
        y->moe.jobs = eg_arena_take(arena, 2 * (size_t)c->experts, sizeof(eg_job));
    }
    y->parts_size = (size_t)(context / EG_SPAN + 2) * eg_attention_part_floats(head_dim, heads);
    y->parts = eg_arena_take(arena, y->parts_size, sizeof(float));
    size_t attention = eg_attention_scratch_bytes(head_dim, group, EG_SPAN_QUERIES);
    size_t row = (size_t)max64((int64_t)c->layers * c->per_layer, d) * sizeof(float);   /* one dequantized table row */
    y->multiplier.kernels = y->kernels;
    y->multiplier.pool = y->pool;
    eg_multiplier_layout(&y->multiplier, max64(EG_BLOCK * widest, rows * expert_widest), widest,
                         attention > row ? attention : row, arena);
}

void eg_decoder_init(eg_decoder *y)
{
    const eg_config *c = y->config;
    int64_t half = max64(c->head_dim_global, c->head_dim_local) / 2;
    /* "Proportional" RoPE: the file's factors are 1 for pairs that rotate, a quarter of them, and 1e30 for the others. */
    for (int64_t i = 0; i < c->head_dim_global / 2; i++) {
        float factor = y->weights->rope_freqs ? y->weights->rope_freqs[i] : i < c->head_dim_global / 8 ? 1 : 1e30f;
        y->frequency[i] = (float)pow(c->theta_global, -2.0 * (double)i / c->head_dim_global) / factor;
    }
    for (int64_t i = 0; i < c->head_dim_local / 2; i++)
        y->frequency[half + i] = (float)pow(c->theta_local, -2.0 * (double)i / c->head_dim_local);
}

void eg_decoder_for_tokens(eg_decoder *y, eg_task *task, void *context, int64_t n)
{
    eg_pool_run(y->pool, task, context, n, 1);
}

/* ---- inputs ------------------------------------------------------------------------------------------------------ */

typedef struct input {
    eg_decoder *y;
    const int32_t *ids;
    const float *soft;
    int32_t from, to;
} input;

static void embed_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    input *p = context;
    int64_t d = p->y->config->hidden;
    float scale = sqrtf((float)d);
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        float *x = p->y->x + t * d;
        if (p->ids[t] < 0) {
            memcpy(x, p->soft + t * d, (size_t)d * sizeof *x);
            continue;
        }
        eg_matrix_row(&p->y->weights->token_embd, p->ids[t], 0, d, x);
        for (int64_t i = 0; i < d; i++) x[i] *= scale;
    }
}

void eg_decoder_embed(eg_decoder *y, const int32_t *ids, const float *soft, int64_t n)
{
    input p = {y, ids, soft, 0, 0};
    eg_decoder_for_tokens(y, embed_task, &p, n);
}

/* ple := (rms(ple / sqrt(d); per_layer_proj_norm) + sqrt(P) * row of the token) / sqrt(2), layer by layer */
static void per_layer_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    input *p = context;
    const eg_config *c = p->y->config;
    const eg_matrix *table = &p->y->weights->per_layer_token_embd;
    int64_t P = c->per_layer, width = (p->to - p->from) * P, block = table->type->block;
    int64_t begin_col = p->from * P / block * block, end_col = (p->to * P + block - 1) / block * block;
    float root_P = sqrtf((float)P), root_d = 1 / sqrtf((float)c->hidden);
    float *row = eg_multiplier_scratch(&p->y->multiplier, worker);
    for (int64_t t = begin; t < end; t++) {
        int64_t id = p->ids[t] < 0 ? 0 : p->ids[t];   /* soft tokens use the row of <pad> */
        eg_matrix_row(table, id, begin_col, end_col - begin_col, row);
        for (int32_t l = p->from; l < p->to; l++) {
            float *out = p->y->ple + t * width + (l - p->from) * P;
            const float *a = row + l * P - begin_col;
            for (int64_t i = 0; i < P; i++) out[i] *= root_d;
            p->y->kernels->rms_norm(out, out, p->y->weights->per_layer_proj_norm, P, c->eps);
            for (int64_t i = 0; i < P; i++) out[i] = (out[i] + a[i] * root_P) * 0.70710678118654752f;
        }
    }
}

void eg_decoder_per_layer_inputs(eg_decoder *y, const int32_t *ids, int64_t n, int32_t from, int32_t to)
{
    const eg_config *c = y->config;
    if (!c->per_layer || from >= to) return;
    const eg_matrix *table = &y->weights->per_layer_token_embd;
    if (n > 1)   /* a prompt's rows lie all over a table of gigabytes: ask for them together before the first is needed */
        for (int64_t t = 0; t < n; t++)
            eg_map_advise(table->data + (size_t)(ids[t] < 0 ? 0 : ids[t]) * table->row_bytes, table->row_bytes,
                          EG_ADVICE_WILLNEED);
    y->ple_from = from;
    y->ple_layers = to - from;
    eg_matrix w = eg_matrix_part(&y->weights->per_layer_model_proj, from * c->per_layer, (int64_t)(to - from) * c->per_layer);
    eg_multiply_one(&y->multiplier, &w, y->x, n, y->ple);
    input p = {y, ids, NULL, from, to};
    eg_decoder_for_tokens(y, per_layer_task, &p, n);
    /* Each row read leaves up to 64 KB of the table in the process, which over a long prompt adds up to half a
     * gigabyte. */
    y->ple_rows += n;
    if (y->ple_rows >= EG_BLOCK) {
        eg_map_advise(table->data, (uint64_t)table->rows * table->row_bytes, EG_ADVICE_DONTNEED);
        y->ple_rows = 0;
    }
}

/* ---- one layer --------------------------------------------------------------------------------------------------- */

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

static void attention_norm_task(void *context, int64_t begin, int64_t end, unsigned worker)
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
    int64_t D = p->s->head_dim, half = D / 2, table = max64(c->head_dim_global, c->head_dim_local) / 2;
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

/* Threads share the queries of a prompt, and the keys of a few tokens. */
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

/* x += rms(t; post_attention_norm); h = rms(x; ffn_norm) */
static void after_attention_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    step *p = context;
    int64_t d = p->y->config->hidden;
    float eps = p->y->config->eps;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        float *x = p->y->x + i * d, *t = p->y->t + i * d;
        p->y->kernels->rms_norm(t, t, p->w->post_attention_norm, d, eps);
        for (int64_t j = 0; j < d; j++) x[j] += t[j];
        p->y->kernels->rms_norm(p->y->h + i * d, x, p->w->ffn_norm, d, eps);
    }
}

/* x += rms(t; norm), and the layer's scale if this is its last step */
static void add(step *p, int64_t begin, int64_t end, const float *norm, float scale)
{
    int64_t d = p->y->config->hidden;
    for (int64_t i = begin; i < end; i++) {
        float *x = p->y->x + i * d, *t = p->y->t + i * d;
        p->y->kernels->rms_norm(t, t, norm, d, p->y->config->eps);
        for (int64_t j = 0; j < d; j++) x[j] = (x[j] + t[j]) * scale;
    }
}

static void after_ffn_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    step *p = context;
    (void)worker;
    add(p, begin, end, p->w->post_ffw_norm, p->y->config->per_layer ? 1 : p->w->output_scale);
}

static void after_per_layer_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    step *p = context;
    (void)worker;
    add(p, begin, end, p->w->post_norm, p->w->output_scale);
}

/* gate[n, P] = gelu(gate) * ple of this layer */
static void per_layer_gate_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    step *p = context;
    int64_t P = p->y->config->per_layer;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        float *gate = p->y->gate + t * P;
        p->y->kernels->gelu_mul(gate, gate, p->y->ple + (t * p->y->ple_layers + p->layer - p->y->ple_from) * P, P);
    }
}

static void gelu_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    eg_decoder *y = context;
    (void)worker;
    y->kernels->gelu_mul(y->gate + begin, y->gate + begin, y->up + begin, end - begin);
}

void eg_decoder_ffn(eg_decoder *y, const eg_layer *w, const eg_layer_shape *s, int64_t n)
{
    eg_job jobs[] = {{w->gate, 0, n, y->gate, s->ffn, NULL, 0}, {w->up, 0, n, y->up, s->ffn, NULL, 0}};
    eg_multiply(&y->multiplier, y->h, y->config->hidden, n, jobs, 2);
    eg_pool_run(y->pool, gelu_task, y, n * s->ffn, 4096);
    eg_multiply_one(&y->multiplier, &w->down, y->gate, n, y->t);
}

static void run_layer(step *p, eg_layer_mode mode)
{
    eg_decoder *y = p->y;
    const eg_config *c = y->config;
    int64_t n = p->n, q_width = (int64_t)p->s->heads * p->s->head_dim, kv_width = (int64_t)p->s->kv_heads * p->s->head_dim;
    eg_job jobs[3];
    int64_t n_jobs = 0;

    eg_decoder_for_tokens(y, attention_norm_task, p, n);
    p->queries = mode != EG_LAYER_KV_ONLY;
    p->keys = p->s->owns_kv && mode != EG_LAYER_NO_KV;
    if (p->queries) jobs[n_jobs++] = (eg_job){p->w->q, 0, n, y->q, q_width, NULL, 0};
    if (p->keys) {
        jobs[n_jobs++] = (eg_job){p->w->k, 0, n, y->k, kv_width, NULL, 0};
        if (p->w->v.data) jobs[n_jobs++] = (eg_job){p->w->v, 0, n, y->v, kv_width, NULL, 0};
    }
    eg_multiply(&y->multiplier, y->h, c->hidden, n, jobs, n_jobs);
    eg_decoder_for_tokens(y, heads_task, p, n);
    if (mode == EG_LAYER_KV_ONLY) return;

    attention(p);
    eg_multiply_one(&y->multiplier, &p->w->o, y->o, n, y->t);
    eg_decoder_for_tokens(y, after_attention_task, p, n);
    if (c->experts) eg_decoder_experts(y, p->w, p->s, n);
    else eg_decoder_ffn(y, p->w, p->s, n);
    eg_decoder_for_tokens(y, after_ffn_task, p, n);
    if (c->per_layer) {
        eg_multiply_one(&y->multiplier, &p->w->inp_gate, y->x, n, y->gate);
        eg_decoder_for_tokens(y, per_layer_gate_task, p, n);
        eg_multiply_one(&y->multiplier, &p->w->proj, y->gate, n, y->t);
        eg_decoder_for_tokens(y, after_per_layer_task, p, n);
    }
}

/* cos and sin of the angles of positions position .. position + n - 1, unless they are there from the layers before. The
 * angle is rounded to float, as the reference does: at position 100,000 that is a visible part of a radian, and the model
 * was trained with it. */
static void angles(eg_decoder *y, int64_t n, int64_t position)
{
    const eg_config *c = y->config;
    int64_t table = max64(c->head_dim_global, c->head_dim_local) / 2;
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

bool eg_decoder_run(eg_decoder *y, int64_t n, int64_t position, int32_t from, int32_t to, eg_layer_mode first_mode,
                    eg_layer_mode last_mode, float *hidden, size_t hidden_stride)
{
    const eg_config *c = y->config;
    angles(y, n, position);
    for (int32_t l = from; l < to; l++) {
        if (atomic_load_explicit(y->cancel, memory_order_relaxed)) return false;
        step p = {.y = y, .w = &y->weights->layer[l], .s = &c->layer[l], .n = n, .position = position, .layer = l};
        run_layer(&p, l == from ? first_mode : l == to - 1 ? last_mode : EG_LAYER_FULL);
        if (hidden) memcpy(hidden + (size_t)(l + 1) * hidden_stride, y->x, (size_t)(n * c->hidden) * sizeof(float));
    }
    return true;
}

typedef struct head {
    eg_decoder *y;
    float *logits;
} head;

static void output_norm_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    head *p = context;
    int64_t d = p->y->config->hidden;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        p->y->kernels->rms_norm(p->y->h + t * d, p->y->x + t * d, p->y->weights->output_norm, d, p->y->config->eps);
}

static void softcap_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    head *p = context;
    (void)worker;
    p->y->kernels->softcap(p->logits + begin, end - begin, p->y->config->softcap);
}

void eg_decoder_head(eg_decoder *y, int64_t n, float *logits, float *normed)
{
    const eg_config *c = y->config;
    head p = {y, logits};
    eg_decoder_for_tokens(y, output_norm_task, &p, n);
    if (normed) memcpy(normed, y->h, (size_t)(n * c->hidden) * sizeof(float));
    if (!logits) return;
    eg_multiply_one(&y->multiplier, &y->weights->output, y->h, n, logits);
    if (c->softcap > 0) eg_pool_run(y->pool, softcap_task, &p, n * c->vocab, 16384);
}
