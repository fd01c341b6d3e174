/* The audio encoder, in the order of the model:
 *   two strided convolutions and a projection; for each layer: feed-forward, attention, light convolution, feed-forward, norm;
 *   then the output projections
 */
#include "encoder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../base/numbers.h"

enum { QUERIES = 8 };          /* tokens whose scores are computed together */

static const float EPS = 1e-6f, LN2 = 0.693147180559945309f, E_LN = 1.31326168751822283f;   /* the last one: ln(1 + e) */

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static float *floats(eg_arena *arena, int64_t rows, int64_t cols)
{
    return eg_arena_take(arena, (size_t)rows, (size_t)cols * sizeof(float));
}

static int64_t row_width(const eg_audio_config *c) { return (int64_t)c->rows[0] * c->channels[0]; }

void eg_audio_layout(eg_audio *enc, eg_arena *arena)
{
    const eg_audio_config *c = &enc->weights->config;
    const int64_t w = c->width, history = enc->context - 1;
    enc->state = eg_arena_take(arena, (size_t)c->layers, sizeof *enc->state);
    for (int32_t l = 0; l < c->layers; l++) {
        eg_audio_state s = {floats(arena, history, w), floats(arena, history, w), floats(arena, EG_AUDIO_KERNEL - 1, w)};
        if (enc->state) enc->state[l] = s;
    }
    enc->frame = floats(arena, 1, c->features);
    enc->row = floats(arena, 1, row_width(c));
}

static void layout_work(eg_audio_work *work, eg_arena *arena)
{
    const eg_audio_config *c = &work->weights->config;
    int64_t w = c->width,
            wide = eg_larger(eg_larger(c->ffn, 2 * w), eg_larger((int64_t)c->rows[1] * c->channels[1], c->output));
    work->frames = floats(arena, 1 + EG_AUDIO_BLOCK * EG_AUDIO_FRAMES, c->features);
    work->rows = floats(arena, 1 + EG_AUDIO_BLOCK * 2, row_width(c));
    work->k = floats(arena, EG_AUDIO_REACH - 1 + EG_AUDIO_BLOCK, w);
    work->v = floats(arena, EG_AUDIO_REACH - 1 + EG_AUDIO_BLOCK, w);
    work->g = floats(arena, EG_AUDIO_KERNEL - 1 + EG_AUDIO_BLOCK, w);
    work->x = floats(arena, EG_AUDIO_BLOCK, w);
    work->h = floats(arena, EG_AUDIO_BLOCK, w);
    work->t = floats(arena, EG_AUDIO_BLOCK, w);
    work->q = floats(arena, EG_AUDIO_BLOCK, w);
    work->wide = floats(arena, EG_AUDIO_BLOCK, wide);
    int64_t patches = eg_larger(c->rows[0] * work->weights->conv[0].cols, c->rows[1] * work->weights->conv[1].cols);
    int64_t scratch = eg_larger(patches, QUERIES * (QUERIES + 2 * EG_AUDIO_REACH));
    eg_matmul_layout(&work->matmul, EG_AUDIO_BLOCK * wide, wide, (size_t)scratch * sizeof(float), arena);
}

eg_audio_work *eg_audio_work_open(const eg_audio_weights *weights, eg_pool *pool)
{
    eg_audio_work *work = calloc(1, sizeof *work);
    if (!work) return NULL;
    work->weights = weights;
    work->matmul.kernels = eg_kernels_get();
    work->matmul.pool = pool;
    work->matmul.two_term = true;
    eg_arena arena = {NULL, 0};
    layout_work(work, &arena);
    work->bytes = arena.used;
    arena = eg_arena_open(work->bytes, &work->memory);
    if (arena.base) {
        layout_work(work, &arena);
        return work;
    }
    free(work);
    return NULL;
}

void eg_audio_work_close(eg_audio_work *work)
{
    if (!work) return;
    eg_arena_close(work->memory);
    free(work);
}

