/* The vision encoder, in the order of the model:
 *   patches and their positions; for each layer: attention, feed-forward; then pooling and the projection
 *
 * All patches of a picture go through a layer before the next one, so that its weights are read once. Within a layer, patches are
 * taken in blocks: first all keys and values are made and packed; then each block makes its queries and passes through the rest.
 */
#include "encoder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../base/arena.h"
#include "../base/map.h"
#include "../base/numbers.h"

enum { BLOCK = 512, QUERIES = 64 };   /* patches of a block, a multiple of EG_SEEN_KEYS; queries of a piece of work */

static const float EPS = 1e-6f, LAYER_NORM_EPS = 1e-5f, ROPE_THETA = 100;

typedef struct encoding {
    const eg_vision_weights *weights;
    eg_matmul matmul;
    const uint8_t *rgb;
    int64_t columns, rows, n;  /* patches along the sides, and in all */
    float *x;                  /* [n, w] */
    uint8_t *packed;           /* [heads] keys and values of one layer */
    size_t packed_bytes;       /* of a head */
    float *h, *t, *q;          /* [BLOCK, w] */
    float *wide;               /* [2, BLOCK, largest of F, w, pixels of a patch] */
    int64_t widest;
    float *turns;              /* [larger side, head_dim / 4, 2]: cosine and sine of a position's angles */
    void *memory;
    /* of the task that runs: */
    const eg_vision_layer *w;
    int64_t first, count;      /* the block */
    const float *norm, *bounds;
    float *out;
} encoding;

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static float *floats(eg_arena *arena, int64_t rows, int64_t cols)
{
    return eg_arena_take(arena, (size_t)rows, (size_t)cols * sizeof(float));
}

static void layout(encoding *e, eg_arena *arena)
{
    const eg_vision_config *c = &e->weights->config;
    const int64_t w = c->width;
    e->widest = eg_larger(eg_larger(c->ffn, w), e->weights->patch.cols);
    e->x = floats(arena, e->n, w);
    e->h = floats(arena, BLOCK, w);
    e->t = floats(arena, BLOCK, w);
    e->q = floats(arena, BLOCK, w);
    e->wide = floats(arena, 2 * BLOCK, e->widest);
    size_t scratch = (size_t)w * sizeof(float);
    if (c->layers) {
        e->packed_bytes = eg_bidirectional_bytes(c->head_dim, e->n);
        e->packed = eg_arena_take(arena, (size_t)c->heads, e->packed_bytes);
        e->turns = floats(arena, eg_larger(e->columns, e->rows), c->head_dim / 2);
        if (scratch < eg_bidirectional_scratch_bytes(c->head_dim)) scratch = eg_bidirectional_scratch_bytes(c->head_dim);
    }
    eg_matmul_layout(&e->matmul, BLOCK * e->widest, e->widest, scratch, arena);
}

static bool open_memory(encoding *e)
{
    eg_arena arena = {NULL, 0};
    layout(e, &arena);
    arena = eg_arena_open(arena.used, &e->memory);
    if (arena.base) layout(e, &arena);
    return arena.base;
}

/* ---- operations that the stages share ----------------------------------------------------------------------------- */

static void for_rows(encoding *e, eg_task *task) { eg_pool_run(e->matmul.pool, task, e, e->count, 1); }

static float *row_of_x(const encoding *e, int64_t i) { return e->x + (e->first + i) * e->weights->config.width; }

/* h = rms(x; norm) */
static void norm_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoding *e = context;
    const int64_t w = e->weights->config.width;
    (void)worker;
    for (int64_t i = begin; i < end; i++) e->matmul.kernels->rms_norm(e->h + i * w, row_of_x(e, i), e->norm, w, EPS);
}

