/* Quantizes the input of matrix products and spreads the rows of the matrices over the threads of a pool. */
#include "multiply.h"

#include "clipped.h"

enum { TILES = 4 };            /* a thread claims at least this many tiles of EG_ROW_TILE rows at a time */

eg_matrix eg_matrix_slice(const eg_matrix *w, int64_t first, int64_t rows)
{
    eg_matrix slice = *w;
    slice.data += (size_t)first * w->row_bytes;
    slice.rows = rows;
    if (w->scale) slice.scale += first * w->scales;
    return slice;
}

void eg_matrix_row(const eg_matrix *w, int64_t row, int64_t col, int64_t n, float *out)
{
    const uint8_t *blocks = w->data + (size_t)row * w->row_bytes + (size_t)(col / w->type->block) * w->type->bytes;
    eg_matrix_decode(w, row, col, n, blocks, out);
}

void eg_matrix_decode(const eg_matrix *w, int64_t row, int64_t col, int64_t n, const void *blocks, float *out)
{
    eg_type_to_float(w->type, blocks, n, out);
    if (!w->scale) return;
    const float *scale = w->scale + row * w->scales;
    int64_t width = w->cols / w->scales;
    for (int64_t i = 0; i < n; i++) out[i] *= scale[(col + i) / width];
}

/* i8 shares the memory of q8. A row of q8 has a sum for every 16 values, a row of i8 has one sum, and a row has at least 32
 * values. */
_Static_assert(32 / 16 * sizeof *((eg_q8 *)0)->sum >= sizeof *((eg_i8 *)0)->sum, "the sums of i8 do not fit into those of q8");

static size_t aligned(size_t bytes) { return (bytes + EG_ARENA_ALIGNMENT - 1) / EG_ARENA_ALIGNMENT * EG_ARENA_ALIGNMENT; }

void eg_matmul_layout(eg_matmul *m, int64_t values, int64_t widest, size_t scratch_bytes, eg_arena *arena)
{
    size_t count = 2 * (size_t)values;   /* of two terms */
    size_t bytes = eg_matmul_scratch_bytes(widest);
    if (bytes < scratch_bytes) bytes = scratch_bytes;
    m->q8.q = eg_arena_take(arena, 1, count);
    m->q8.d = eg_arena_take(arena, (size_t)values / 32 + 1, sizeof *m->q8.d);
    m->q8.sum = eg_arena_take(arena, count / 16 + 1, sizeof *m->q8.sum);
    m->i8 = (eg_i8){m->q8.q, m->q8.d, (int32_t *)(void *)m->q8.sum};
    if (m->rounds_floats) {
        m->i16 = eg_arena_take(arena, 1, eg_i16_bytes((values + widest - 1) / widest, widest));
        if (bytes < eg_matmul_i16_scratch_bytes()) bytes = eg_matmul_i16_scratch_bytes();
    }
    m->scratch_bytes = aligned(bytes);
    m->scratch = eg_arena_take(arena, eg_pool_threads(m->pool), m->scratch_bytes);
    m->prepared = eg_arena_take(arena, eg_pool_threads(m->pool), sizeof *m->prepared);
}

typedef struct matmul_call {
    eg_matmul *m;
    const float *x;
    int64_t ldx;
    eg_product *products;
    int64_t n;                 /* rows of x */
    eg_q8 q8;                  /* the quantized input, with the terms that these products want */
} matmul_call;

/* Whether a product goes through i16, which holds whole inputs. */
static bool is_rounded(const matmul_call *call, const eg_product *product)
{
    return call->m->rounds_floats && !product->w.type->group && product->w.cols % 4 == 0 && !product->first &&
           product->n == call->n;
}

/* The rows of q8 from `row` on; a row has cols values. */
static eg_q8 q8_rows(const eg_q8 *q8, int64_t row, int64_t cols)
{
    int64_t terms = row * (q8->two_term ? 2 : 1);
    return (eg_q8){q8->q + terms * cols, q8->d + row * (cols / 32), q8->sum + terms * (cols / 16), q8->two_term};
}

static void quantize_fixed_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    matmul_call *call = context;
    const eg_i8 *to = &call->m->i8;
    int64_t cols = call->products[0].w.cols;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        to->d[t] = call->m->kernels->quantize_i8(call->x + t * call->ldx, cols, call->products[0].w.in_step, to->q + t * cols,
                                                 to->sum + t);
}

static void quantize_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    matmul_call *call = context;
    int64_t cols = call->products[0].w.cols;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        eg_q8 to = q8_rows(&call->q8, t, cols);
        call->m->kernels->quantize_q8(call->x + t * call->ldx, cols, to.two_term, to.q, to.d, to.sum);
    }
}

enum { PACKED = 16 };          /* tokens that are packed together */

/* Unit of work: PACKED tokens. */
static void pack_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    matmul_call *call = context;
    const int64_t last = end * PACKED < call->n ? end * PACKED : call->n;
    (void)worker;
    call->m->kernels->pack_i16(call->m->i16, call->x, call->ldx, call->n, call->products[0].w.cols, begin * PACKED, last);
}

/* y *= the scales of the rows: matmul_q8 sees a per-channel type as one with scales of 1. */
static void scale_rows(const eg_product *product, int64_t row0, int64_t row1)
{
    for (int64_t t = 0; t < product->n; t++)
        for (int64_t r = row0; r < row1; r++) product->y[t * product->ldy + r] *= product->w.scale[r];
}

