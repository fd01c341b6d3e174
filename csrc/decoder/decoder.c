/* The decoder, in the order of the model:
 *   x = embed(ids); for each layer: attention, feed-forward, per-layer embedding, scale; logits = softcap(E rms(x))
 * Attention and feed-forward are in files of their own.
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

void eg_decoder_layout(eg_decoder *dec, int64_t context, eg_kv_type kv, eg_arena *cache_arena, eg_arena *arena)
{
    const eg_config *c = dec->config;
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
    eg_cache_layout(&dec->cache, c, context, EG_BLOCK, kv, cache_arena);

    dec->x = floats(arena, EG_BLOCK, d);
    dec->h = floats(arena, EG_BLOCK, d);
    dec->t = floats(arena, EG_BLOCK, d);
    dec->q = floats(arena, EG_BLOCK, q_width);
    dec->o = floats(arena, EG_BLOCK, q_width);
    dec->k = floats(arena, EG_BLOCK, kv_width);
    dec->v = floats(arena, EG_BLOCK, kv_width);
    dec->gate = floats(arena, EG_BLOCK, ffn);
    dec->up = floats(arena, EG_BLOCK, ffn);
    dec->ple = floats(arena, EG_BLOCK, (int64_t)c->layers * c->per_layer);
    dec->cos = floats(arena, 2 * EG_BLOCK, head_dim / 2);
    dec->sin = floats(arena, 2 * EG_BLOCK, head_dim / 2);
    dec->frequency = floats(arena, 2, head_dim / 2);
    dec->logits = floats(arena, 1, c->vocab);
    int64_t expert_widest = c->experts ? eg_larger(d, c->expert_ffn) : 0;
    if (c->experts) {
        dec->moe.z = floats(arena, EG_BLOCK, c->experts);
        dec->moe.x = floats(arena, rows, d);
        dec->moe.gate = floats(arena, rows, c->expert_ffn);
        dec->moe.up = floats(arena, rows, c->expert_ffn);
        dec->moe.weight = floats(arena, rows, 1);
        dec->moe.expert = eg_arena_take(arena, (size_t)rows, sizeof(int32_t));
        dec->moe.row = eg_arena_take(arena, (size_t)rows, sizeof(int32_t));
        dec->moe.first = eg_arena_take(arena, (size_t)c->experts + 1, sizeof(int32_t));
        dec->moe.products = eg_arena_take(arena, 2 * (size_t)c->experts, sizeof(eg_product));
    }
    dec->partials_size = (size_t)(context / EG_SPAN + 2) * eg_attention_partial_floats(head_dim, heads);
    dec->partials = eg_arena_take(arena, dec->partials_size, sizeof(float));
    size_t attention = eg_attention_scratch_bytes(head_dim, group, EG_SPAN_QUERIES);
    size_t row = (size_t)eg_larger((int64_t)c->layers * c->per_layer, d) * sizeof(float);   /* one dequantized table row */
    dec->matmul.kernels = dec->kernels;
    dec->matmul.pool = dec->pool;
    eg_matmul_layout(&dec->matmul, eg_larger(EG_BLOCK * widest, rows * expert_widest), widest,
                     attention > row ? attention : row, arena);
}

void eg_decoder_init(eg_decoder *dec) { eg_attend_init(dec); }

/* ---- inputs ------------------------------------------------------------------------------------------------------ */

typedef struct input_call {
    eg_decoder *dec;
    const int32_t *ids;
    const float *soft;
    int32_t from, to;
} input_call;

static void embed_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    input_call *call = context;
    int64_t d = call->dec->config->hidden;
    float scale = sqrtf((float)d);
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        float *x = call->dec->x + t * d;
        if (call->ids[t] < 0) {
            memcpy(x, call->soft + t * d, (size_t)d * sizeof *x);
            continue;
        }
        eg_matrix_row(&call->dec->weights->token_embd, call->ids[t], 0, d, x);
        for (int64_t i = 0; i < d; i++) x[i] *= scale;
    }
}