/* x += rms(t; norm) */
static void add_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoding *e = context;
    const int64_t w = e->weights->config.width;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        float *x = row_of_x(e, i), *t = e->t + i * w;
        e->matmul.kernels->rms_norm(t, t, e->norm, w, EPS);
        for (int64_t j = 0; j < w; j++) x[j] += t[j];
    }
}

static void with_norm(encoding *e, const float *norm, eg_task *task)
{
    e->norm = norm;
    for_rows(e, task);
}

/* t = clamp(h) */
static void clamp_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoding *e = context;
    const int64_t w = e->weights->config.width;
    (void)worker;
    memcpy(e->t + begin * w, e->h + begin * w, (size_t)((end - begin) * w) * sizeof *e->t);
    eg_clamp(e->t + begin * w, (end - begin) * w, e->bounds);
}

/* Products of h with one or two matrices; each clamps its input, and matrices that clamp alike are multiplied in one call. */
static void project(encoding *e, const eg_clipped *const matrices[], float *const out[], int64_t n)
{
    const int64_t width = e->weights->config.width;
    eg_product products[2];
    for (int64_t i = 0; i < n; i++)
        products[i] = (eg_product){matrices[i]->w, 0, e->count, out[i], matrices[i]->w.rows, matrices[i]->out, 0};
    const int64_t together = n == 2 && eg_clipped_alike(matrices[0], matrices[1]) ? 2 : 1;
    for (int64_t i = 0; i < n; i += together) {
        e->bounds = matrices[i]->in;
        for_rows(e, clamp_task);
        eg_multiply(&e->matmul, e->t, width, e->count, products + i, together);
    }
}

/* y = clamp(W x); x is clamped already */
static void multiply(encoding *e, const eg_clipped *w, const float *x, float *y)
{
    eg_product product = {w->w, 0, e->count, y, w->w.rows, w->out, 0};
    eg_multiply(&e->matmul, x, w->w.cols, e->count, &product, 1);
}

/* ---- patches ------------------------------------------------------------------------------------------------------ */

/* The pixels of a patch as channel planes: v / 255, or 2 v / 255 - 1 for the transformers. */
static void read_patch(const encoding *e, int64_t number, float *out)
{
    const eg_vision_config *c = &e->weights->config;
    const int64_t P = c->patch, stride = 3 * e->columns * P;
    const uint8_t *corner = e->rgb + number / e->columns * P * stride + number % e->columns * P * 3;
    for (int64_t channel = 0; channel < 3; channel++)
        for (int64_t y = 0; y < P; y++)
            for (int64_t x = 0; x < P; x++) {
                const float value = (float)corner[y * stride + x * 3 + channel] / 255;
                *out++ = c->unified ? value : 2 * value - 1;
            }
}

/* x = (x - mean) / sqrt(variance + eps) * weight + bias */
static void layer_norm(float *x, int64_t n, const float *weight, const float *bias)
{
    double mean = 0, square = 0;
    for (int64_t i = 0; i < n; i++) mean += (double)x[i];
    mean /= (double)n;
    for (int64_t i = 0; i < n; i++) square += ((double)x[i] - mean) * ((double)x[i] - mean);
    const double factor = 1 / sqrt(square / (double)n + (double)LAYER_NORM_EPS);
    for (int64_t i = 0; i < n; i++) x[i] = (float)(((double)x[i] - mean) * factor) * weight[i] + bias[i];
}

static void patch_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    const encoding *e = context;
    const eg_vision_weights *w = e->weights;
    const int64_t cols = w->patch.cols;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        read_patch(e, e->first + i, e->wide + i * cols);
        if (w->config.unified) layer_norm(e->wide + i * cols, cols, w->norm[0], w->norm_bias[0]);
    }
}