static void clamp_rows(const eg_product *product, int64_t row0, int64_t row1)
{
    for (int64_t t = 0; t < product->n; t++) eg_clamp(product->y + t * product->ldy + row0, row1 - row0, product->bounds);
}

/* A thread prepares the activations with the first of its rows, and again for weights of another type. */
static void multiply_q8_rows(const matmul_call *call, const eg_product *product, int64_t row0, int64_t row1, unsigned worker)
{
    const eg_kernels *kernels = call->m->kernels;
    const eg_matrix *w = &product->w;
    const eg_q8 x = q8_rows(&call->q8, product->first, w->cols);
    eg_prepared *prepared = &call->m->prepared[worker];
    void *scratch = eg_matmul_scratch(call->m, worker);
    if (prepared->type != w->type || prepared->first != product->first || prepared->n != product->n) {
        kernels->prepare_q8(&x, product->n, w, scratch);
        *prepared = (eg_prepared){w->type, product->first, product->n};
    }
    kernels->matmul_q8(product->y, product->ldy, &x, product->n, w, row0, row1, scratch);
}

/* Rows [row0, row1) of one product. */
static void multiply_rows(const matmul_call *call, const eg_product *product, int64_t row0, int64_t row1, unsigned worker)
{
    const eg_kernels *kernels = call->m->kernels;
    const eg_matrix *w = &product->w;
    uint8_t *scratch = eg_matmul_scratch(call->m, worker);
    const bool is_q8 = w->type->group && !(w->in_step > 0);
    if (!is_q8) call->m->prepared[worker].type = NULL;
    if (is_rounded(call, product)) {
        kernels->matmul_i16(product->y, product->ldy, call->m->i16, product->n, w, row0, row1, scratch);
    } else if (!w->type->group) {
        kernels->matmul_float(product->y, product->ldy, call->x + product->first * call->ldx, call->ldx, product->n, w, row0,
                              row1, scratch);
    } else if (is_q8) {
        multiply_q8_rows(call, product, row0, row1, worker);
    } else {
        const eg_i8 *all = &call->m->i8;
        eg_i8 x = {all->q + product->first * w->cols, all->d + product->first, all->sum + product->first};
        kernels->matmul_i8(product->y, product->ldy, &x, product->n, w, row0, row1, scratch);
    }
    if (w->scale && !(w->in_step > 0)) scale_rows(product, row0, row1);
    if (w->out_step > 0)
        for (int64_t t = 0; t < product->n; t++)
            kernels->fake_quant_i8(product->y + t * product->ldy + row0, row1 - row0, w->out_step);
    if (product->bounds) clamp_rows(product, row0, row1);
}

/* Tiles [begin, end) of the products, which are numbered through all products in order. */
static void multiply_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    matmul_call *call = context;
    int64_t start = 0;
    for (eg_product *product = call->products; begin < end; start = product->end, product++) {
        if (begin >= product->end) continue;
        int64_t stop = end < product->end ? end : product->end;
        int64_t row0 = (begin - start) * EG_ROW_TILE, row1 = (stop - start) * EG_ROW_TILE;
        multiply_rows(call, product, row0, row1 < product->w.rows ? row1 : product->w.rows, worker);
        begin = stop;
    }
}

/* Products whose input is quantized in the same way, once for all of them. */
static void multiply_alike(eg_matmul *m, const float *x, int64_t ldx, int64_t n, eg_product *products, int64_t n_products)
{
    matmul_call call = {m, x, ldx, products, n, m->q8};
    call.q8.two_term = m->two_term || products[0].w.two_term;
    bool quantized = false, rounded = false;
    int64_t tiles = 0;
    for (int64_t i = 0; i < n_products; i++) {
        quantized |= products[i].w.type->group != 0;
        rounded |= is_rounded(&call, &products[i]);
        tiles += (products[i].w.rows + EG_ROW_TILE - 1) / EG_ROW_TILE;
        products[i].end = tiles;
    }
    for (unsigned i = 0; i < eg_pool_threads(m->pool); i++) m->prepared[i].type = NULL;
    if (quantized) eg_pool_run(m->pool, products[0].w.in_step > 0 ? quantize_fixed_task : quantize_task, &call, n, 1);
    if (rounded) eg_pool_run(m->pool, pack_task, &call, (n + PACKED - 1) / PACKED, 1);
    eg_pool_run(m->pool, multiply_task, &call, tiles, TILES);
}

static bool same_input(const eg_matrix *a, const eg_matrix *b)
{
    return a->in_step == b->in_step && a->two_term == b->two_term;
}

void eg_multiply(eg_matmul *m, const float *x, int64_t ldx, int64_t n, eg_product *products, int64_t n_products)
{
    for (int64_t first = 0, end; first < n_products; first = end) {
        const eg_matrix *w = &products[first].w;
        for (end = first + 1; end < n_products && same_input(w, &products[end].w);) end++;
        multiply_alike(m, x, ldx, n, products + first, end - first);
    }
}

void eg_multiply_one(eg_matmul *m, const eg_matrix *w, const float *x, int64_t n, float *y)
{
    eg_product product = {.w = *w, .n = n, .y = y, .ldy = w->rows};
    eg_multiply(m, x, w->cols, n, &product, 1);
}
