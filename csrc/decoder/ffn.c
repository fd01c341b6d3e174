/* Feed-forward of one layer: dense, or a mixture of experts (26B-A4B): a dense FFN and, beside it, the chosen experts.
 *
 *   m1 = rms(FFN(rms(x; ffn_norm)); post_ffw_norm_1)
 *   z = W_r (rms(x) * g / sqrt(d));  S = the experts_used largest;  w = softmax(z over S)
 *   m2 = rms(sum over e in S of w_e c_e Down_e(gelu(Gate_e u) * Up_e u); post_ffw_norm_2),  u = rms(x; pre_ffw_norm_2)
 *   result m1 + m2
 * Tokens are gathered by expert so that each expert's weights are read once a block; the sum of a token runs in the order
 * of its ranks, whatever else is in the block.
 */
#include "ffn.h"

#include <math.h>
#include <string.h>

/* ---- dense ------------------------------------------------------------------------------------------------------- */

static void gelu_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    eg_decoder *y = context;
    (void)worker;
    y->kernels->gelu_mul(y->gate + begin, y->gate + begin, y->up + begin, end - begin);
}

/* t[n] := FFN(h[n]) */
static void dense(eg_decoder *y, const eg_layer *w, const eg_layer_shape *s, int64_t n)
{
    eg_job jobs[] = {{w->gate, 0, n, y->gate, s->ffn, NULL, 0}, {w->up, 0, n, y->up, s->ffn, NULL, 0}};
    eg_multiply(&y->multiplier, y->h, y->config->hidden, n, jobs, 2);
    eg_pool_run(y->pool, gelu_task, y, n * s->ffn, 4096);
    eg_multiply_one(&y->multiplier, &w->down, y->gate, n, y->t);
}

/* ---- experts ----------------------------------------------------------------------------------------------------- */

typedef struct step {
    eg_decoder *y;
    const eg_layer *w;
} step;

static void router_input_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    step *p = context;
    int64_t d = p->y->config->hidden;
    float root = 1 / sqrtf((float)d);
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        float *h = p->y->h + t * d;
        p->y->kernels->rms_norm(h, p->y->x + t * d, p->w->router_scale, d, p->y->config->eps);
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
    step *p = context;
    eg_decoder *y = p->y;
    const eg_config *c = y->config;
    int64_t d = c->hidden, used = c->experts_used;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        float *u = y->h + t * d;
        y->kernels->rms_norm(u, y->x + t * d, p->w->pre_ffw_norm_2, d, c->eps);
        for (int64_t i = 0; i < used; i++) memcpy(y->moe.x + y->moe.row[t * used + i] * d, u, (size_t)d * sizeof *u);
    }
}

static void expert_gelu_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    eg_decoder *y = context;
    (void)worker;
    y->kernels->gelu_mul(y->moe.gate + begin, y->moe.gate + begin, y->moe.up + begin, end - begin);
}

/* t := rms(t; post_ffw_norm_1) + rms(weighted sum of the token's rows; post_ffw_norm_2) */
static void combine_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    step *p = context;
    eg_decoder *y = p->y;
    const eg_config *c = y->config;
    int64_t d = c->hidden, used = c->experts_used;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        float *sum = y->h + t * d, *out = y->t + t * d;
        memset(sum, 0, (size_t)d * sizeof *sum);
        for (int64_t i = t * used; i < (t + 1) * used; i++) {
            float w = y->moe.weight[i] * p->w->expert_scale[y->moe.expert[i]];
            const float *row = y->moe.x + y->moe.row[i] * d;
            for (int64_t j = 0; j < d; j++) sum[j] += w * row[j];
        }
        y->kernels->rms_norm(sum, sum, p->w->post_ffw_norm_2, d, c->eps);
        y->kernels->rms_norm(out, out, p->w->post_ffw_norm_1, d, c->eps);
        for (int64_t j = 0; j < d; j++) out[j] += sum[j];
    }
}

/* Sorts the block's (token, rank) pairs by expert: their rows in moe.x, and where each expert's rows begin. */
static void assign_rows(eg_decoder *y, int64_t n)
{
    int64_t pairs = n * y->config->experts_used, row = 0;
    for (int32_t e = 0; e < y->config->experts; e++) {
        y->moe.first[e] = (int32_t)row;
        for (int64_t i = 0; i < pairs; i++)
            if (y->moe.expert[i] == e) y->moe.row[i] = (int32_t)row++;
    }
    y->moe.first[y->config->experts] = (int32_t)row;
}

/* One job for each expert that has rows: out[its rows] = its matrix times these rows of the input. Returns how many. */
static int64_t add_jobs(const eg_decoder *y, const eg_experts *experts, float *out, eg_job *jobs)
{
    int64_t n = 0, ldy = experts->first.rows;
    for (int32_t e = 0; e < y->config->experts; e++) {
        int64_t first = y->moe.first[e], rows = y->moe.first[e + 1] - first;
        if (!rows) continue;
        eg_matrix w = experts->first;
        w.data += (size_t)e * experts->stride;
        jobs[n++] = (eg_job){w, first, rows, out + first * ldy, ldy, NULL, 0};
    }
    return n;
}

/* t[n] := m1 + m2 of x[n] and h[n] */
static void experts(eg_decoder *y, const eg_layer *w, const eg_layer_shape *s, int64_t n)
{
    const eg_config *c = y->config;
    int64_t d = c->hidden, ffn = c->expert_ffn, rows = n * c->experts_used;
    step p = {y, w};
    dense(y, w, s, n);

    eg_pool_run(y->pool, router_input_task, &p, n, 1);
    eg_job router = {w->router, 0, n, y->moe.z, c->experts, NULL, 0};
    eg_multiply(&y->multiplier, y->h, d, n, &router, 1);
    for (int64_t t = 0; t < n; t++)
        choose(y->moe.z + t * c->experts, c->experts, c->experts_used, y->moe.expert + t * c->experts_used,
               y->moe.weight + t * c->experts_used);
    assign_rows(y, n);
    eg_pool_run(y->pool, expert_input_task, &p, n, 1);

    int64_t n_jobs = add_jobs(y, &w->expert_gate, y->moe.gate, y->moe.jobs);
    n_jobs += add_jobs(y, &w->expert_up, y->moe.up, y->moe.jobs + n_jobs);
    eg_multiply(&y->multiplier, y->moe.x, d, rows, y->moe.jobs, n_jobs);
    eg_pool_run(y->pool, expert_gelu_task, y, rows * ffn, 4096);
    n_jobs = add_jobs(y, &w->expert_down, y->moe.x, y->moe.jobs);
    eg_multiply(&y->multiplier, y->moe.gate, ffn, rows, y->moe.jobs, n_jobs);
    eg_pool_run(y->pool, combine_task, &p, n, 1);
}

void eg_ffn(eg_decoder *y, int32_t layer, int64_t n)
{
    const eg_layer *w = &y->weights->layer[layer];
    const eg_layer_shape *s = &y->config->layer[layer];
    if (y->config->experts) experts(y, w, s, n);
    else dense(y, w, s, n);
}
