/* Feed-forward of one layer: a dense FFN or, in 26B-A4B, a dense FFN and a mixture of experts.
 *
 *   m1 = rms(FFN(rms(x; ffn_norm)); post_ffw_norm_1)
 *   z = W_r (rms(x) * g / sqrt(d));  S = the experts_used largest;  w = softmax(z over S)
 *   m2 = rms(sum over e in S of w_e c_e Down_e(gelu(Gate_e u) * Up_e u); post_ffw_norm_2),  u = rms(x; pre_ffw_norm_2)
 *   result m1 + m2
 * Tokens are gathered by expert, so that the weights of an expert are read once for a block. The sum of a token runs over its
 * experts from the highest score down, so it does not depend on the other tokens of the block, nor on the order in which experts
 * are worked off: those that come from the disk are last (store.h).
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
        float *z = call->ws->moe.x + t * d;   /* which is not in use yet; h is the input of the dense FFN */
        call->ws->kernels->rms_norm(z, call->ws->x + t * d, call->w->router_scale, d, call->ws->config->eps);
        for (int64_t i = 0; i < d; i++) z[i] *= root;
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

typedef struct gate_call {
    eg_workspace *ws;
    int64_t first;             /* the number in moe.gate where it begins */
} gate_call;

static void expert_gelu_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    const gate_call *call = context;
    float *gate = call->ws->moe.gate + call->first + begin, *up = call->ws->moe.up + call->first + begin;
    (void)worker;
    call->ws->kernels->gelu_mul(gate, gate, up, end - begin);
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

/* Lists the experts that the block has chosen in moe.order, and the rows of each in moe.uses. Returns their number. */
static int32_t list_experts(eg_workspace *ws, int64_t n)
{
    const int64_t pairs = n * ws->config->experts_used;
    int32_t chosen = 0;
    memset(ws->moe.uses, 0, (size_t)ws->config->experts * sizeof *ws->moe.uses);
    for (int64_t i = 0; i < pairs; i++) ws->moe.uses[ws->moe.expert[i]]++;
    for (int32_t e = 0; e < ws->config->experts; e++)
        if (ws->moe.uses[e]) ws->moe.order[chosen++] = e;
    return chosen;
}

/* Gives the (token, rank) pairs of the block their rows in moe.x, expert by expert in that order: sets moe.row and moe.first. Turns
 * moe.uses into the end of each expert's rows. */
static void assign_rows(eg_workspace *ws, int64_t n, int32_t chosen)
{
    const int64_t pairs = n * ws->config->experts_used;
    int32_t row = 0;
    for (int32_t i = 0; i < chosen; i++) {
        int32_t *uses = &ws->moe.uses[ws->moe.order[i]], first = row;
        ws->moe.first[i] = first;
        row += *uses;
        *uses = first;
    }
    ws->moe.first[chosen] = row;
    for (int64_t i = 0; i < pairs; i++) ws->moe.row[i] = ws->moe.uses[ws->moe.expert[i]]++;
}

/* One product for each of the experts moe.order[from, to): out[its rows] = its matrix times these rows, which are counted from
 * those of the first. */
static int64_t add_products(const eg_workspace *ws, const eg_experts *experts, int32_t from, int32_t to, float *out,
                            eg_product *products)
{
    const int64_t ldy = experts->first.rows, start = ws->moe.first[from];
    for (int32_t i = from; i < to; i++) {
        const int64_t first = ws->moe.first[i];
        eg_matrix w = experts->first;
        w.data += (size_t)ws->moe.order[i] * experts->stride;
        products[i - from] = (eg_product){w, first - start, ws->moe.first[i + 1] - first, out + first * ldy, ldy, NULL, 0};
    }
    return to - from;
}

/* The FFN of the experts moe.order[from, to), of their rows in moe.x, in place. */
static void run_experts(eg_workspace *ws, const eg_layer *w, int32_t from, int32_t to)
{
    const int64_t d = ws->config->hidden, ffn = ws->config->expert_ffn;
    const int64_t first = ws->moe.first[from], rows = ws->moe.first[to] - first;
    eg_product *products = ws->moe.products;
    int64_t n = add_products(ws, &w->expert_gate, from, to, ws->moe.gate, products);
    n += add_products(ws, &w->expert_up, from, to, ws->moe.up, products + n);
    eg_multiply(&ws->matmul, ws->moe.x + first * d, d, rows, products, n);
    gate_call gate = {ws, first * ffn};
    eg_pool_run(ws->pool, expert_gelu_task, &gate, rows * ffn, 4096);
    n = add_products(ws, &w->expert_down, from, to, ws->moe.x, products);
    eg_multiply(&ws->matmul, ws->moe.gate + first * ffn, ffn, rows, products, n);
}

/* t[n] := m1 + m2. False if the disk failed. */
static bool experts(eg_workspace *ws, int32_t layer, int64_t n)
{
    const eg_config *c = ws->config;
    const eg_layer *w = &ws->weights->layer[layer];
    expert_call call = {ws, w};
    eg_pool_run(ws->pool, router_input_task, &call, n, 1);
    eg_product router = {w->router, 0, n, ws->moe.z, c->experts, NULL, 0};
    eg_multiply(&ws->matmul, ws->moe.x, c->hidden, n, &router, 1);
    for (int64_t t = 0; t < n; t++)
        choose(ws->moe.z + t * c->experts, c->experts, c->experts_used, ws->moe.expert + t * c->experts_used,
               ws->moe.weight + t * c->experts_used);
    const int32_t chosen = list_experts(ws, n);
    eg_store_choose(ws->store, layer, ws->moe.order, chosen, ws->moe.uses);
    dense(ws, w, &c->layer[layer], n); /* while the experts are read */

    assign_rows(ws, n, chosen);
    eg_pool_run(ws->pool, expert_input_task, &call, n, 1);
    for (int32_t done = 0, ready; done < chosen; done += ready) {
        ready = eg_store_ready(ws->store, layer, ws->moe.order + done, chosen - done);
        if (!ready) return false;
        run_experts(ws, w, done, done + ready);
        eg_store_done(ws->store, layer, ws->moe.order + done, ready);
    }
    eg_pool_run(ws->pool, combine_task, &call, n, 1);
    return true;
}

bool eg_ffn(eg_workspace *ws, int32_t layer, int64_t n)
{
    if (ws->config->experts) return experts(ws, layer, n);
    dense(ws, &ws->weights->layer[layer], &ws->config->layer[layer], n);
    return true;
}