/* x += positions, with the norms of the unified kind before and behind. */
static void position_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoding *e = context;
    const eg_vision_weights *w = e->weights;
    const int64_t width = w->config.width;
    float *row = eg_matmul_scratch(&e->matmul, worker);
    for (int64_t i = begin; i < end; i++) {
        float *x = row_of_x(e, i);
        const int64_t at[2] = {(e->first + i) % e->columns, (e->first + i) / e->columns};
        if (w->config.unified) {
            for (int64_t j = 0; j < width; j++) x[j] += w->patch_bias[j];
            layer_norm(x, width, w->norm[1], w->norm_bias[1]);
        }
        for (int axis = 0; axis < 2; axis++) {
            eg_matrix_row(&w->position[axis], at[axis], 0, width, row);
            for (int64_t j = 0; j < width; j++) x[j] += row[j];
        }
        if (w->config.unified) layer_norm(x, width, w->norm[2], w->norm_bias[2]);
    }
}

static void embed(encoding *e)
{
    for_rows(e, patch_task);
    eg_product product = {.w = e->weights->patch, .n = e->count, .y = row_of_x(e, 0), .ldy = e->weights->config.width};
    eg_multiply(&e->matmul, e->wide, e->weights->patch.cols, e->count, &product, 1);
    for_rows(e, position_task);
}

/* ---- attention ---------------------------------------------------------------------------------------------------- */

/* A quarter of the head's values turns by the angles of one side: the first half by the column, the second by the row, each in
 * pairs (i, i + half / 2). Angle i of position p: p * 100^(-2i / half). */
static void fill_turns(encoding *e)
{
    const int64_t pairs = e->weights->config.head_dim / 4, sides = eg_larger(e->columns, e->rows);
    for (int64_t p = 0; p < sides; p++)
        for (int64_t i = 0; i < pairs; i++) {
            const double angle = (double)p * pow((double)ROPE_THETA, -(double)i / (double)pairs);
            e->turns[(p * pairs + i) * 2] = (float)cos(angle);
            e->turns[(p * pairs + i) * 2 + 1] = (float)sin(angle);
        }
}

static void rotate(const encoding *e, int64_t number, float *head)
{
    const int64_t pairs = e->weights->config.head_dim / 4, at[2] = {number % e->columns, number / e->columns};
    for (int axis = 0; axis < 2; axis++, head += 2 * pairs) {
        const float *turn = e->turns + at[axis] * pairs * 2;
        for (int64_t i = 0; i < pairs; i++) {
            const float a = head[i], b = head[pairs + i], c = turn[2 * i], s = turn[2 * i + 1];
            head[i] = a * c - b * s;
            head[pairs + i] = b * c + a * s;
        }
    }
}

/* Queries or keys of a row: rope(rms(head; norm)) for each head. */
static void finish_heads(const encoding *e, int64_t i, const float *norm, float *row)
{
    const eg_vision_config *c = &e->weights->config;
    for (int64_t h = 0; h < c->heads; h++, row += c->head_dim) {
        e->matmul.kernels->rms_norm(row, row, norm, c->head_dim, EPS);
        rotate(e, e->first + i, row);
    }
}

static void query_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoding *e = context;
    (void)worker;
    for (int64_t i = begin; i < end; i++) finish_heads(e, i, e->w->q_norm, e->q + i * e->weights->config.width);
}

/* Unit of work: EG_SEEN_KEYS patches of a block. Their keys are in q, their values in wide; all heads are packed. */
static void pack_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoding *e = context;
    const eg_vision_config *c = &e->weights->config;
    const int64_t w = c->width, D = c->head_dim;
    (void)worker;
    for (int64_t unit = begin; unit < end; unit++) {
        const int64_t first = unit * EG_SEEN_KEYS, last = eg_smaller(first + EG_SEEN_KEYS, e->count);
        for (int64_t i = first; i < last; i++) {
            finish_heads(e, i, e->w->k_norm, e->q + i * w);
            for (int64_t h = 0; h < c->heads; h++) {
                float *v = e->wide + i * w + h * D;
                e->matmul.kernels->rms_norm(v, v, NULL, D, EPS);
            }
        }
        const int64_t block = (e->first + first) / EG_SEEN_KEYS;
        for (int64_t h = 0; h < c->heads; h++)
            e->matmul.kernels->bidirectional_pack(e->packed + (size_t)h * e->packed_bytes, e->q + first * w + h * D, w,
                                                  e->wide + first * w + h * D, w, e->n, block, block + 1, D);
    }
}

