/* The audio encoder, in the order of the model:
 *   two strided convolutions and a projection; for each layer: feed-forward, attention, light convolution, feed-forward, norm;
 *   then the output projections
 */
#include "encoder.h"

#include <math.h>
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
    int64_t w = c->width, history = enc->context - 1;
    enc->state = eg_arena_take(arena, (size_t)c->layers, sizeof *enc->state);
    for (int32_t l = 0; l < c->layers; l++) {
        eg_audio_state s = {floats(arena, history + EG_AUDIO_BLOCK, w), floats(arena, history + EG_AUDIO_BLOCK, w),
                            floats(arena, EG_AUDIO_KERNEL - 1 + EG_AUDIO_BLOCK, w)};
        if (enc->state) enc->state[l] = s;
    }
    enc->frames = floats(arena, 1 + EG_AUDIO_BLOCK * EG_AUDIO_FRAMES, c->features);
    enc->rows = floats(arena, 1 + EG_AUDIO_BLOCK * 2, row_width(c));

    int64_t wide = eg_larger(eg_larger(c->ffn, 2 * w), eg_larger((int64_t)c->rows[1] * c->channels[1], c->output));
    enc->x = floats(arena, EG_AUDIO_BLOCK, w);
    enc->h = floats(arena, EG_AUDIO_BLOCK, w);
    enc->t = floats(arena, EG_AUDIO_BLOCK, w);
    enc->q = floats(arena, EG_AUDIO_BLOCK, w);
    enc->wide = floats(arena, EG_AUDIO_BLOCK, wide);
    int64_t patches = eg_larger(c->rows[0] * enc->weights->conv[0].cols, c->rows[1] * enc->weights->conv[1].cols);
    int64_t scratch = eg_larger(patches, QUERIES * (QUERIES + 2 * EG_AUDIO_REACH));
    eg_matmul_layout(&enc->matmul, EG_AUDIO_BLOCK * wide, wide, (size_t)scratch * sizeof(float), arena);
}

void eg_audio_reset(eg_audio *enc)
{
    const eg_audio_config *c = &enc->weights->config;
    enc->position = 0;
    memset(enc->frames, 0, (size_t)c->features * sizeof *enc->frames);
    memset(enc->rows, 0, (size_t)row_width(c) * sizeof *enc->rows);
    for (int32_t l = 0; l < c->layers; l++)
        memset(enc->state[l].g, 0, (EG_AUDIO_KERNEL - 1) * (size_t)c->width * sizeof(float));
}

/* out[l, delta] = W_rel S(delta), S(delta) = sin(delta c_j) for the first half and cos(delta c_j) for the second */
void eg_audio_relative(eg_audio *enc, float *out)
{
    const eg_audio_config *c = &enc->weights->config;
    int64_t half = c->width / 2;
    for (int64_t delta = 0; delta < EG_AUDIO_REACH; delta++)
        for (int64_t j = 0; j < half; j++) {
            double angle = (double)delta * exp(-(double)j * log(10000) / (double)(half - 1));
            enc->x[delta * c->width + j] = (float)sin(angle);
            enc->x[delta * c->width + half + j] = (float)cos(angle);
        }
    for (int32_t l = 0; l < c->layers; l++)
        eg_multiply_one(&enc->matmul, &enc->weights->layer[l].k_rel, enc->x, EG_AUDIO_REACH,
                        out + (int64_t)l * EG_AUDIO_REACH * c->width);
}

void eg_audio_copy(eg_audio *to, const eg_audio *from)
{
    const eg_audio_config *c = &from->weights->config;
    size_t w = (size_t)c->width * sizeof(float), history = (size_t)from->context - 1;
    to->position = from->position;
    memcpy(to->frames, from->frames, (size_t)c->features * sizeof *to->frames);
    memcpy(to->rows, from->rows, (size_t)row_width(c) * sizeof *to->rows);
    for (int32_t l = 0; l < c->layers; l++) {
        memcpy(to->state[l].k, from->state[l].k, history * w);
        memcpy(to->state[l].v, from->state[l].v, history * w);
        memcpy(to->state[l].g, from->state[l].g, (EG_AUDIO_KERNEL - 1) * w);
    }
}

/* ---- operations that the stages share ----------------------------------------------------------------------------- */

typedef struct encoder_call {
    eg_audio *enc;
    const eg_audio_layer *w;
    const eg_audio_state *s;
    const float *relative;     /* [REACH, w] of the layer */
    int64_t n;                 /* tokens */
    const float *norm;         /* of the next norm_task or add_task */
    const float *bounds;
    float scale;
} encoder_call;

