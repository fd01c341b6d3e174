/* The decoder, in the order of the model:
 *   x = embed(ids); for each layer: attention, feed-forward, per-layer embedding, scale; logits = softcap(E rms(x))
 * Attention, feed-forward and logits are in files of their own.
 */
#include "decoder.h"

#include <math.h>
#include <string.h>

#include "../base/numbers.h"
#include "attention.h"
#include "ffn.h"
#include "head.h"
#include "tables.h"

/* ---- inputs ------------------------------------------------------------------------------------------------------ */

typedef struct input_call {
    eg_workspace *ws;
    float *out;
    int32_t from, to;
} input_call;

/* out[n]: columns [col, col + n) of a row of a table. Uses the second half of the worker's scratch. */
static void read_row(const eg_workspace *ws, unsigned worker, const eg_matrix *table, int64_t row, int64_t col, int64_t n,
                     float *out)
{
    uint8_t *blocks = (uint8_t *)eg_matmul_scratch(&ws->matmul, worker) + ws->row_bytes;
    eg_table_read(ws->weights, table, row, col, n, blocks);
    eg_matrix_decode(table, row, col, n, blocks, out);
}

/* out[n, d] := scaled embeddings of the rows. */
static void embed_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    input_call *call = context;
    int64_t d = call->ws->config->hidden;
    const eg_matrix *table = eg_table_tokens(call->ws->weights);
    float scale = sqrtf((float)d);
    for (int64_t t = begin; t < end; t++) {
        const eg_row *row = &call->ws->row[t];
        float *x = call->out + t * d;
        if (row->id < 0) {
            memcpy(x, row->soft, (size_t)d * sizeof *x);
            continue;
        }
        if (table) read_row(call->ws, worker, table, row->id, 0, d, x);
        else eg_matrix_row(&call->ws->weights->token_embd, row->id, 0, d, x);
        for (int64_t i = 0; i < d; i++) x[i] *= scale;
    }
}

/* The row of a table that a token reads. Soft tokens use that of <pad> in the table of per-layer embeddings. */
static int64_t table_row(const eg_row *row) { return row->id < 0 ? 0 : row->id; }

/* The rows of a prompt are scattered over a table: the system begins to read them all before the first is needed. */
static void ask_for_rows(const eg_workspace *ws, const eg_matrix *table, int64_t n)
{
    for (int64_t t = 0; n > 1 && t < n; t++) eg_table_ask(table, table_row(&ws->row[t]));
}

static void embed(eg_workspace *ws, int64_t n, float *out)
{
    input_call call = {ws, out, 0, 0};
    ask_for_rows(ws, eg_table_tokens(ws->weights), n);
    eg_pool_run(ws->pool, embed_task, &call, n, 1);
}

/* ple := (rms(ple / sqrt(d); per_layer_proj_norm) + sqrt(P) * row of the token) / sqrt(2), layer by layer */
static void per_layer_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    input_call *call = context;
    const eg_config *c = call->ws->config;
    const eg_matrix *table = &call->ws->weights->per_layer_token_embd;
    int64_t P = c->per_layer, width = (call->to - call->from) * P, block = table->type->block;
    int64_t begin_col = call->from * P / block * block, end_col = (call->to * P + block - 1) / block * block;
    float root_P = sqrtf((float)P), root_d = 1 / sqrtf((float)c->hidden);
    float *row = eg_matmul_scratch(&call->ws->matmul, worker);
    for (int64_t t = begin; t < end; t++) {
        read_row(call->ws, worker, table, table_row(&call->ws->row[t]), begin_col, end_col - begin_col, row);
        for (int32_t l = call->from; l < call->to; l++) {
            float *out = call->ws->ple + t * width + (l - call->from) * P;
            const float *a = row + l * P - begin_col;
            for (int64_t i = 0; i < P; i++) out[i] *= root_d;
            call->ws->kernels->rms_norm(out, out, call->ws->weights->per_layer_proj_norm, P, c->eps);
            for (int64_t i = 0; i < P; i++) out[i] = (out[i] + a[i] * root_P) * 0.70710678118654752f;
        }
    }
}

/* Computes the per-layer inputs of layers [from, to) of the rows, whose embeddings are given. Does nothing if the model has
 * none. */
static void per_layer_inputs(eg_workspace *ws, int64_t n, const float *embeddings, int32_t from, int32_t to)
{
    const eg_config *c = ws->config;
    if (!c->per_layer || from >= to) return;
    ask_for_rows(ws, eg_table_per_layer(ws->weights), n);
    ws->ple_from = from;
    ws->ple_layers = to - from;
    eg_matrix w = eg_matrix_slice(&ws->weights->per_layer_model_proj, from * c->per_layer, (int64_t)(to - from) * c->per_layer);
    eg_multiply_one(&ws->matmul, &w, embeddings, n, ws->ple);
    input_call call = {ws, NULL, from, to};
    eg_pool_run(ws->pool, per_layer_task, &call, n, 1);
}

