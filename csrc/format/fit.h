/* Scales for groups of numbers: which s (and m) make the levels s q - m come close to the values.
 *
 * "Close" is the weighted square error, sum w (x - (s q - m))^2. Knows no byte layout and no half floats; those are in
 * pack.c and pack_k.c. Plain C whose sums have a fixed order, so every processor gives the same bits. Eight
 * candidates are tried at a time, one to a lane of a vector. Values are finite.
 */
#ifndef EG_FORMAT_FIT_H
#define EG_FORMAT_FIT_H

#include <stdbool.h>
#include <stdint.h>

enum { EG_TRIES = 8 };

/* The numbers q that a type can store: all whole ones from low to high, or the 16 of IQ4. */
typedef struct eg_levels {
    float low, high;
    bool iq4;
} eg_levels;

typedef struct eg_group {
    const float *x, *w;   /* [n] values, their weights > 0 */
    int n;
} eg_group;

/* s q - m; m is 0 for types without a min. */
typedef struct eg_fit {
    float scale, min;
} eg_fit;

/* Eight of them. */
typedef struct eg_fits {
    float scale[EG_TRIES], min[EG_TRIES];
} eg_fits;

/* Sums over the levels nearest to the values: w, w q, w q^2, w x, w x q. */
typedef struct eg_sums {
    float w, q, qq, x, xq;
} eg_sums;

/* w[n]: how much each value of a group counts, 1 + x^2 / 2 in units of their mean square. */
void eg_weigh(const float *x, int n, float *w);

/* The scale that fits best, 0 if all values are 0; negative where that is better. No min. */
float eg_fit_scale(eg_group g, eg_levels levels);

/* Scale and min for levels 0..high; the scale is not negative. With `positive` the min is not either. */
eg_fit eg_fit_affine(eg_group g, float high, bool positive);

/* error[8]: the weighted square errors of eight choices. */
void eg_misfits(eg_group g, const eg_fits *fits, eg_levels levels, float *error);

eg_sums eg_sum(eg_group g, eg_fit fit, eg_levels levels);

/* q[n]: the nearest levels; for IQ4 the number of each among the 16. */
void eg_nearest(const float *x, int n, eg_fit fit, eg_levels levels, int8_t *q);

#endif