static void for_tokens(encoder_call *call, eg_task *task) { eg_pool_run(call->enc->matmul.pool, task, call, call->n, 1); }

static void clamp(float *x, int64_t n, const float bounds[2])
{
    float low = bounds[0], high = bounds[1];
    for (int64_t i = 0; i < n; i++) x[i] = x[i] < low ? low : x[i] > high ? high : x[i];
}

/* h = clamp(rms(x; norm)) */
static void norm_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoder_call *call = context;
    int64_t w = call->enc->weights->config.width;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        call->enc->matmul.kernels->rms_norm(call->enc->h + t * w, call->enc->x + t * w, call->norm, w, EPS);
        clamp(call->enc->h + t * w, w, call->bounds);
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
    int64_t w = call->enc->weights->config.width;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        float *x = call->enc->x + i * w, *t = call->enc->t + i * w;
        if (call->norm) call->enc->matmul.kernels->rms_norm(t, t, call->norm, w, EPS);
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
    eg_multiply(&call->enc->matmul, x, w->w.cols, call->n, &product, 1);
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
static void convolve(const eg_audio *enc, int i, const float *in, int64_t height, int64_t inputs, float *out, float *patches)
{
    const eg_matrix *w = &enc->weights->conv[i];
    int64_t positions = enc->weights->config.rows[i];
    size_t run = (size_t)inputs * sizeof *in;
    memset(patches, 0, (size_t)(positions * w->cols) * sizeof *patches);
    for (int64_t k = 0; k < positions; k++)
        for (int64_t place = 0; place < 9; place++) {
            int64_t row = 2 * k - 1 + place % 3;
            if (row >= 0 && row < height)
                memcpy(patches + k * w->cols + place * inputs, in + (place / 3 * height + row) * inputs, run);
        }
    enc->matmul.kernels->matmul_float(out, w->rows, patches, w->cols, positions, w, 0, w->rows, NULL);
    layer_norm_relu(out, positions, w->rows, enc->weights->conv_norm[i]);
}

typedef struct subsample_call {
    eg_audio *enc;
    int64_t frames;
} subsample_call;

/* Rows [begin, end) of the first convolution: row s is centred on frame 2s; beyond the last frame rows are zero. */
static void first_convolution_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    subsample_call *call = context;
    const eg_audio_config *c = &call->enc->weights->config;
    int64_t width = row_width(c);
    float *patches = eg_matmul_scratch(&call->enc->matmul, worker);
    for (int64_t s = begin; s < end; s++) {
        float *out = call->enc->rows + (1 + s) * width;
        if (2 * s < call->frames) convolve(call->enc, 0, call->enc->frames + 2 * s * c->features, c->features, 1, out, patches);
        else memset(out, 0, (size_t)width * sizeof *out);
    }
}

static void second_convolution_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    subsample_call *call = context;
    const eg_audio_config *c = &call->enc->weights->config;
    float *patches = eg_matmul_scratch(&call->enc->matmul, worker);
    for (int64_t t = begin; t < end; t++)
        convolve(call->enc, 1, call->enc->rows + 2 * t * row_width(c), c->rows[0], c->channels[0],
                 call->enc->wide + t * c->rows[1] * c->channels[1], patches);
}

/* x[n] from n_frames frames; `frames` begins with the last frame of the previous block. */
static void subsample(eg_audio *enc, int64_t n_frames, int64_t n)
{
    subsample_call call = {enc, n_frames};
    eg_pool_run(enc->matmul.pool, first_convolution_task, &call, 2 * n, 1);
    eg_pool_run(enc->matmul.pool, second_convolution_task, &call, n, 1);
    eg_multiply_one(&enc->matmul, &enc->weights->input, enc->wide, n, enc->x);
}

/* ---- feed-forward ------------------------------------------------------------------------------------------------- */

static void silu_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoder_call *call = context;
    int64_t ffn = call->enc->weights->config.ffn;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        float *y = call->enc->wide + t * ffn;
        call->enc->matmul.kernels->sigmoid_mul(y, y, y, ffn);
        clamp(y, ffn, call->bounds);
    }
}

/* x += rms(down(silu(up(rms(x; pre)))); post) / 2 */
static void feed_forward(encoder_call *call, const eg_audio_ffw *w)
{
    norm(call, w->pre, w->up.in);
    multiply(call, &w->up, call->enc->h, call->enc->wide);
    call->bounds = w->down.in;
    for_tokens(call, silu_task);
    multiply(call, &w->down, call->enc->wide, call->enc->t);
    add(call, w->post, 0.5f);
}

/* ---- attention ---------------------------------------------------------------------------------------------------- */

