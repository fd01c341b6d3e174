/* Matrix products y = W x on the threads of a pool, shared by the decoder and the encoders.
 *
 * A quantized matrix multiplies activations that are quantized to 8 bits, 32 values to a scale, or two-term activations of 16
 * bits: two int8 terms, which share the unpacked weights, for twice the products. Over an encoder's layers the error of 8 bits
 * grows to a percent or two, so encoders use two terms everywhere; the decoder chooses matrix by matrix (eg_matrix.two_term).
 *
 * Matrices of floats multiply floats; for an encoder that has many tokens at hand, integers of 14 bits are twice as fast.
 *
 * A matrix with a step for its input (eg_matrix.in_step) has the input quantized with that step, as in training; two_term does
 * not matter then.
 */
#ifndef EG_NN_MULTIPLY_H
#define EG_NN_MULTIPLY_H

#include "../base/arena.h"
#include "../base/pool.h"
#include "../kernels/kernels.h"

/* Whose activations a thread's scratch has in the form that matmul_q8 wants (prepare_q8). */
typedef struct eg_prepared {
    const eg_type_info *type;  /* of the weights; NULL: nobody's */
    int64_t first, n;          /* rows of the input */
} eg_prepared;

typedef struct eg_matmul {
    const eg_kernels *kernels;
    eg_pool *pool;
    bool two_term;             /* all quantized matrices have two-term input, not only those that are marked */
    eg_q8 q8;                  /* quantized input of a run of products (eg_multiply) */
    eg_i8 i8;                  /* the same with a fixed step, in the same memory */
    bool rounds_floats;        /* F32, F16 and BF16 matrices are multiplied as integers of 14 bits, where columns allow it */
    void *i16;                 /* the input of a call for that */
    uint8_t *scratch;          /* [threads, scratch_bytes], also for the owner's tasks */
    size_t scratch_bytes;
    eg_prepared *prepared;     /* [threads] of a run of products */
} eg_matmul;

/* One product of a call: y = w x for rows [first, first + n) of the input. */
typedef struct eg_product {
    eg_matrix w;
    int64_t first, n;
    float *y;                  /* [n, ldy] */
    int64_t ldy;
    const float *bounds;       /* [2] y is clamped to bounds[0] .. bounds[1]; NULL: not clamped */
    int64_t end;               /* set by eg_multiply: tiles of this product and of all before it */
} eg_product;

/* Lays out memory for inputs of at most `values` numbers in all and at most `widest` columns, and at least `scratch_bytes` of
 * scratch for each thread. The caller sets kernels, pool, two_term and rounds_floats before. */
void eg_matmul_layout(eg_matmul *matmul, int64_t values, int64_t widest, size_t scratch_bytes, eg_arena *arena);

/* All products with one input x[n, cols] (row stride ldx). The input is quantized once for each run of products with the same
 * step and number of terms. */
void eg_multiply(eg_matmul *matmul, const float *x, int64_t ldx, int64_t n, eg_product *products, int64_t n_products);

/* y[n, rows] = w x[n]. */
void eg_multiply_one(eg_matmul *matmul, const eg_matrix *w, const float *x, int64_t n, float *y);

/* Rows [first, first + rows) of a matrix, with their scales. */
eg_matrix eg_matrix_slice(const eg_matrix *w, int64_t first, int64_t rows);

/* out[n] = columns [col, col + n) of a row, as floats; col and n are multiples of the type's block. */
void eg_matrix_row(const eg_matrix *w, int64_t row, int64_t col, int64_t n, float *out);

/* The same from a copy of these blocks. */
void eg_matrix_decode(const eg_matrix *w, int64_t row, int64_t col, int64_t n, const void *blocks, float *out);

static inline void *eg_matmul_scratch(const eg_matmul *matmul, unsigned worker)
{
    return matmul->scratch + worker * matmul->scratch_bytes;
}

#endif
