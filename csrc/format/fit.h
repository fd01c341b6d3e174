/* Fits the scale s and the min m of a group of values x: minimizes the weighted square error sum w (x - (s q - m))^2 over
 * integers q.
 *
 * Knows no byte layout and no half floats; those are in pack.c and pack_k.c. Plain C whose sums have a fixed order, so every
 * processor gives the same bits. Eight candidates are tried at a time, one in each lane of a vector. Values must be finite.
 */
#ifndef EG_FORMAT_FIT_H
#define EG_FORMAT_FIT_H

#include "../base/exact.h"

#include <stdbool.h>
#include <stdint.h>

enum { EG_TRIES = 8 };

/* The numbers q that a type can store: the integers from low to high, or the 16 values of IQ4's codebook. */
typedef struct eg_levels {
    float low, high;
    bool iq4;
} eg_levels;

typedef struct eg_group {
    const float *x, *w;   /* [n] values, and their weights, which are above 0 */
    int n;
} eg_group;

/* x ~ scale q - min; min is 0 for types without one. */
typedef struct eg_fit {
    float scale, min;
} eg_fit;

/* Eight candidates. */
typedef struct eg_fits {
    float scale[EG_TRIES], min[EG_TRIES];
} eg_fits;

/* Sums of w, w q, w q^2, w x and w x q, where q is the level nearest to x. */
typedef struct eg_sums {
    float w, q, qq, x, xq;
} eg_sums;

/* w[n]: the weight of each value of a group, 1 + x^2 / (2 * the mean of x^2). */
void eg_weigh(const float *x, int n, float *w);

/* The best scale for a type without a min; negative where that fits better, 0 if all values are 0. */
float eg_fit_scale(eg_group g, eg_levels levels);

/* The best scale and min for levels 0..high. The scale is not negative; with `positive`, neither is the min. */
eg_fit eg_fit_affine(eg_group g, float high, bool positive);

/* error[8]: the weighted square errors of eight candidates. */
void eg_misfits(eg_group g, const eg_fits *fits, eg_levels levels, float *error);

eg_sums eg_sum(eg_group g, eg_fit fit, eg_levels levels);

/* q[n]: the nearest levels; for IQ4 their indices into the codebook. */
void eg_nearest(const float *x, int n, eg_fit fit, eg_levels levels, int8_t *q);

#endif