static void clamp_copy_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoder_call *call = context;
    int64_t w = call->enc->weights->config.width;
    (void)worker;
    memcpy(call->enc->t + begin * w, call->enc->h + begin * w, (size_t)((end - begin) * w) * sizeof(float));
    clamp(call->enc->t + begin * w, (end - begin) * w, call->bounds);
}

/* q, k and v of h. Each matrix clamps its input; if all three clamp alike, they are multiplied in one call. */
static void project(encoder_call *call, const eg_clipped *const matrices[3], float *const out[3])
{
    const eg_audio *enc = call->enc;
    eg_product products[3];
    bool alike = true;
    for (int i = 0; i < 3; i++) {
        products[i] = (eg_product){matrices[i]->w, 0, call->n, out[i], matrices[i]->w.rows, matrices[i]->out, 0};
        alike &= matrices[i]->in[0] == matrices[0]->in[0] && matrices[i]->in[1] == matrices[0]->in[1];
    }
    for (int i = 0; i < 3; i += alike ? 3 : 1) {
        call->bounds = matrices[i]->in;
        for_tokens(call, clamp_copy_task);
        eg_multiply(&call->enc->matmul, enc->t, enc->weights->config.width, call->n, products + i, alike ? 3 : 1);
    }
}

/* q *= head_dim^-1/2 / ln 2 * per_dim_scale, k *= ln(1 + e) / ln 2 */
static void scale_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoder_call *call = context;
    const eg_audio_config *c = &call->enc->weights->config;
    int64_t w = c->width, history = call->enc->context - 1;
    float factor = 1 / (sqrtf((float)c->head_dim) * LN2);
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        float *q = call->enc->q + t * w, *k = call->s->k + (history + t) * w;
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
    const eg_audio_config *c = &call->enc->weights->config;
    float z[EG_AUDIO_REACH];
    for (int64_t d = 0; d < deltas; d++) z[d] = content[-d] + relative[d];
    call->enc->matmul.kernels->softcap(z, deltas, 50);
    float top = z[0], sum = 0;
    for (int64_t d = 1; d < deltas; d++) top = z[d] > top ? z[d] : top;
    for (int64_t d = 0; d < deltas; d++) sum += z[d] = (float)exp((double)z[d] - top);
    memset(o, 0, (size_t)c->head_dim * sizeof *o);
    for (int64_t d = 0; d < deltas; d++) {
        float weight = z[d] / sum;
        for (int32_t i = 0; i < c->head_dim; i++) o[i] += weight * v[i - d * c->width];
    }
    clamp(o, c->head_dim, call->w->out.in);
}

/* Unit of work: QUERIES tokens of one head. */
static void attention_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoder_call *call = context;
    const eg_audio_config *c = &call->enc->weights->config;
    const eg_kernels *kernels = call->enc->matmul.kernels;
    int64_t w = c->width, D = c->head_dim, history = call->enc->context - 1;
    float *content = eg_matmul_scratch(&call->enc->matmul, worker);     /* [QUERIES, keys] */
    float *relative = content + QUERIES * (QUERIES + EG_AUDIO_REACH);      /* [QUERIES, context] */
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t first = unit / c->heads * QUERIES, offset = unit % c->heads * D;
        int64_t n = call->n - first < QUERIES ? call->n - first : QUERIES, keys = n + history;
        const float *q = call->enc->q + first * w + offset;
        eg_matrix k = {.data = (const uint8_t *)(call->s->k + first * w + offset),
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
                   call->s->v + (first + t + history) * w + offset, call->enc->h + (first + t) * w + offset);
        }
    }
}

static void attention(encoder_call *call)
{
    eg_audio *enc = call->enc;
    const eg_audio_layer *w = call->w;
    static const float unbounded[2] = {-INFINITY, INFINITY};
    int64_t at = (enc->context - 1) * (int64_t)enc->weights->config.width;
    norm(call, w->pre_attention, unbounded);
    project(call, (const eg_clipped *const[]){&w->q, &w->k, &w->v}, (float *const[]){enc->q, call->s->k + at, call->s->v + at});
    for_tokens(call, scale_task);
    eg_pool_run(enc->matmul.pool, attention_task, call, (call->n + QUERIES - 1) / QUERIES * enc->weights->config.heads, 1);
    multiply(call, &w->out, enc->h, enc->t);
    add(call, w->post_attention, 1);
}

/* ---- light convolution -------------------------------------------------------------------------------------------- */

/* g = y[: w] * sigmoid(y[w :]) */
static void gate_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoder_call *call = context;
    int64_t w = call->enc->weights->config.width;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        const float *y = call->enc->wide + t * 2 * w;
        call->enc->matmul.kernels->sigmoid_mul(call->s->g + (EG_AUDIO_KERNEL - 1 + t) * w, y + w, y, w);
    }
}