void eg_audio_reset(eg_audio *enc)
{
    const eg_audio_config *c = &enc->weights->config;
    enc->position = 0;
    memset(enc->frame, 0, (size_t)c->features * sizeof *enc->frame);
    memset(enc->row, 0, (size_t)row_width(c) * sizeof *enc->row);
    for (int32_t l = 0; l < c->layers; l++)
        memset(enc->state[l].g, 0, (EG_AUDIO_KERNEL - 1) * (size_t)c->width * sizeof(float));
}

/* out[l, delta] = W_rel S(delta), S(delta) = sin(delta c_j) for the first half and cos(delta c_j) for the second */
void eg_audio_relative(eg_audio_work *work, float *out)
{
    const eg_audio_config *c = &work->weights->config;
    int64_t half = c->width / 2;
    for (int64_t delta = 0; delta < EG_AUDIO_REACH; delta++)
        for (int64_t j = 0; j < half; j++) {
            double angle = (double)delta * exp(-(double)j * log(10000) / (double)(half - 1));
            work->x[delta * c->width + j] = (float)sin(angle);
            work->x[delta * c->width + half + j] = (float)cos(angle);
        }
    for (int32_t l = 0; l < c->layers; l++)
        eg_multiply_one(&work->matmul, &work->weights->layer[l].k_rel, work->x, EG_AUDIO_REACH,
                        out + (int64_t)l * EG_AUDIO_REACH * c->width);
}

void eg_audio_copy(eg_audio *to, const eg_audio *from)
{
    const eg_audio_config *c = &from->weights->config;
    size_t w = (size_t)c->width * sizeof(float), history = (size_t)from->context - 1;
    to->position = from->position;
    memcpy(to->frame, from->frame, (size_t)c->features * sizeof *to->frame);
    memcpy(to->row, from->row, (size_t)row_width(c) * sizeof *to->row);
    for (int32_t l = 0; l < c->layers; l++) {
        memcpy(to->state[l].k, from->state[l].k, history * w);
        memcpy(to->state[l].v, from->state[l].v, history * w);
        memcpy(to->state[l].g, from->state[l].g, (EG_AUDIO_KERNEL - 1) * w);
    }
}

/* ---- operations that the stages share ----------------------------------------------------------------------------- */

typedef struct encoder_call {
    const eg_audio *enc;
    eg_audio_work *work;
    const eg_audio_layer *w;
    const float *relative;     /* [REACH, w] of the layer */
    int64_t n;                 /* tokens */
    const float *norm;         /* of the next norm_task or add_task */
    const float *bounds;
    float scale;
} encoder_call;

static void for_tokens(encoder_call *call, eg_task *task) { eg_pool_run(call->work->matmul.pool, task, call, call->n, 1); }

/* h = clamp(rms(x; norm)) */
static void norm_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoder_call *call = context;
    int64_t w = call->work->weights->config.width;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        call->work->matmul.kernels->rms_norm(call->work->h + t * w, call->work->x + t * w, call->norm, w, EPS);
        eg_clamp(call->work->h + t * w, w, call->bounds);
    }
}

static void norm(encoder_call *call, const float *weight, const float bounds[2])
{
    call->norm = weight;
    call->bounds = bounds;
    for_tokens(call, norm_task);
}

/* x += scale * rms(t; norm) */
static void add_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoder_call *call = context;
    int64_t w = call->work->weights->config.width;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        float *x = call->work->x + i * w, *t = call->work->t + i * w;
        if (call->norm) call->work->matmul.kernels->rms_norm(t, t, call->norm, w, EPS);
        for (int64_t j = 0; j < w; j++) x[j] += call->scale * t[j];
    }
}

static void add(encoder_call *call, const float *weight, float scale)
{
    call->norm = weight;
    call->scale = scale;
    for_tokens(call, add_task);
}

/* y = clamp(W x); x is clamped already */
static void multiply(encoder_call *call, const eg_clipped *w, const float *x, float *y)
{
    eg_product product = {w->w, 0, call->n, y, w->w.rows, w->out, 0};
    eg_multiply(&call->work->matmul, x, w->w.cols, call->n, &product, 1);
}

/* ---- subsampling -------------------------------------------------------------------------------------------------- */