/* Unit of work: QUERIES patches of one head. Neighbours are of one head, whose keys they share. */
static void attention_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoding *e = context;
    const eg_vision_config *c = &e->weights->config;
    const int64_t w = c->width, D = c->head_dim, groups = (e->count + QUERIES - 1) / QUERIES;
    for (int64_t unit = begin; unit < end; unit++) {
        const int64_t h = unit / groups, first = unit % groups * QUERIES, n = eg_smaller(QUERIES, e->count - first);
        float *q = e->q + first * w + h * D, *o = e->t + first * w + h * D;
        e->matmul.kernels->bidirectional(o, w, q, w, n, e->packed + (size_t)h * e->packed_bytes, e->n, D,
                                         eg_matmul_scratch(&e->matmul, worker));
        for (int64_t i = 0; i < n; i++) eg_clamp(o + i * w, D, e->w->out.in);
    }
}

/* The keys and values of a block. */
static void remember(encoding *e)
{
    with_norm(e, e->w->attention_norm, norm_task);
    project(e, (const eg_clipped *const[]){&e->w->k, &e->w->v}, (float *const[]){e->q, e->wide}, 2);
    eg_pool_run(e->matmul.pool, pack_task, e, (e->count + EG_SEEN_KEYS - 1) / EG_SEEN_KEYS, 1);
}

/* x += rms(out(attention(q, all keys)); attn_post_norm) */
static void attend(encoding *e)
{
    with_norm(e, e->w->attention_norm, norm_task);
    project(e, (const eg_clipped *const[]){&e->w->q}, (float *const[]){e->q}, 1);
    for_rows(e, query_task);
    eg_pool_run(e->matmul.pool, attention_task, e, (e->count + QUERIES - 1) / QUERIES * e->weights->config.heads, 1);
    multiply(e, &e->w->out, e->t, e->h);
    float *product = e->h;     /* add_task reads t */
    e->h = e->t;
    e->t = product;
    with_norm(e, e->w->post_attention, add_task);
}

/* ---- feed-forward ------------------------------------------------------------------------------------------------- */

static void gelu_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoding *e = context;
    const int64_t F = e->weights->config.ffn;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        float *gate = e->wide + i * F;
        e->matmul.kernels->gelu_mul(gate, gate, e->wide + BLOCK * e->widest + i * F, F);
        eg_clamp(gate, F, e->w->down.in);
    }
}

/* x += rms(down(gelu(gate(h)) * up(h)); ffn_post_norm), h = rms(x; ln2) */
static void feed_forward(encoding *e)
{
    with_norm(e, e->w->ffn_norm, norm_task);
    project(e, (const eg_clipped *const[]){&e->w->gate, &e->w->up}, (float *const[]){e->wide, e->wide + BLOCK * e->widest}, 2);
    for_rows(e, gelu_task);
    multiply(e, &e->w->down, e->wide, e->t);
    with_norm(e, e->w->post_ffn, add_task);
}

/* ---- the whole encoder -------------------------------------------------------------------------------------------- */

