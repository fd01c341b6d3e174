/* The decoder's layers, in the order of the model:
 *   x = embed(ids); for each layer: attention, feed-forward, per-layer embedding, scale; logits = softcap(E rms(x))
 */
#include "decoder.h"

#include <math.h>
#include <string.h>

#include "../base/map.h"
#include "../base/numbers.h"
#include "attention.h"
#include "ffn.h"

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static float *floats(eg_arena *arena, int64_t rows, int64_t cols)
{
    return eg_arena_take(arena, (size_t)rows, (size_t)cols * sizeof(float));
}

void eg_decoder_layout(eg_decoder *y, int64_t context, eg_kv_type kv, eg_arena *cache_arena, eg_arena *arena)
{
    const eg_config *c = y->config;
    int64_t d = c->hidden, head_dim = eg_larger(c->head_dim_global, c->head_dim_local), ffn = 0;
    int64_t q_width = 0, kv_width = 0, heads = 0, group = 1;
    for (int32_t l = 0; l < c->layers; l++) {
        ffn = eg_larger(ffn, c->layer[l].ffn);
        kv_width = eg_larger(kv_width, (int64_t)c->layer[l].kv_heads * c->layer[l].head_dim);
        q_width = eg_larger(q_width, (int64_t)c->layer[l].heads * c->layer[l].head_dim);
        heads = eg_larger(heads, c->layer[l].heads);
        group = eg_larger(group, c->layer[l].heads / c->layer[l].kv_heads);
    }
    int64_t rows = (int64_t)EG_BLOCK * eg_larger(c->experts_used, 1);
    int64_t widest = eg_larger(eg_larger(d, q_width), eg_larger(eg_larger(ffn, c->per_layer), c->expert_ffn));
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
    int64_t expert_widest = c->experts ? eg_larger(d, c->expert_ffn) : 0;
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
    size_t row = (size_t)eg_larger((int64_t)c->layers * c->per_layer, d) * sizeof(float);   /* one dequantized table row */
    y->multiplier.kernels = y->kernels;
    y->multiplier.pool = y->pool;
    eg_multiplier_layout(&y->multiplier, eg_larger(EG_BLOCK * widest, rows * expert_widest), widest,
                         attention > row ? attention : row, arena);
}

void eg_decoder_init(eg_decoder *y) { eg_attend_init(y); }

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
    eg_pool_run(y->pool, embed_task, &p, n, 1);
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
    eg_pool_run(y->pool, per_layer_task, &p, n, 1);
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
    int32_t layer;
} step;

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

static void run_layer(eg_decoder *y, int32_t layer, int64_t n, int64_t position, eg_layer_mode mode)
{
    step p = {y, &y->weights->layer[layer], layer};
    eg_attend(y, layer, n, position, mode);
    if (mode == EG_LAYER_KV_ONLY) return;
    eg_pool_run(y->pool, after_attention_task, &p, n, 1);
    eg_ffn(y, layer, n);
    eg_pool_run(y->pool, after_ffn_task, &p, n, 1);
    if (y->config->per_layer) {
        eg_multiply_one(&y->multiplier, &p.w->inp_gate, y->x, n, y->gate);
        eg_pool_run(y->pool, per_layer_gate_task, &p, n, 1);
        eg_multiply_one(&y->multiplier, &p.w->proj, y->gate, n, y->t);
        eg_pool_run(y->pool, after_per_layer_task, &p, n, 1);
    }
}

bool eg_decoder_run(eg_decoder *y, int64_t n, int64_t position, int32_t from, int32_t to, eg_layer_mode first_mode,
                    eg_layer_mode last_mode, float *hidden, size_t hidden_stride)
{
    const eg_config *c = y->config;
    eg_attend_angles(y, n, position);
    for (int32_t l = from; l < to; l++) {
        if (atomic_load_explicit(y->cancel, memory_order_relaxed)) return false;
        run_layer(y, l, n, position, l == from ? first_mode : l == to - 1 ? last_mode : EG_LAYER_FULL);
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
    eg_pool_run(y->pool, output_norm_task, &p, n, 1);
    if (normed) memcpy(normed, y->h, (size_t)(n * c->hidden) * sizeof(float));
    if (!logits) return;
    eg_multiply_one(&y->multiplier, &y->weights->output, y->h, n, logits);
    if (c->softcap > 0) eg_pool_run(y->pool, softcap_task, &p, n * c->vocab, 16384);
}