/* x = relu(layer_norm(x) * weight), over the channels of each position. */
static void layer_norm_relu(float *x, int64_t positions, int64_t channels, const float *weight)
{
    for (int64_t i = 0; i < positions; i++, x += channels) {
        float mean = 0, square = 0;
        for (int64_t c = 0; c < channels; c++) mean += x[c];
        mean /= (float)channels;
        for (int64_t c = 0; c < channels; c++) square += (x[c] - mean) * (x[c] - mean);
        float factor = 1 / sqrtf(square / (float)channels + EPS);
        for (int64_t c = 0; c < channels; c++) {
            float y = (x[c] - mean) * factor * weight[c];
            x[c] = y > 0 ? y : 0;
        }
    }
}

/* Stride 2 in time and frequency, zeros beyond the edges: in[3][height][inputs] -> out[(height + 1) / 2][channels]. */
static void convolve(const eg_audio_work *work, int i, const float *in, int64_t height, int64_t inputs, float *out,
                     float *patches)
{
    const eg_matrix *w = &work->weights->conv[i];
    int64_t positions = work->weights->config.rows[i];
    size_t run = (size_t)inputs * sizeof *in;
    memset(patches, 0, (size_t)(positions * w->cols) * sizeof *patches);
    for (int64_t k = 0; k < positions; k++)
        for (int64_t place = 0; place < 9; place++) {
            int64_t row = 2 * k - 1 + place % 3;
            if (row >= 0 && row < height)
                memcpy(patches + k * w->cols + place * inputs, in + (place / 3 * height + row) * inputs, run);
        }
    work->matmul.kernels->matmul_float(out, w->rows, patches, w->cols, positions, w, 0, w->rows, NULL);
    layer_norm_relu(out, positions, w->rows, work->weights->conv_norm[i]);
}

typedef struct subsample_call {
    eg_audio_work *work;
    int64_t frames;
} subsample_call;

/* Rows [begin, end) of the first convolution: row s is centred on frame 2s; beyond the last frame rows are zero. */
static void first_convolution_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    subsample_call *call = context;
    const eg_audio_config *c = &call->work->weights->config;
    int64_t width = row_width(c);
    float *patches = eg_matmul_scratch(&call->work->matmul, worker);
    for (int64_t s = begin; s < end; s++) {
        float *out = call->work->rows + (1 + s) * width;
        if (2 * s < call->frames)
            convolve(call->work, 0, call->work->frames + 2 * s * c->features, c->features, 1, out, patches);
        else memset(out, 0, (size_t)width * sizeof *out);
    }
}

static void second_convolution_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    subsample_call *call = context;
    const eg_audio_config *c = &call->work->weights->config;
    float *patches = eg_matmul_scratch(&call->work->matmul, worker);
    for (int64_t t = begin; t < end; t++)
        convolve(call->work, 1, call->work->rows + 2 * t * row_width(c), c->rows[0], c->channels[0],
                 call->work->wide + t * c->rows[1] * c->channels[1], patches);
}

/* x[n] from n_frames frames; `frames` begins with the last frame of the previous block. */
static void subsample(eg_audio_work *work, int64_t n_frames, int64_t n)
{
    subsample_call call = {work, n_frames};
    eg_pool_run(work->matmul.pool, first_convolution_task, &call, 2 * n, 1);
    eg_pool_run(work->matmul.pool, second_convolution_task, &call, n, 1);
    eg_multiply_one(&work->matmul, &work->weights->input, work->wide, n, work->x);
}

/* ---- feed-forward ------------------------------------------------------------------------------------------------- */

static void silu_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoder_call *call = context;
    int64_t ffn = call->work->weights->config.ffn;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        float *y = call->work->wide + t * ffn;
        call->work->matmul.kernels->sigmoid_mul(y, y, y, ffn);
        eg_clamp(y, ffn, call->bounds);
    }
}

/* x += rms(down(silu(up(rms(x; pre)))); post) / 2 */
static void feed_forward(encoder_call *call, const eg_audio_ffw *w)
{
    norm(call, w->pre, w->up.in);
    multiply(call, &w->up, call->work->h, call->work->wide);
    call->bounds = w->down.in;
    for_tokens(call, silu_task);
    multiply(call, &w->down, call->work->wide, call->work->t);
    add(call, w->post, 0.5f);
}