/* ---- one layer --------------------------------------------------------------------------------------------------- */

typedef struct layer_call {
    eg_workspace *ws;
    const eg_layer *w;
    int32_t layer;
} layer_call;

/* x += rms(t; post_attention_norm); h = rms(x; ffn_norm) */
static void after_attention_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    layer_call *call = context;
    int64_t d = call->ws->config->hidden;
    float eps = call->ws->config->eps;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        float *x = call->ws->x + i * d, *t = call->ws->t + i * d;
        call->ws->kernels->rms_norm(t, t, call->w->post_attention_norm, d, eps);
        for (int64_t j = 0; j < d; j++) x[j] += t[j];
        call->ws->kernels->rms_norm(call->ws->h + i * d, x, call->w->ffn_norm, d, eps);
    }
}

/* x = (x + rms(t; norm)) * scale; the scale is 1 unless this is the layer's last operation. */
static void add(layer_call *call, int64_t begin, int64_t end, const float *norm, float scale)
{
    int64_t d = call->ws->config->hidden;
    for (int64_t i = begin; i < end; i++) {
        float *x = call->ws->x + i * d, *t = call->ws->t + i * d;
        call->ws->kernels->rms_norm(t, t, norm, d, call->ws->config->eps);
        for (int64_t j = 0; j < d; j++) x[j] = (x[j] + t[j]) * scale;
    }
}

static void after_ffn_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    layer_call *call = context;
    (void)worker;
    add(call, begin, end, call->w->post_ffw_norm, call->ws->config->per_layer ? 1 : call->w->output_scale);
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
    int64_t P = call->ws->config->per_layer;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        float *gate = call->ws->gate + t * P;
        call->ws->kernels->gelu_mul(gate, gate,
                                    call->ws->ple + (t * call->ws->ple_layers + call->layer - call->ws->ple_from) * P, P);
    }
}

/* False if the disk failed that its weights are read from. */
static bool run_layer(eg_workspace *ws, int32_t layer, int64_t n, eg_layer_mode mode)
{
    layer_call call = {ws, &ws->weights->layer[layer], layer};
    eg_attend(ws, layer, n, mode);
    if (mode == EG_LAYER_KV_ONLY) return true;
    eg_pool_run(ws->pool, after_attention_task, &call, n, 1);
    if (!eg_ffn(ws, layer, n)) return false;
    eg_pool_run(ws->pool, after_ffn_task, &call, n, 1);
    if (ws->config->per_layer) {
        eg_multiply_one(&ws->matmul, &call.w->inp_gate, ws->x, n, ws->gate);
        eg_pool_run(ws->pool, per_layer_gate_task, &call, n, 1);
        eg_multiply_one(&ws->matmul, &call.w->proj, ws->gate, n, ws->t);
        eg_pool_run(ws->pool, after_per_layer_task, &call, n, 1);
    }
    return true;
}

/* Runs layers [from, to) on x[n], layer `from` in the given mode. A layer that computes its output needs its per-layer inputs.
 * Unless `hidden` is NULL, x is copied to hidden + (l + 1) * hidden_stride after layer l. False if the turn was stopped or
 * the disk failed. */
static bool run_layers(eg_workspace *ws, int64_t n, int32_t from, int32_t to, eg_layer_mode first_mode, float *hidden,
                       size_t hidden_stride)
{
    eg_attend_angles(ws, n);
    for (int32_t l = from; l < to; l++) {
        if (!eg_pool_go_on(ws->pool, ws->turn)) return false;
        const eg_layer_mode mode = l == from ? first_mode : EG_LAYER_FULL;
        const int32_t ahead = mode == EG_LAYER_KV_ONLY ? -1 : l + 1;   /* the logits' matrix is one layer more */
        if (!eg_store_use(ws->store, l, n, ahead) || !run_layer(ws, l, n, mode)) return false;
        if (hidden) memcpy(hidden + (size_t)(l + 1) * hidden_stride, ws->x, (size_t)(n * ws->config->hidden) * sizeof(float));
    }
    return true;
}

/* ---- a block ----------------------------------------------------------------------------------------------------- */