/* h = silu(rms(sum over i of w[i] g[t - 4 + i]; norm_conv)) */
static void depthwise_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoder_call *call = context;
    int64_t w = call->enc->weights->config.width;
    const eg_kernels *kernels = call->enc->matmul.kernels;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        float *z = call->enc->h + t * w;
        const float *g = call->s->g + t * w, *weight = call->w->conv_dw;
        for (int64_t c = 0; c < w; c++, g++, weight += EG_AUDIO_KERNEL) {
            float sum = 0;
            for (int64_t i = 0; i < EG_AUDIO_KERNEL; i++) sum += weight[i] * g[i * w];
            z[c] = sum;
        }
        kernels->rms_norm(z, z, call->w->post_conv, w, EPS);
        kernels->sigmoid_mul(z, z, z, w);
        clamp(z, w, call->w->pw2.in);
    }
}

static void light_convolution(encoder_call *call)
{
    norm(call, call->w->pre_conv, call->w->pw1.in);
    multiply(call, &call->w->pw1, call->enc->h, call->enc->wide);
    for_tokens(call, gate_task);
    for_tokens(call, depthwise_task);
    multiply(call, &call->w->pw2, call->enc->h, call->enc->t);
    add(call, NULL, 1);
}

/* ---- the whole encoder -------------------------------------------------------------------------------------------- */

/* x = rms(x; ln2) */
static void last_norm_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoder_call *call = context;
    int64_t w = call->enc->weights->config.width;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        call->enc->matmul.kernels->rms_norm(call->enc->x + t * w, call->enc->x + t * w, call->w->out_norm, w, EPS);
}

/* y = rms(y + bias) */
static void output_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoder_call *call = context;
    const eg_audio_weights *w = call->enc->weights;
    int64_t n = w->config.output;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        float *y = call->enc->wide + t * n;
        for (int64_t i = 0; i < n; i++) y[i] += w->output_bias[i];
        call->enc->matmul.kernels->rms_norm(y, y, NULL, n, EPS);
    }
}

/* Moves the state that the next block needs to the front of the buffers. */
static void keep(eg_audio *enc, int64_t n_frames, int64_t n)
{
    const eg_audio_config *c = &enc->weights->config;
    size_t w = (size_t)c->width, history = (size_t)enc->context - 1, width = (size_t)row_width(c), at = (size_t)n;
    memcpy(enc->frames, enc->frames + n_frames * c->features, (size_t)c->features * sizeof *enc->frames);
    memcpy(enc->rows, enc->rows + 2 * at * width, width * sizeof *enc->rows);
    for (int32_t l = 0; l < c->layers; l++) {
        eg_audio_state *s = &enc->state[l];
        memmove(s->k, s->k + at * w, history * w * sizeof *s->k);
        memmove(s->v, s->v + at * w, history * w * sizeof *s->v);
        memmove(s->g, s->g + at * w, (EG_AUDIO_KERNEL - 1) * w * sizeof *s->g);
    }
    enc->position += n;
}

bool eg_audio_encode(eg_audio *enc, const float *frames, int64_t n_frames, float *out)
{
    const eg_audio_weights *w = enc->weights;
    const eg_audio_config *c = &w->config;
    int64_t n = (n_frames + EG_AUDIO_FRAMES - 1) / EG_AUDIO_FRAMES, missing = n * EG_AUDIO_FRAMES - n_frames;
    encoder_call call = {.enc = enc, .n = n};
    memcpy(enc->frames + c->features, frames, (size_t)(n_frames * c->features) * sizeof *frames);
    memset(enc->frames + (1 + n_frames) * c->features, 0, (size_t)(missing * c->features) * sizeof *frames);
    subsample(enc, n_frames, n);
    for (int32_t l = 0; l < c->layers; l++) {
        if (enc->turn && !eg_pool_go_on(enc->matmul.pool, enc->turn)) return false;
        call.w = &w->layer[l];
        call.s = &enc->state[l];
        call.relative = enc->relative + (int64_t)l * EG_AUDIO_REACH * c->width;
        feed_forward(&call, &call.w->ffw[0]);
        attention(&call);
        light_convolution(&call);
        feed_forward(&call, &call.w->ffw[1]);
        for_tokens(&call, last_norm_task);
    }
    eg_multiply_one(&enc->matmul, &w->output, enc->x, n, enc->wide);
    for_tokens(&call, output_task);
    eg_multiply_one(&enc->matmul, &w->projection, enc->wide, n, out);
    keep(enc, n_frames, n);
    return true;
}