/* ---- attention ---------------------------------------------------------------------------------------------------- */

static void clamp_copy_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoder_call *call = context;
    int64_t w = call->work->weights->config.width;
    (void)worker;
    memcpy(call->work->t + begin * w, call->work->h + begin * w, (size_t)((end - begin) * w) * sizeof(float));
    eg_clamp(call->work->t + begin * w, (end - begin) * w, call->bounds);
}

/* q, k and v of h. Each matrix clamps its input; if all three clamp alike, they are multiplied in one call. */
static void project(encoder_call *call, const eg_clipped *const matrices[3], float *const out[3])
{
    const eg_audio_work *work = call->work;
    eg_product products[3];
    bool alike = true;
    for (int i = 0; i < 3; i++) {
        products[i] = (eg_product){matrices[i]->w, 0, call->n, out[i], matrices[i]->w.rows, matrices[i]->out, 0};
        alike &= eg_clipped_alike(matrices[i], matrices[0]);
    }
    for (int i = 0; i < 3; i += alike ? 3 : 1) {
        call->bounds = matrices[i]->in;
        for_tokens(call, clamp_copy_task);
        eg_multiply(&call->work->matmul, work->t, work->weights->config.width, call->n, products + i, alike ? 3 : 1);
    }
}

/* q *= head_dim^-1/2 / ln 2 * per_dim_scale, k *= ln(1 + e) / ln 2 */
static void scale_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoder_call *call = context;
    const eg_audio_config *c = &call->work->weights->config;
    int64_t w = c->width, history = call->enc->context - 1;
    float factor = 1 / (sqrtf((float)c->head_dim) * LN2);
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        float *q = call->work->q + t * w, *k = call->work->k + (history + t) * w;
        for (int32_t h = 0; h < c->heads; h++)
            for (int32_t i = 0; i < c->head_dim; i++) *q++ *= factor * call->w->per_dim_scale[i];
        for (int64_t i = 0; i < w; i++) k[i] *= E_LN / LN2;
    }
}

/* One token of one head: p = softmax over delta of 50 tanh((q.k + q.R) / 50), o = clamp(sum of p v). `content` and `v` point
 * to delta 0; larger deltas are before them in memory. */
static void attend(const encoder_call *call, const float *content, const float *relative, int64_t deltas, const float *v,
                   float *o)
{
    const eg_audio_config *c = &call->work->weights->config;
    float z[EG_AUDIO_REACH];
    for (int64_t d = 0; d < deltas; d++) z[d] = content[-d] + relative[d];
    call->work->matmul.kernels->softcap(z, deltas, 50);
    float top = z[0], sum = 0;
    for (int64_t d = 1; d < deltas; d++) top = z[d] > top ? z[d] : top;
    for (int64_t d = 0; d < deltas; d++) sum += z[d] = (float)exp((double)z[d] - top);
    memset(o, 0, (size_t)c->head_dim * sizeof *o);
    for (int64_t d = 0; d < deltas; d++) {
        float weight = z[d] / sum;
        for (int32_t i = 0; i < c->head_dim; i++) o[i] += weight * v[i - d * c->width];
    }
    eg_clamp(o, c->head_dim, call->w->out.in);
}

/* Unit of work: QUERIES tokens of one head. */
static void attention_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoder_call *call = context;
    const eg_audio_config *c = &call->work->weights->config;
    const eg_kernels *kernels = call->work->matmul.kernels;
    int64_t w = c->width, D = c->head_dim, history = call->enc->context - 1;
    float *content = eg_matmul_scratch(&call->work->matmul, worker);     /* [QUERIES, keys] */
    float *relative = content + QUERIES * (QUERIES + EG_AUDIO_REACH);      /* [QUERIES, context] */
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t first = unit / c->heads * QUERIES, offset = unit % c->heads * D;
        int64_t n = call->n - first < QUERIES ? call->n - first : QUERIES, keys = n + history;
        const float *q = call->work->q + first * w + offset;
        eg_matrix k = {.data = (const uint8_t *)(call->work->k + first * w + offset),
                       .type = eg_type_find(EG_TYPE_F32),
                       .rows = keys,
                       .cols = D,
                       .row_bytes = (size_t)w * sizeof(float)};
        eg_matrix r = k;
        r.data = (const uint8_t *)(call->relative + offset);
        r.rows = call->enc->context;
        kernels->matmul_float(content, keys, q, w, n, &k, 0, keys, NULL);
        kernels->matmul_float(relative, call->enc->context, q, w, n, &r, 0, call->enc->context, NULL);
        for (int64_t t = 0; t < n; t++) {
            int64_t past = call->enc->position + first + t, deltas = past < history ? past + 1 : history + 1;
            attend(call, content + t * keys + t + history, relative + t * call->enc->context, deltas,
                   call->work->v + (first + t + history) * w + offset, call->work->h + (first + t) * w + offset);
        }
    }
}

