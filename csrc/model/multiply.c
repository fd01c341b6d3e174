/* Spreads the rows of matrices over threads. */
#include "multiply.h"

enum {
    TILES = 4,                 /* of rows, at least, that a thread multiplies in a run */
    SLICE = TILES * EG_ROW_TILE   /* rows whose fine products are added up together */
};

static size_t aligned(size_t bytes) { return (bytes + EG_ARENA_ALIGNMENT - 1) / EG_ARENA_ALIGNMENT * EG_ARENA_ALIGNMENT; }

void eg_multiplier_layout(eg_multiplier *m, int64_t values, int64_t widest, size_t scratch_bytes, eg_arena *arena)
{
    size_t count = (size_t)values * (m->fine ? 2 : 1);
    m->parts = aligned(eg_matmul_scratch_bytes(widest));
    size_t bytes = m->parts + sizeof(float) * (size_t)(m->fine ? 2 * m->fine * SLICE : 0);
    if (m->fine && bytes < (size_t)widest * sizeof(float)) bytes = (size_t)widest * sizeof(float);
    if (bytes < scratch_bytes) bytes = scratch_bytes;
    m->q8.q = eg_arena_take(arena, 1, count);
    m->q8.d = eg_arena_take(arena, count / 32 + 1, sizeof *m->q8.d);
    m->q8.sum = eg_arena_take(arena, count / 16 + 1, sizeof *m->q8.sum);
    m->scratch_bytes = aligned(bytes);
    m->scratch = eg_arena_take(arena, eg_pool_threads(m->pool), m->scratch_bytes);
}

typedef struct product {
    eg_multiplier *m;
    const float *x;
    int64_t ldx, n;
    eg_job *jobs;
} product;

/* Row `row` of q8, whose rows have cols values. */
static eg_q8 q8_row(const eg_q8 *q8, int64_t row, int64_t cols)
{
    return (eg_q8){q8->q + row * cols, q8->d + row * (cols / 32), q8->sum + row * (cols / 16)};
}

static void quantize_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    product *p = context;
    const eg_kernels *kernels = p->m->kernels;
    int64_t cols = p->jobs[0].w.cols;
    float *rest = eg_multiplier_scratch(p->m, worker);
    for (int64_t t = begin; t < end; t++) {
        const float *x = p->x + t * p->ldx;
        eg_q8 to = q8_row(&p->m->q8, t, cols);
        kernels->quantize_q8(x, cols, to.q, to.d, to.sum);
        if (!p->m->fine) continue;
        for (int64_t i = 0; i < cols; i++) rest[i] = x[i] - to.d[i / 32] * (float)to.q[i];
        to = q8_row(&p->m->q8, p->n + t, cols);
        kernels->quantize_q8(rest, cols, to.q, to.d, to.sum);
    }
}

static void clamp_rows(const eg_job *job, int64_t row0, int64_t row1)
{
    float low = job->bounds[0], high = job->bounds[1];
    for (int64_t t = 0; t < job->n; t++) {
        float *y = job->y + t * job->ldy;
        for (int64_t r = row0; r < row1; r++) y[r] = y[r] < low ? low : y[r] > high ? high : y[r];
    }
}

/* y = W (first part) + W (rest), slice by slice. */
static void multiply_fine(const product *p, const eg_job *job, int64_t row0, int64_t row1, uint8_t *scratch)
{
    float *parts = (float *)(void *)(scratch + p->m->parts);   /* [2, n, SLICE] */
    eg_q8 x = q8_row(&p->m->q8, 0, job->w.cols);
    for (int64_t r = row0; r < row1; r += SLICE) {
        eg_matrix w = job->w;
        w.data += (size_t)r * w.row_bytes;
        w.rows = row1 - r < SLICE ? row1 - r : SLICE;
        p->m->kernels->matmul_q8(parts, SLICE, &x, 2 * job->n, &w, 0, w.rows, scratch);
        for (int64_t t = 0; t < job->n; t++)
            for (int64_t i = 0; i < w.rows; i++)
                job->y[t * job->ldy + r + i] = parts[t * SLICE + i] + parts[(job->n + t) * SLICE + i];
    }
}

/* Tiles [begin, end) of all jobs' rows, counted through. */
static void multiply_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    product *p = context;
    const eg_kernels *kernels = p->m->kernels;
    void *scratch = eg_multiplier_scratch(p->m, worker);
    int64_t start = 0;
    for (eg_job *job = p->jobs; begin < end; start = job->end, job++) {
        if (begin >= job->end) continue;
        int64_t stop = end < job->end ? end : job->end;
        int64_t row0 = (begin - start) * EG_ROW_TILE, row1 = (stop - start) * EG_ROW_TILE, cols = job->w.cols;
        if (row1 > job->w.rows) row1 = job->w.rows;
        if (!job->w.type->group) {
            kernels->matmul_float(job->y, job->ldy, p->x + job->first * p->ldx, p->ldx, job->n, &job->w, row0, row1,
                                  scratch);
        } else if (p->m->fine) {
            multiply_fine(p, job, row0, row1, scratch);
        } else {
            eg_q8 x = q8_row(&p->m->q8, job->first, cols);
            kernels->matmul_q8(job->y, job->ldy, &x, job->n, &job->w, row0, row1, scratch);
        }
        if (job->bounds) clamp_rows(job, row0, row1);
        begin = stop;
    }
}

void eg_multiply(eg_multiplier *m, const float *x, int64_t ldx, int64_t n, eg_job *jobs, int64_t n_jobs)
{
    product p = {m, x, ldx, n, jobs};
    bool quantized = false;
    int64_t tiles = 0;
    for (int64_t i = 0; i < n_jobs; i++) {
        quantized |= jobs[i].w.type->group != 0;
        tiles += (jobs[i].w.rows + EG_ROW_TILE - 1) / EG_ROW_TILE;
        jobs[i].end = tiles;
    }
    if (quantized) eg_pool_run(m->pool, quantize_task, &p, n, 1);
    eg_pool_run(m->pool, multiply_task, &p, tiles, TILES);
}

void eg_multiply_one(eg_multiplier *m, const eg_matrix *w, const float *x, int64_t n, float *y)
{
    eg_job job = {.w = *w, .n = n, .y = y, .ldy = w->rows};
    eg_multiply(m, x, w->cols, n, &job, 1);
}