void eg_decoder_embed(eg_decoder *dec, const int32_t *ids, const float *soft, int64_t n)
{
    input_call call = {dec, ids, soft, 0, 0};
    eg_pool_run(dec->pool, embed_task, &call, n, 1);
}

/* ple := (rms(ple / sqrt(d); per_layer_proj_norm) + sqrt(P) * row of the token) / sqrt(2), layer by layer */
static void per_layer_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    input_call *call = context;
    const eg_config *c = call->dec->config;
    const eg_matrix *table = &call->dec->weights->per_layer_token_embd;
    int64_t P = c->per_layer, width = (call->to - call->from) * P, block = table->type->block;
    int64_t begin_col = call->from * P / block * block, end_col = (call->to * P + block - 1) / block * block;
    float root_P = sqrtf((float)P), root_d = 1 / sqrtf((float)c->hidden);
    float *row = eg_matmul_scratch(&call->dec->matmul, worker);
    for (int64_t t = begin; t < end; t++) {
        int64_t id = call->ids[t] < 0 ? 0 : call->ids[t];   /* soft tokens use the row of <pad> */
        eg_matrix_row(table, id, begin_col, end_col - begin_col, row);
        for (int32_t l = call->from; l < call->to; l++) {
            float *out = call->dec->ple + t * width + (l - call->from) * P;
            const float *a = row + l * P - begin_col;
            for (int64_t i = 0; i < P; i++) out[i] *= root_d;
            call->dec->kernels->rms_norm(out, out, call->dec->weights->per_layer_proj_norm, P, c->eps);
            for (int64_t i = 0; i < P; i++) out[i] = (out[i] + a[i] * root_P) * 0.70710678118654752f;
        }
    }
}

void eg_decoder_per_layer_inputs(eg_decoder *dec, const int32_t *ids, int64_t n, int32_t from, int32_t to)
{
    const eg_config *c = dec->config;
    if (!c->per_layer || from >= to) return;
    const eg_matrix *table = &dec->weights->per_layer_token_embd;
    if (n > 1)   /* the rows of a prompt are scattered over gigabytes: start reading them all before the first is needed */
        for (int64_t t = 0; t < n; t++)
            eg_map_advise(table->data + (size_t)(ids[t] < 0 ? 0 : ids[t]) * table->row_bytes, table->row_bytes,
                          EG_ADVICE_WILLNEED);
    dec->ple_from = from;
    dec->ple_layers = to - from;
    eg_matrix w = eg_matrix_slice(&dec->weights->per_layer_model_proj, from * c->per_layer,
                                  (int64_t)(to - from) * c->per_layer);
    eg_multiply_one(&dec->matmul, &w, dec->x, n, dec->ple);
    input_call call = {dec, ids, NULL, from, to};
    eg_pool_run(dec->pool, per_layer_task, &call, n, 1);
    /* Each row read maps up to 64 KB of the table, which over a long prompt would add up to half a gigabyte. */
    dec->ple_rows += n;
    if (dec->ple_rows >= EG_BLOCK) {
        eg_map_advise(table->data, (uint64_t)table->rows * table->row_bytes, EG_ADVICE_DONTNEED);
        dec->ple_rows = 0;
    }
}

/* ---- one layer --------------------------------------------------------------------------------------------------- */

typedef struct layer_call {
    eg_decoder *dec;
    const eg_layer *w;
    int32_t layer;
} layer_call;

/* x += rms(t; post_attention_norm); h = rms(x; ffn_norm) */
static void after_attention_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    layer_call *call = context;
    int64_t d = call->dec->config->hidden;
    float eps = call->dec->config->eps;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        float *x = call->dec->x + i * d, *t = call->dec->t + i * d;
        call->dec->kernels->rms_norm(t, t, call->w->post_attention_norm, d, eps);
        for (int64_t j = 0; j < d; j++) x[j] += t[j];
        call->dec->kernels->rms_norm(call->dec->h + i * d, x, call->w->ffn_norm, d, eps);
    }
}