static void attention(encoder_call *call)
{
    eg_audio_work *work = call->work;
    const eg_audio_layer *w = call->w;
    static const float unbounded[2] = {-INFINITY, INFINITY};
    int64_t at = (call->enc->context - 1) * (int64_t)work->weights->config.width;
    norm(call, w->pre_attention, unbounded);
    project(call, (const eg_clipped *const[]){&w->q, &w->k, &w->v},
            (float *const[]){work->q, call->work->k + at, call->work->v + at});
    for_tokens(call, scale_task);
    eg_pool_run(work->matmul.pool, attention_task, call, (call->n + QUERIES - 1) / QUERIES * work->weights->config.heads, 1);
    multiply(call, &w->out, work->h, work->t);
    add(call, w->post_attention, 1);
}

/* ---- light convolution -------------------------------------------------------------------------------------------- */

/* g = y[: w] * sigmoid(y[w :]) */
static void gate_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoder_call *call = context;
    int64_t w = call->work->weights->config.width;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        const float *y = call->work->wide + t * 2 * w;
        call->work->matmul.kernels->sigmoid_mul(call->work->g + (EG_AUDIO_KERNEL - 1 + t) * w, y + w, y, w);
    }
}

/* h = silu(rms(sum over i of w[i] g[t - 4 + i]; norm_conv)) */
static void depthwise_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoder_call *call = context;
    int64_t w = call->work->weights->config.width;
    const eg_kernels *kernels = call->work->matmul.kernels;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        float *z = call->work->h + t * w;
        const float *g = call->work->g + t * w, *weight = call->w->conv_dw;
        for (int64_t c = 0; c < w; c++, g++, weight += EG_AUDIO_KERNEL) {
            float sum = 0;
            for (int64_t i = 0; i < EG_AUDIO_KERNEL; i++) sum += weight[i] * g[i * w];
            z[c] = sum;
        }
        kernels->rms_norm(z, z, call->w->post_conv, w, EPS);
        kernels->sigmoid_mul(z, z, z, w);
        eg_clamp(z, w, call->w->pw2.in);
    }
}

static void light_convolution(encoder_call *call)
{
    norm(call, call->w->pre_conv, call->w->pw1.in);
    multiply(call, &call->w->pw1, call->work->h, call->work->wide);
    for_tokens(call, gate_task);
    for_tokens(call, depthwise_task);
    multiply(call, &call->w->pw2, call->work->h, call->work->t);
    add(call, NULL, 1);
}

/* ---- the whole encoder -------------------------------------------------------------------------------------------- */

/* x = rms(x; ln2) */
static void last_norm_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoder_call *call = context;
    int64_t w = call->work->weights->config.width;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        call->work->matmul.kernels->rms_norm(call->work->x + t * w, call->work->x + t * w, call->w->out_norm, w, EPS);
}

/* y = rms(y + bias) */
static void output_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoder_call *call = context;
    const eg_audio_weights *w = call->work->weights;
    int64_t n = w->config.output;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        float *y = call->work->wide + t * n;
        for (int64_t i = 0; w->output_bias && i < n; i++) y[i] += w->output_bias[i];
        call->work->matmul.kernels->rms_norm(y, y, NULL, n, EPS);
    }
}