/* Soft tokens [first, first + count): h = rms(standardized(sqrt(w) * mean of the cell's patches)) */
static void pool_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    encoding *e = context;
    const eg_vision_weights *weights = e->weights;
    const int64_t w = weights->config.width, P = weights->config.pool, columns = e->columns / P;
    const float factor = weights->config.unified ? 1 : sqrtf((float)w) / (float)(P * P);
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        const int64_t row = (e->first + i) / columns * P, column = (e->first + i) % columns * P;
        float *h = e->h + i * w;
        memset(h, 0, (size_t)w * sizeof *h);
        for (int64_t y = row; y < row + P; y++)
            for (int64_t x = column; x < column + P; x++)
                for (int64_t j = 0; j < w; j++) h[j] += e->x[(y * e->columns + x) * w + j];
        for (int64_t j = 0; j < w; j++) h[j] *= factor;
        for (int64_t j = 0; weights->std_scale && j < w; j++) h[j] = (h[j] - weights->std_bias[j]) * weights->std_scale[j];
        e->matmul.kernels->rms_norm(h, h, NULL, w, EPS);
    }
}

static void output(encoding *e)
{
    const int64_t hidden = e->weights->config.hidden;
    for_rows(e, pool_task);
    eg_multiply_one(&e->matmul, &e->weights->projection, e->h, e->count, e->out + e->first * hidden);
}

static void release_pages(const eg_vision_layer *w)
{
    const eg_clipped *const all[] = {&w->q, &w->k, &w->v, &w->out, &w->gate, &w->up, &w->down};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        eg_map_advise(all[i]->w.data, (uint64_t)all[i]->w.rows * all[i]->w.row_bytes, EG_ADVICE_DONTNEED);
}

/* Calls `stage` for all blocks of n rows; false if the work was stopped. `done` counts reports, unless there is none to make. */
static bool for_blocks(encoding *e, eg_turn *turn, int64_t n, void (*stage)(encoding *e), const eg_progress *progress,
                       uint32_t *done, uint32_t total)
{
    for (e->first = 0; e->first < n; e->first += BLOCK) {
        if (!eg_pool_go_on(e->matmul.pool, turn)) return false;
        e->count = eg_smaller(BLOCK, n - e->first);
        stage(e);
        if (done && progress->report) progress->report(progress->context, ++*done, total);
    }
    return true;
}

static void attend_and_feed(encoding *e)
{
    attend(e);
    feed_forward(e);
}

static bool run(encoding *e, eg_turn *turn, const eg_progress *progress)
{
    const eg_vision_config *c = &e->weights->config;
    const int64_t blocks = (e->n + BLOCK - 1) / BLOCK;
    const uint32_t total = (uint32_t)(blocks * c->layers);
    uint32_t done = 0;
    if (!for_blocks(e, turn, e->n, embed, NULL, NULL, 0)) return false;
    if (c->layers) fill_turns(e);
    for (int32_t l = 0; l < c->layers; l++) {
        e->w = &e->weights->layer[l];
        if (!for_blocks(e, turn, e->n, remember, NULL, NULL, 0)) return false;
        if (!for_blocks(e, turn, e->n, attend_and_feed, progress, &done, total)) return false;
        release_pages(e->w);
    }
    return for_blocks(e, turn, e->n / (c->pool * c->pool), output, NULL, NULL, 0);
}

eg_status eg_vision_encode(const eg_vision_weights *weights, eg_pool *pool, eg_turn *turn, const uint8_t *rgb, int64_t width,
                           int64_t height, const eg_progress *progress, float *out, eg_error *err)
{
    const int64_t patch = weights->config.patch;
    encoding e = {.weights = weights,
                  .matmul = {.kernels = eg_kernels_get(), .pool = pool},
                  .rgb = rgb,
                  .columns = width / patch,
                  .rows = height / patch,
                  .n = width / patch * (height / patch),
                  .out = out};
    e.matmul.two_term = e.matmul.rounds_floats = true;
    if (!open_memory(&e)) {
        eg_arena_close(e.memory);
        return eg_fail(err, EG_ERROR_MEMORY, "no memory to encode a picture of %lld patches.", (long long)e.n);
    }
    const bool complete = run(&e, turn, progress);
    eg_arena_close(e.memory);
    return complete ? EG_OK : eg_fail(err, EG_CANCELLED, "cancelled.");
}
