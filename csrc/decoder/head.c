/* Logits, with a leaner head and the exact rows of the best tokens if there is a sidecar; see head.h. */
#include "head.h"

#include <string.h>

#include "../base/numbers.h"
#include "tables.h"

typedef struct head_call {
    eg_workspace *ws;
    float *logits;             /* [n, V], or of one row in best_task */
} head_call;

static void output_norm_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    head_call *call = context;
    int64_t d = call->ws->config->hidden;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        call->ws->kernels->rms_norm(call->ws->h + t * d, call->ws->x + t * d, call->ws->weights->output_norm, d,
                                    call->ws->config->eps);
}

static void softcap_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    head_call *call = context;
    (void)worker;
    call->ws->kernels->softcap(call->logits + begin, end - begin, call->ws->config->softcap);
}

/* ---- the best tokens --------------------------------------------------------------------------------------------- */

/* An integer that is in the order of floats: comparisons of integers are fast, and a NaN is before all numbers or behind. */
static int32_t ordered(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits ^ (bits >> 31 & INT32_MAX);
}

/* Unit of work: a group of EG_HEAD_GROUP logits, whose best is noted. */
static void best_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    head_call *call = context;
    const int64_t vocab = call->ws->config->vocab;
    (void)worker;
    for (int64_t g = begin; g < end; g++) {
        const int64_t from = g * EG_HEAD_GROUP, to = eg_smaller(from + EG_HEAD_GROUP, vocab);
        int32_t best = INT32_MIN;
        for (int64_t i = from; i < to; i++) {
            int32_t value = ordered(call->logits[i]);
            best = value > best ? value : best;
        }
        call->ws->head.best[g] = best;
    }
}

/* The EG_HEAD_EXACT-th largest of n values, or the smallest if they are fewer. */
static int32_t threshold(const int32_t *values, int64_t n)
{
    int32_t heap[EG_HEAD_EXACT], held = 0;   /* the largest so far; the smallest of them is the root */
    for (int64_t i = 0; i < n; i++) {
        int32_t value = values[i], at;
        if (held < EG_HEAD_EXACT) {
            for (at = held++; at && heap[(at - 1) / 2] > value; at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
        } else if (value > heap[0]) {
            for (at = 0; 2 * at + 1 < held;) {
                int32_t child = 2 * at + 1;
                if (child + 1 < held && heap[child + 1] < heap[child]) child++;
                if (heap[child] >= value) break;
                heap[at] = heap[child];
                at = child;
            }
        } else {
            continue;
        }
        heap[at] = value;
    }
    return heap[0];
}

/* Lists the best tokens of logits[V] in ws->head.token, in their order, and returns how many: EG_HEAD_EXACT and what ties with the
 * last of them, but no more than EG_HEAD_MOST. With fewer groups, at least one for each group.
 *
 * The bests of groups tell which groups have something to look at. No more than EG_HEAD_EXACT of them do, unless their bests tie. */
static int64_t choose(eg_workspace *ws, float *logits)
{
    const int64_t vocab = ws->config->vocab, groups = (vocab + EG_HEAD_GROUP - 1) / EG_HEAD_GROUP;
    int32_t *token = ws->head.token, *value = ws->head.value;
    head_call call = {ws, logits};
    eg_pool_run(ws->pool, best_task, &call, groups, 1024);
    int32_t least = threshold(ws->head.best, groups);
    int64_t found = 0, n = 0;
    for (int64_t g = 0; g < groups; g++) {
        if (ws->head.best[g] < least) continue;
        const int64_t from = g * EG_HEAD_GROUP, to = eg_smaller(from + EG_HEAD_GROUP, vocab);
        for (int64_t i = from; i < to && found < EG_HEAD_SEEN; i++) {
            if (ordered(logits[i]) < least) continue;
            token[found] = (int32_t)i;
            value[found++] = ordered(logits[i]);
        }
    }
    least = threshold(value, found);
    for (int64_t i = 0; i < found && n < EG_HEAD_MOST; i++)
        if (value[i] >= least) token[n++] = token[i];
    return n;
}

/* Unit of work: one of the best tokens, whose row is read. */
static void read_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    const eg_workspace *ws = ((head_call *)context)->ws;
    const eg_matrix *head = &ws->weights->output;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        eg_table_read(ws->weights, head, ws->head.token[i], 0, head->cols, ws->head.rows + (size_t)i * head->row_bytes);
}

/* Computes the best of logits[V] again, with the rows of the model's own head; h[d] is their input. */
static void refine(eg_workspace *ws, const float *h, float *logits)
{
    head_call call = {ws, logits};
    const int64_t n = choose(ws, logits);
    for (int64_t i = 0; i < n; i++) eg_table_ask(&ws->weights->output, ws->head.token[i]);
    eg_pool_run(ws->pool, read_task, &call, n, 8);
    eg_matrix rows = ws->weights->output;
    rows.data = ws->head.rows;
    rows.rows = n;
    eg_multiply_one(&ws->matmul, &rows, h, 1, ws->head.exact);
    for (int64_t i = 0; i < n; i++) logits[ws->head.token[i]] = ws->head.exact[i];
}

bool eg_head(eg_workspace *ws, int64_t n, float *logits, float *normed)
{
    const eg_config *c = ws->config;
    const bool lean = ws->weights->output_lean.data != NULL;
    head_call call = {ws, logits};
    eg_pool_run(ws->pool, output_norm_task, &call, n, 1);
    if (normed) memcpy(normed, ws->h, (size_t)(n * c->hidden) * sizeof(float));
    if (!logits) return true;
    if (!eg_store_use(ws->store, c->layers, n, 0)) return false;
    eg_multiply_one(&ws->matmul, lean ? &ws->weights->output_lean : &ws->weights->output, ws->h, n, logits);
    for (int64_t t = 0; lean && t < n; t++) refine(ws, ws->h + t * c->hidden, logits + t * c->vocab);
    if (c->softcap > 0) eg_pool_run(ws->pool, softcap_task, &call, n * c->vocab, 16384);
    return true;
}