/* Puts the history of layer l in front of the block, and keeps what the next block needs of it. */
static void recall(const eg_audio *enc, eg_audio_work *work, int32_t l)
{
    const eg_audio_state *s = &enc->state[l];
    const size_t w = (size_t)enc->weights->config.width * sizeof(float), history = (size_t)enc->context - 1;
    memcpy(work->k, s->k, history * w);
    memcpy(work->v, s->v, history * w);
    memcpy(work->g, s->g, (EG_AUDIO_KERNEL - 1) * w);
}

static void keep(const eg_audio *enc, const eg_audio_work *work, int32_t l, int64_t n)
{
    const eg_audio_state *s = &enc->state[l];
    const size_t w = (size_t)enc->weights->config.width, history = (size_t)enc->context - 1, at = (size_t)n * w;
    memcpy(s->k, work->k + at, history * w * sizeof *s->k);
    memcpy(s->v, work->v + at, history * w * sizeof *s->v);
    memcpy(s->g, work->g + at, (EG_AUDIO_KERNEL - 1) * w * sizeof *s->g);
}

/* The rows of the projection are the frames themselves, with zeros behind the last one. */
static void take_samples(eg_audio_work *work, const float *frames, int64_t n_frames, int64_t n)
{
    const size_t given = (size_t)(n_frames * work->weights->config.features);
    const size_t all = (size_t)(n * work->weights->config.output);
    memcpy(work->wide, frames, given * sizeof *frames);
    memset(work->wide + given, 0, (all - given) * sizeof *frames);
}

/* Puts the frames behind the last one of the block before, and makes x of them. */
static void take_frames(eg_audio *enc, eg_audio_work *work, const float *frames, int64_t n_frames, int64_t n)
{
    const eg_audio_config *c = &enc->weights->config;
    const size_t features = (size_t)c->features, width = (size_t)row_width(c),
                 missing = (size_t)(n * EG_AUDIO_FRAMES - n_frames);
    memcpy(work->frames, enc->frame, features * sizeof *frames);
    memcpy(work->frames + features, frames, (size_t)n_frames * features * sizeof *frames);
    memset(work->frames + (size_t)(1 + n_frames) * features, 0, missing * features * sizeof *frames);
    memcpy(work->rows, enc->row, width * sizeof *enc->row);
    subsample(work, n_frames, n);
    memcpy(enc->frame, work->frames + (size_t)n_frames * features, features * sizeof *enc->frame);
    memcpy(enc->row, work->rows + 2 * (size_t)n * width, width * sizeof *enc->row);
}

/* The layers, from frames to x; false if they were stopped. */
static bool run_layers(encoder_call *call, eg_audio *enc, eg_turn *turn, const float *frames, int64_t n_frames)
{
    const eg_audio_weights *w = enc->weights;
    take_frames(enc, call->work, frames, n_frames, call->n);
    for (int32_t l = 0; l < w->config.layers; l++) {
        if (!eg_pool_go_on(call->work->matmul.pool, turn)) return false;
        call->w = &w->layer[l];
        call->relative = enc->relative + (int64_t)l * EG_AUDIO_REACH * w->config.width;
        recall(enc, call->work, l);
        feed_forward(call, &call->w->ffw[0]);
        attention(call);
        light_convolution(call);
        feed_forward(call, &call->w->ffw[1]);
        for_tokens(call, last_norm_task);
        keep(enc, call->work, l, call->n);
    }
    return true;
}

bool eg_audio_encode(eg_audio *enc, eg_audio_work *work, eg_turn *turn, const float *frames, int64_t n_frames, float *out)
{
    const eg_audio_weights *w = enc->weights;
    const int64_t n = (n_frames + EG_AUDIO_FRAMES - 1) / EG_AUDIO_FRAMES;
    encoder_call call = {.enc = enc, .work = work, .n = n};
    if (w->config.unified) {
        take_samples(work, frames, n_frames, n);
    } else {
        if (!run_layers(&call, enc, turn, frames, n_frames)) return false;
        eg_multiply_one(&work->matmul, &w->output, work->x, n, work->wide);
    }
    for_tokens(&call, output_task);
    eg_multiply_one(&work->matmul, &w->projection, work->wide, n, out);
    enc->position += n;
    return true;
}
