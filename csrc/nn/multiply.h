/* Matrices times activations, over the threads of a pool: what the decoder and the encoders share.
 *
 * Quantized matrices multiply activations of 8 bits, 32 to a scale, which costs a decoder little but adds up to a percent or
 * two through an encoder's layers. So an encoder asks for fine ones, of twice 8 bits, which share the unpacked weights.
 *
 * A matrix that brings a step for its input (eg_matrix.in_step) has it quantized with that, fine or not: the model was trained so.
 */
#ifndef EG_NN_MULTIPLY_H
#define EG_NN_MULTIPLY_H

#include "../base/arena.h"
#include "../base/pool.h"
#include "../kernels/kernels.h"

typedef struct eg_matmul {
    const eg_kernels *kernels;
    eg_pool *pool;
    eg_q8 q8;                  /* quantized input of a call, fine for encoders */
    eg_i8 i8;                  /* the same on a fixed step, in the same memory */
    uint8_t *scratch;          /* [threads, scratch_bytes], also for tasks of the owner */
    size_t scratch_bytes;
} eg_matmul;

/* One product of a call: rows [first, first + n) of the input times w. */
typedef struct eg_product {
    eg_matrix w;
    int64_t first, n;
    float *y;                  /* [n, ldy] */
    int64_t ldy;
    const float *bounds;       /* least and largest value of y, which is clamped to them; NULL: as it comes */
    int64_t end;               /* filled by eg_multiply */
} eg_product;

/* Takes room for inputs of `values` numbers in all, of at most `widest` columns, and scratch of at least `scratch_bytes` a
 * thread. The caller sets kernels, pool and q8.fine before. */
void eg_matmul_layout(eg_matmul *matmul, int64_t values, int64_t widest, size_t scratch_bytes, eg_arena *arena);

/* All jobs on one input x[n, cols] (row stride ldx), quantized once, or once for each run of jobs with the same step. */
void eg_multiply(eg_matmul *matmul, const float *x, int64_t ldx, int64_t n, eg_product *products, int64_t n_products);

/* y[n, rows] = w x[n]. */
void eg_multiply_one(eg_matmul *matmul, const eg_matrix *w, const float *x, int64_t n, float *y);

/* Rows [first, first + rows) of a matrix, with their scales. */
eg_matrix eg_matrix_slice(const eg_matrix *w, int64_t first, int64_t rows);

/* out[n] = columns [col, col + n) of a row; both are multiples of the type's block. */
void eg_matrix_row(const eg_matrix *w, int64_t row, int64_t col, int64_t n, float *out);

static inline void *eg_matmul_scratch(const eg_matmul *matmul, unsigned worker)
{
    return matmul->scratch + worker * matmul->scratch_bytes;
}

#endif