/* Appends rows [first, first + n) of a run to the block, which has `filled` rows. */
static void add_rows(eg_workspace *ws, const eg_run *run, int64_t first, int64_t n, int64_t filled)
{
    if (!n) return;
    ws->stretch[ws->stretches++] = (eg_stretch){.cache = run->cache,
                                                .row = filled,
                                                .n = n,
                                                .position = run->position + first,
                                                .until = run->both_ways ? run->position + run->n - 1 : -1};
    for (int64_t i = 0; i < n; i++) {
        int64_t t = first + i;
        ws->row[filled + i] = (eg_row){.cache = run->cache,
                                       .position = run->position + t,
                                       .soft = run->soft ? run->soft + t * ws->config->hidden : NULL,
                                       .id = run->ids[t]};
    }
}

/* Everything that the caches need of the tokens. */
static bool prefill(eg_workspace *ws, const eg_run *runs, int64_t n_runs, float *hidden, size_t hidden_stride)
{
    const int32_t last = ws->config->kv_layers - 1; /* of this layer the cache needs K/V only */
    const size_t d = (size_t)ws->config->hidden, bytes = d * sizeof(float);
    int64_t n = 0;
    ws->stretches = 0;
    for (int64_t r = 0; r < n_runs; n += runs[r++].n) {
        add_rows(ws, &runs[r], 0, runs[r].n, n);
        if (runs[r].n) runs[r].last->valid = false;
    }
    if (!n) return true;
    embed(ws, n, ws->x);
    for (int64_t r = 0, end = 0; r < n_runs; r++) {
        end += runs[r].n;
        if (runs[r].n) memcpy(runs[r].last->embedding, ws->x + (size_t)(end - 1) * d, bytes);
    }
    if (hidden) memcpy(hidden, ws->x, (size_t)n * bytes);
    per_layer_inputs(ws, n, ws->x, 0, last);
    if (last > 0 && !run_layers(ws, n, 0, last, EG_LAYER_FULL, hidden, hidden_stride)) return false;
    if (!run_layers(ws, n, last, last + 1, EG_LAYER_KV_ONLY, NULL, 0)) return false;
    for (int64_t r = 0, end = 0; r < n_runs; r++) {
        end += runs[r].n;
        if (!runs[r].n) continue;
        memcpy(runs[r].last->x, ws->x + (size_t)(end - 1) * d, bytes);
        runs[r].last->id = runs[r].ids[runs[r].n - 1];
        runs[r].last->position = runs[r].position + runs[r].n - 1;
        runs[r].last->valid = true;
    }
    return true;
}

/* Gathers the rows whose logits are wanted at the front: x, with their embeddings in t. Returns their number. */
static int64_t gather_wanted(eg_workspace *ws, const eg_run *runs, int64_t n_runs)
{
    const size_t d = (size_t)ws->config->hidden, bytes = d * sizeof(float);
    int64_t m = 0;
    ws->stretches = 0;
    for (int64_t r = 0, end = 0; r < n_runs; m += runs[r++].wanted) {
        const eg_run *run = &runs[r];
        end += run->n;
        if (run->n) {
            add_rows(ws, run, run->n - run->wanted, run->wanted, m);
            memcpy(ws->h + (size_t)m * d, ws->x + (size_t)(end - run->wanted) * d, (size_t)run->wanted * bytes);
        } else if (run->wanted) {
            eg_run again = *run;
            again.ids = &run->last->id;
            again.both_ways = false; /* nothing behind it: the last token sees what it would see anyway */
            again.soft = run->last->embedding;
            again.position = run->last->position;
            add_rows(ws, &again, 0, 1, m);
            memcpy(ws->h + (size_t)m * d, run->last->x, bytes);
        }
    }
    embed(ws, m, ws->t);
    memcpy(ws->x, ws->h, (size_t)m * bytes);
    return m;
}

/* The remaining layers, for the tokens whose logits are wanted. */
static bool finish(eg_workspace *ws, const eg_run *runs, int64_t n_runs, float *logits, float *hidden, size_t hidden_stride)
{
    const eg_config *c = ws->config;
    const int32_t first = c->kv_layers - 1;
    int64_t m = gather_wanted(ws, runs, n_runs);
    if (!m) return true;
    per_layer_inputs(ws, m, ws->t, first, c->layers);
    if (!run_layers(ws, m, first, c->layers, EG_LAYER_NO_KV, hidden, hidden_stride)) return false;
    return eg_head(ws, m, logits, hidden ? hidden + (size_t)c->layers * hidden_stride : NULL);
}

bool eg_decoder_evaluate(eg_workspace *ws, const eg_run *runs, int64_t n_runs, float *logits, float *hidden,
                         size_t hidden_stride)
{
    if (prefill(ws, runs, n_runs, hidden, hidden_stride) && finish(ws, runs, n_runs, logits, hidden, hidden_stride) &&
        !eg_gguf_failed(ws->file))
        return true;
    for (int64_t r = 0; r < n_runs; r++)
        if (runs[r].n) runs[r].last->valid = false;
    return false;
}
