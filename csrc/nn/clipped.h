/* Matrices of encoders that clamp what they read and write: y = clamp(W clamp(x)).
 *
 * The bounds of a matrix X.weight are four numbers in the file: X.input_min, X.input_max, X.output_min and X.output_max. A bound
 * that is missing is infinite.
 */
#ifndef EG_NN_CLIPPED_H
#define EG_NN_CLIPPED_H

#include "binder.h"

typedef struct eg_clipped {
    eg_matrix w;
    float in[2], out[2];       /* [least, largest] */
} eg_clipped;

/* The matrix "NAME.weight" [rows, cols] and its bounds. */
eg_clipped eg_bind_clipped(eg_binder *binder, const char *name, int64_t rows, int64_t cols);

/* Limits x[n] to the bounds. NaN stays NaN. */
void eg_clamp(float *x, int64_t n, const float bounds[2]);

/* Whether both clamp their input alike, so that one clamped copy serves both. */
static inline bool eg_clipped_alike(const eg_clipped *a, const eg_clipped *b)
{
    return a->in[0] == b->in[0] && a->in[1] == b->in[1];
}

#endif
