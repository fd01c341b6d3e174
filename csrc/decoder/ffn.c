/* Feed-forward of one layer: a dense FFN or, in 26B-A4B, a dense FFN and a mixture of experts.
 *
 *   m1 = rms(FFN(rms(x; ffn_norm)); post_ffw_norm_1)
 *   z = W_r (rms(x) * g / sqrt(d));  S = the experts_used largest;  w = softmax(z over S)
 *   m2 = rms(sum over e in S of w_e c_e Down_e(gelu(Gate_e u) * Up_e u); post_ffw_norm_2),  u = rms(x; pre_ffw_norm_2)
 *   result m1 + m2
 * Tokens are gathered by expert, so that the weights of an expert are read once for a block. The sum of a token runs over its
 * experts from the highest score down, so it does not depend on the other tokens of the block.
 */
#include "ffn.h"

#include <math.h>
#include <string.h>

/* ---- dense ------------------------------------------------------------------------------------------------------- */

static void gelu_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    eg_workspace *ws = context;
    (void)worker;
    ws->kernels->gelu_mul(ws->gate + begin, ws->gate + begin, ws->up + begin, end - begin);
}

/* t[n] := FFN(h[n]) */
static void dense(eg_workspace *ws, const eg_layer *w, const eg_layer_shape *s, int64_t n)
{
    eg_product products[] = {{w->gate, 0, n, ws->gate, s->ffn, NULL, 0}, {w->up, 0, n, ws->up, s->ffn, NULL, 0}};
    eg_multiply(&ws->matmul, ws->h, ws->config->hidden, n, products, 2);
    eg_pool_run(ws->pool, gelu_task, ws, n * s->ffn, 4096);
    eg_multiply_one(&ws->matmul, &w->down, ws->gate, n, ws->t);
}

/* ---- experts ----------------------------------------------------------------------------------------------------- */

typedef struct expert_call {
    eg_workspace *ws;
    const eg_layer *w;
} expert_call;

static void router_input_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    expert_call *call = context;
    int64_t d = call->ws->config->hidden;
    float root = 1 / sqrtf((float)d);
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        float *h = call->ws->h + t * d;
        call->ws->kernels->rms_norm(h, call->ws->x + t * d, call->w->router_scale, d, call->ws->config->eps);
        for (int64_t i = 0; i < d; i++) h[i] *= root;
    }
}

/* The `used` largest of z[experts], largest first, ties to the lower index; their softmax into weight. */
static void choose(const float *z, int32_t experts, int32_t used, int32_t *expert, float *weight)
{
    for (int32_t n = 0; n < used; n++) {
        int32_t best = -1;
        for (int32_t e = 0; e < experts; e++) {
            bool taken = false;
            for (int32_t i = 0; i < n && !taken; i++) taken = expert[i] == e;
            if (!taken && (best < 0 || z[e] > z[best])) best = e;
        }
        expert[n] = best;
    }
    float sum = 0;
    for (int32_t n = 0; n < used; n++) sum += weight[n] = (float)exp((double)z[expert[n]] - z[expert[0]]);
    for (int32_t n = 0; n < used; n++) weight[n] /= sum;
}

static void expert_input_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    expert_call *call = context;
    eg_workspace *ws = call->ws;
    const eg_config *c = ws->config;
    int64_t d = c->hidden, used = c->experts_used;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        float *u = ws->h + t * d;
        ws->kernels->rms_norm(u, ws->x + t * d, call->w->pre_ffw_norm_2, d, c->eps);
        for (int64_t i = 0; i < used; i++) memcpy(ws->moe.x + ws->moe.row[t * used + i] * d, u, (size_t)d * sizeof *u);
    }
}

static void expert_gelu_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    eg_workspace *ws = context;
    (void)worker;
    ws->kernels->gelu_mul(ws->moe.gate + begin, ws->moe.gate + begin, ws->moe.up + begin, end - begin);
}