/* x = (x + rms(t; norm)) * scale; the scale is 1 unless this is the layer's last operation. */
static void add(layer_call *call, int64_t begin, int64_t end, const float *norm, float scale)
{
    int64_t d = call->dec->config->hidden;
    for (int64_t i = begin; i < end; i++) {
        float *x = call->dec->x + i * d, *t = call->dec->t + i * d;
        call->dec->kernels->rms_norm(t, t, norm, d, call->dec->config->eps);
        for (int64_t j = 0; j < d; j++) x[j] = (x[j] + t[j]) * scale;
    }
}

static void after_ffn_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    layer_call *call = context;
    (void)worker;
    add(call, begin, end, call->w->post_ffw_norm, call->dec->config->per_layer ? 1 : call->w->output_scale);
}

static void after_per_layer_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    layer_call *call = context;
    (void)worker;
    add(call, begin, end, call->w->post_norm, call->w->output_scale);
}

/* gate[n, P] = gelu(gate) * ple of this layer */
static void per_layer_gate_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    layer_call *call = context;
    int64_t P = call->dec->config->per_layer;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        float *gate = call->dec->gate + t * P;
        call->dec->kernels->gelu_mul(gate, gate,
                                     call->dec->ple + (t * call->dec->ple_layers + call->layer - call->dec->ple_from) * P, P);
    }
}

static void run_layer(eg_decoder *dec, int32_t layer, int64_t n, int64_t position, eg_layer_mode mode)
{
    layer_call call = {dec, &dec->weights->layer[layer], layer};
    eg_attend(dec, layer, n, position, mode);
    if (mode == EG_LAYER_KV_ONLY) return;
    eg_pool_run(dec->pool, after_attention_task, &call, n, 1);
    eg_ffn(dec, layer, n);
    eg_pool_run(dec->pool, after_ffn_task, &call, n, 1);
    if (dec->config->per_layer) {
        eg_multiply_one(&dec->matmul, &call.w->inp_gate, dec->x, n, dec->gate);
        eg_pool_run(dec->pool, per_layer_gate_task, &call, n, 1);
        eg_multiply_one(&dec->matmul, &call.w->proj, dec->gate, n, dec->t);
        eg_pool_run(dec->pool, after_per_layer_task, &call, n, 1);
    }
}

bool eg_decoder_run(eg_decoder *dec, int64_t n, int64_t position, int32_t from, int32_t to, eg_layer_mode first_mode,
                    eg_layer_mode last_mode, float *hidden, size_t hidden_stride)
{
    const eg_config *c = dec->config;
    eg_attend_angles(dec, n, position);
    for (int32_t l = from; l < to; l++) {
        if (atomic_load_explicit(dec->cancel, memory_order_relaxed)) return false;
        run_layer(dec, l, n, position, l == from ? first_mode : l == to - 1 ? last_mode : EG_LAYER_FULL);
        if (hidden) memcpy(hidden + (size_t)(l + 1) * hidden_stride, dec->x, (size_t)(n * c->hidden) * sizeof(float));
    }
    return true;
}

typedef struct head_call {
    eg_decoder *dec;
    float *logits;
} head_call;

static void output_norm_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    head_call *call = context;
    int64_t d = call->dec->config->hidden;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        call->dec->kernels->rms_norm(call->dec->h + t * d, call->dec->x + t * d, call->dec->weights->output_norm, d,
                                     call->dec->config->eps);
}

static void softcap_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    head_call *call = context;
    (void)worker;
    call->dec->kernels->softcap(call->logits + begin, end - begin, call->dec->config->softcap);
}

void eg_decoder_head(eg_decoder *dec, int64_t n, float *logits, float *normed)
{
    const eg_config *c = dec->config;
    head_call call = {dec, logits};
    eg_pool_run(dec->pool, output_norm_task, &call, n, 1);
    if (normed) memcpy(normed, dec->h, (size_t)(n * c->hidden) * sizeof(float));
    if (!logits) return;
    eg_multiply_one(&dec->matmul, &dec->weights->output, dec->h, n, logits);
    if (c->softcap > 0) eg_pool_run(dec->pool, softcap_task, &call, n * c->vocab, 16384);
}