/* t := rms(t; post_ffw_norm_1) + rms(weighted sum of the token's rows; post_ffw_norm_2) */
static void combine_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    expert_call *call = context;
    eg_workspace *ws = call->ws;
    const eg_config *c = ws->config;
    int64_t d = c->hidden, used = c->experts_used;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        float *sum = ws->h + t * d, *out = ws->t + t * d;
        memset(sum, 0, (size_t)d * sizeof *sum);
        for (int64_t i = t * used; i < (t + 1) * used; i++) {
            float w = ws->moe.weight[i] * call->w->expert_scale[ws->moe.expert[i]];
            const float *row = ws->moe.x + ws->moe.row[i] * d;
            for (int64_t j = 0; j < d; j++) sum[j] += w * row[j];
        }
        ws->kernels->rms_norm(sum, sum, call->w->post_ffw_norm_2, d, c->eps);
        ws->kernels->rms_norm(out, out, call->w->post_ffw_norm_1, d, c->eps);
        for (int64_t j = 0; j < d; j++) out[j] += sum[j];
    }
}

/* Sorts the (token, rank) pairs of the block by expert: sets moe.row, their rows in moe.x, and moe.first. */
static void assign_rows(eg_workspace *ws, int64_t n)
{
    int64_t pairs = n * ws->config->experts_used, row = 0;
    for (int32_t e = 0; e < ws->config->experts; e++) {
        ws->moe.first[e] = (int32_t)row;
        for (int64_t i = 0; i < pairs; i++)
            if (ws->moe.expert[i] == e) ws->moe.row[i] = (int32_t)row++;
    }
    ws->moe.first[ws->config->experts] = (int32_t)row;
}

/* One product for each expert that has rows: out[its rows] = its matrix times these rows. Returns the number of products. */
static int64_t add_products(const eg_workspace *ws, const eg_experts *experts, float *out, eg_product *products)
{
    int64_t n = 0, ldy = experts->first.rows;
    for (int32_t e = 0; e < ws->config->experts; e++) {
        int64_t first = ws->moe.first[e], rows = ws->moe.first[e + 1] - first;
        if (!rows) continue;
        eg_matrix w = experts->first;
        w.data += (size_t)e * experts->stride;
        products[n++] = (eg_product){w, first, rows, out + first * ldy, ldy, NULL, 0};
    }
    return n;
}

/* t[n] := m1 + m2 */
static void experts(eg_workspace *ws, const eg_layer *w, const eg_layer_shape *s, int64_t n)
{
    const eg_config *c = ws->config;
    int64_t d = c->hidden, ffn = c->expert_ffn, rows = n * c->experts_used;
    expert_call call = {ws, w};
    dense(ws, w, s, n);

    eg_pool_run(ws->pool, router_input_task, &call, n, 1);
    eg_product router = {w->router, 0, n, ws->moe.z, c->experts, NULL, 0};
    eg_multiply(&ws->matmul, ws->h, d, n, &router, 1);
    for (int64_t t = 0; t < n; t++)
        choose(ws->moe.z + t * c->experts, c->experts, c->experts_used, ws->moe.expert + t * c->experts_used,
               ws->moe.weight + t * c->experts_used);
    assign_rows(ws, n);
    eg_pool_run(ws->pool, expert_input_task, &call, n, 1);

    int64_t n_products = add_products(ws, &w->expert_gate, ws->moe.gate, ws->moe.products);
    n_products += add_products(ws, &w->expert_up, ws->moe.up, ws->moe.products + n_products);
    eg_multiply(&ws->matmul, ws->moe.x, d, rows, ws->moe.products, n_products);
    eg_pool_run(ws->pool, expert_gelu_task, ws, rows * ffn, 4096);
    n_products = add_products(ws, &w->expert_down, ws->moe.x, ws->moe.products);
    eg_multiply(&ws->matmul, ws->moe.gate, ffn, rows, ws->moe.products, n_products);
    eg_pool_run(ws->pool, combine_task, &call, n, 1);
}

void eg_ffn(eg_workspace *ws, int32_t layer, int64_t n)
{
    const eg_layer *w = &ws->weights->layer[layer];
    const eg_layer_shape *s = &ws->config->layer[layer];
    if (ws->config->experts) experts(ws, w, s, n);
    else dense(ws, w, s, n);
}
