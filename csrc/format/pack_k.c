/* Packs floats into the types with blocks of 256 values; the inverse of unpack.c and unpack_iq.c, which have the layouts.
 *
 * A block has groups of 16 or 32 values. The scale of a group is the block's scale times a small integer multiplier. First,
 * the ideal scale of each group is computed. Then the block's scale is chosen so that its multiples come close to the ideal
 * scales. Last, each group chooses the multiplier with the least error.
 */
#include <math.h>
#include <string.h>

#include "fit.h"
#include "half.h"
#include "pack.h"

enum { BLOCK = 256, MOST_GROUPS = 16, ROUNDS = 2 };

typedef struct layout {
    int groups;                  /* 8 or 16 */
    eg_levels levels;
    int scale_low, scale_high;   /* multiples of the block's scale, and of its min */
} layout;

/* The fitted block: the values of a group are d * scale * q - dmin * min, with integer multipliers scale and min. */
typedef struct block {
    uint16_t d, dmin;   /* half floats */
    int8_t scale[MOST_GROUPS], min[MOST_GROUPS], q[BLOCK];
} block;

/* The half float nearest to a scale, as a float. */
static float half_near(float scale) { return eg_half_to_float(eg_half_scale(scale)); }

/* The nearest integer from low to high. */
static inline int nearest(float t, int low, int high)
{
    t = t < (float)low ? (float)low : t;
    t = t > (float)high ? (float)high : t;
    return (int)((t + 12582912.0f) - 12582912.0f);   /* rounds the fraction away */
}

/* Group j of a block. */
static inline eg_group group_of(const float *x, const float *w, int j, int size)
{
    return (eg_group){x + j * size, w + j * size, size};
}

/* Chooses the multiplier of each group: of those near wish / d, the one with the least error. wish: the ideal scales. Returns
 * the error of the block. */
static float choose(const float *x, const float *w, const layout *l, const float *wish, float d, int8_t *scale)
{
    static const int8_t step[EG_TRIES] = {0, -1, 1, -2, 2, -3, 3, 4};
    int size = BLOCK / l->groups;
    float total = 0.0f;
    for (int j = 0; j < l->groups; j++) {
        int middle = nearest(wish[j] / d, l->scale_low, l->scale_high), best = 0;
        eg_fits fits = {{0}, {0}};
        int tried[EG_TRIES];
        float error[EG_TRIES];
        for (int t = 0; t < EG_TRIES; t++) {
            tried[t] = nearest((float)(middle + step[t]), l->scale_low, l->scale_high);
            fits.scale[t] = d * (float)tried[t];
        }
        eg_misfits(group_of(x, w, j, size), &fits, l->levels, error);
        for (int t = 1; t < EG_TRIES; t++) best = error[t] < error[best] ? t : best;
        scale[j] = (int8_t)tried[best];
        total += error[best];
    }
    return total;
}

/* The block's scale by least squares, for the levels that the current scales give. */
static float refit(const float *x, const float *w, const layout *l, float d, const int8_t *scale)
{
    int size = BLOCK / l->groups;
    float xq = 0.0f, qq = 0.0f;
    for (int j = 0; j < l->groups; j++) {
        float s = (float)scale[j];
        eg_sums sums = eg_sum(group_of(x, w, j, size), (eg_fit){d * s, 0.0f}, l->levels);
        xq += s * sums.xq;
        qq += s * s * sums.qq;
    }
    return qq > 0.0f ? xq / qq : d;
}

/* The first scale of the block: tries eight that map the largest ideal scale to, or near, either end of the multipliers, and
 * takes the one with the least error. */
static float first_scale(const float *x, const float *w, const layout *l, const float *wish, float peak)
{
    int size = BLOCK / l->groups, best = 0;
    float d[EG_TRIES], total[EG_TRIES] = {0}, error[EG_TRIES];
    for (int t = 0; t < EG_TRIES; t++) {
        float edge = (float)(t % 2 ? l->scale_high : l->scale_low);
        d[t] = half_near(peak / (edge * (1.0f - (float)(t / 2) / 64.0f)));
    }
    for (int j = 0; j < l->groups; j++) {
        eg_fits fits = {{0}, {0}};
        for (int t = 0; t < EG_TRIES; t++)
            if (d[t] != 0.0f) fits.scale[t] = d[t] * (float)nearest(wish[j] / d[t], l->scale_low, l->scale_high);
        eg_misfits(group_of(x, w, j, size), &fits, l->levels, error);
        for (int t = 0; t < EG_TRIES; t++) total[t] += error[t];
    }
    for (int t = 1; t < EG_TRIES; t++) best = total[t] < total[best] ? t : best;
    return d[best];
}

static void fit_symmetric(const float *x, const layout *l, block *out)
{
    float w[BLOCK], wish[MOST_GROUPS], peak = 0.0f, best = 0.0f, least = HUGE_VALF;
    int size = BLOCK / l->groups;
    for (int j = 0; j < l->groups; j++) {
        eg_weigh(x + j * size, size, w + j * size);
        wish[j] = eg_fit_scale(group_of(x, w, j, size), l->levels);
        peak = fabsf(wish[j]) > fabsf(peak) ? wish[j] : peak;
    }
    memset(out, 0, sizeof *out);
    float d = first_scale(x, w, l, wish, peak);
    for (int round = 0; d != 0.0f && round < ROUNDS; round++) {
        int8_t scale[MOST_GROUPS];
        float error = choose(x, w, l, wish, d, scale);
        if (error < least) {
            least = error;
            best = d;
            memcpy(out->scale, scale, sizeof scale);
        }
        if (round + 1 < ROUNDS) d = half_near(refit(x, w, l, d, scale));
    }
    out->d = eg_float_to_half(best);
    for (int j = 0; j < l->groups; j++)
        eg_nearest(x + j * size, size, (eg_fit){best * (float)out->scale[j], 0.0f}, l->levels, out->q + j * size);
}

/* Chooses the multipliers of d and dmin of each group, as above; returns the error of the block. */
static float choose_affine(const float *x, const float *w, const layout *l, const eg_fit *wish, float d, float dmin,
                           int8_t *scale, int8_t *min)
{
    static const int8_t step[EG_TRIES][2] = {{0, 0}, {1, 0}, {-1, 0}, {0, 1}, {0, -1}, {1, 1}, {-1, -1}, {1, -1}};
    int size = BLOCK / l->groups;
    float total = 0.0f;
    for (int j = 0; j < l->groups; j++) {
        int s = d > 0.0f ? nearest(wish[j].scale / d, 0, l->scale_high) : 0, best = 0;
        int m = dmin > 0.0f ? nearest(wish[j].min / dmin, 0, l->scale_high) : 0;
        eg_fits fits;
        int8_t tried[EG_TRIES][2];
        float error[EG_TRIES];
        for (int t = 0; t < EG_TRIES; t++) {
            tried[t][0] = (int8_t)nearest((float)(s + step[t][0]), 0, l->scale_high);
            tried[t][1] = (int8_t)nearest((float)(m + step[t][1]), 0, l->scale_high);
            fits.scale[t] = d * (float)tried[t][0];
            fits.min[t] = dmin * (float)tried[t][1];
        }
        eg_misfits(group_of(x, w, j, size), &fits, l->levels, error);
        for (int t = 1; t < EG_TRIES; t++) best = error[t] < error[best] ? t : best;
        scale[j] = tried[best][0];
        min[j] = tried[best][1];
        total += error[best];
    }
    return total;
}

/* d and dmin by least squares, for the levels that the current scales and mins give. */
static void refit_affine(const float *x, const float *w, const layout *l, const int8_t *scale, const int8_t *min, float *d,
                         float *dmin)
{
    int size = BLOCK / l->groups;
    float ss = 0.0f, sm = 0.0f, mm = 0.0f, sx = 0.0f, mx = 0.0f;
    for (int j = 0; j < l->groups; j++) {
        float s = (float)scale[j], m = (float)min[j];
        eg_sums sums = eg_sum(group_of(x, w, j, size), (eg_fit){*d * s, *dmin * m}, l->levels);
        ss += s * s * sums.qq;
        sm += s * m * sums.q;
        mm += m * m * sums.w;
        sx += s * sums.xq;
        mx += m * sums.x;
    }
    float det = ss * mm - sm * sm;
    if (det > 1e-6f * ss * mm) {
        *d = (sx * mm - mx * sm) / det;
        *dmin = (sx * sm - mx * ss) / det;
    } else if (mm == 0.0f && ss > 0.0f) {
        *d = sx / ss;
    }
}

/* fit_symmetric for types with mins, whose levels and multipliers begin at 0. */
static void fit_affine(const float *x, const layout *l, block *out)
{
    float w[BLOCK], d = 0.0f, dmin = 0.0f, least = HUGE_VALF, best = 0.0f, best_min = 0.0f;
    eg_fit wish[MOST_GROUPS];
    int size = BLOCK / l->groups;
    for (int j = 0; j < l->groups; j++) {
        eg_weigh(x + j * size, size, w + j * size);
        wish[j] = eg_fit_affine(group_of(x, w, j, size), l->levels.high, true);
        d = wish[j].scale > d ? wish[j].scale : d;
        dmin = wish[j].min > dmin ? wish[j].min : dmin;
    }
    memset(out, 0, sizeof *out);
    d /= (float)l->scale_high;
    dmin /= (float)l->scale_high;
    for (int round = 0; round < ROUNDS && d >= 0.0f && dmin >= 0.0f; round++) {
        int8_t scale[MOST_GROUPS], min[MOST_GROUPS];
        d = half_near(d);
        dmin = half_near(dmin);
        float error = choose_affine(x, w, l, wish, d, dmin, scale, min);
        if (error < least) {
            least = error;
            best = d;
            best_min = dmin;
            memcpy(out->scale, scale, sizeof scale);
            memcpy(out->min, min, sizeof min);
        }
        if (round + 1 < ROUNDS) refit_affine(x, w, l, scale, min, &d, &dmin);
    }
    out->d = eg_float_to_half(best);
    out->dmin = eg_float_to_half(best_min);
    for (int j = 0; j < l->groups; j++)
        eg_nearest(x + j * size, size, (eg_fit){best * (float)out->scale[j], best_min * (float)out->min[j]}, l->levels,
                   out->q + j * size);
}

/* ---- layouts ------------------------------------------------------------------------------------------------- */

/* Stores 256 codes of 2 bits: four runs of 32 values in 32 bytes, twice. */
static void store_pairs(const int8_t *q, uint8_t *qs)
{
    for (int h = 0; h < 2; h++)
        for (int l = 0; l < 32; l++) {
            const int8_t *p = q + 128 * h + l;
            qs[32 * h + l] = (uint8_t)((p[0] & 3) | (p[32] & 3) << 2 | (p[64] & 3) << 4 | (p[96] & 3) << 6);
        }
}

void eg_pack_q2_k(const float *x, int64_t n, void *blocks)
{
    static const layout l = {16, {0.0f, 3.0f, false}, 0, 15};
    uint8_t *b = blocks;
    for (; n > 0; n -= BLOCK, x += BLOCK, b += 84) {
        block fitted;
        fit_affine(x, &l, &fitted);
        for (int j = 0; j < 16; j++) b[j] = (uint8_t)(fitted.scale[j] | fitted.min[j] << 4);
        store_pairs(fitted.q, b + 16);
        eg_store_u16(b + 80, fitted.d);
        eg_store_u16(b + 82, fitted.dmin);
    }
}

void eg_pack_q3_k(const float *x, int64_t n, void *blocks)
{
    static const layout l = {16, {-4.0f, 3.0f, false}, -32, 31};
    uint8_t *b = blocks;
    for (; n > 0; n -= BLOCK, x += BLOCK, b += 110) {
        block fitted;
        fit_symmetric(x, &l, &fitted);
        memset(b, 0, 32);
        for (int i = 0; i < BLOCK; i++) {
            fitted.q[i] = (int8_t)(fitted.q[i] + 4);
            b[i % 32] = (uint8_t)(b[i % 32] | (fitted.q[i] >> 2) << i / 32);
        }
        store_pairs(fitted.q, b + 32);
        memset(b + 96, 0, 12);
        for (int j = 0; j < 16; j++) {
            int s = fitted.scale[j] + 32;
            b[96 + j % 8] = (uint8_t)(b[96 + j % 8] | (s & 15) << 4 * (j / 8));
            b[104 + j % 4] = (uint8_t)(b[104 + j % 4] | (s >> 4) << 2 * (j / 4));
        }
        eg_store_u16(b + 108, fitted.d);
    }
}

/* Stores d, dmin and the 6-bit multipliers of Q4_K and Q5_K. */
static void store_head(const block *fitted, uint8_t *b)
{
    eg_store_u16(b, fitted->d);
    eg_store_u16(b + 2, fitted->dmin);
    const int8_t *s = fitted->scale, *m = fitted->min;
    for (int j = 0; j < 4; j++) {
        b[4 + j] = (uint8_t)(s[j] | (s[j + 4] >> 4) << 6);
        b[8 + j] = (uint8_t)(m[j] | (m[j + 4] >> 4) << 6);
        b[12 + j] = (uint8_t)((s[j + 4] & 15) | (m[j + 4] & 15) << 4);
    }
}

/* Stores the low nibbles of 256 codes: two runs of 32 values in 32 bytes, four times. */
static void store_nibbles(const int8_t *q, uint8_t *qs)
{
    for (int h = 0; h < 4; h++)
        for (int l = 0; l < 32; l++) qs[32 * h + l] = (uint8_t)((q[64 * h + l] & 15) | (q[64 * h + l + 32] & 15) << 4);
}

void eg_pack_q4_k(const float *x, int64_t n, void *blocks)
{
    static const layout l = {8, {0.0f, 15.0f, false}, 0, 63};
    uint8_t *b = blocks;
    for (; n > 0; n -= BLOCK, x += BLOCK, b += 144) {
        block fitted;
        fit_affine(x, &l, &fitted);
        store_head(&fitted, b);
        store_nibbles(fitted.q, b + 16);
    }
}

void eg_pack_q5_k(const float *x, int64_t n, void *blocks)
{
    static const layout l = {8, {0.0f, 31.0f, false}, 0, 63};
    uint8_t *b = blocks;
    for (; n > 0; n -= BLOCK, x += BLOCK, b += 176) {
        block fitted;
        fit_affine(x, &l, &fitted);
        store_head(&fitted, b);
        memset(b + 16, 0, 32);
        for (int i = 0; i < BLOCK; i++) b[16 + i % 32] = (uint8_t)(b[16 + i % 32] | (fitted.q[i] >> 4) << i / 32);
        store_nibbles(fitted.q, b + 48);
    }
}

void eg_pack_q6_k(const float *x, int64_t n, void *blocks)
{
    static const layout l = {16, {-32.0f, 31.0f, false}, -128, 127};
    uint8_t *b = blocks;
    for (; n > 0; n -= BLOCK, x += BLOCK, b += 210) {
        block fitted;
        fit_symmetric(x, &l, &fitted);
        for (int i = 0; i < BLOCK; i++) fitted.q[i] = (int8_t)(fitted.q[i] + 32);
        for (int h = 0; h < 2; h++) {
            const int8_t *q = fitted.q + 128 * h;
            for (int i = 0; i < 64; i++) b[64 * h + i] = (uint8_t)((q[i] & 15) | (q[i + 64] & 15) << 4);
            for (int i = 0; i < 32; i++)
                b[128 + 32 * h + i] = (uint8_t)(q[i] >> 4 | (q[i + 32] >> 4) << 2 | (q[i + 64] >> 4) << 4 |
                                                (q[i + 96] >> 4) << 6);
        }
        memcpy(b + 192, fitted.scale, 16);
        eg_store_u16(b + 208, fitted.d);
    }
}

void eg_pack_iq4_xs(const float *x, int64_t n, void *blocks)
{
    static const layout l = {8, {-127.0f, 113.0f, true}, -32, 31};
    uint8_t *b = blocks;
    for (; n > 0; n -= BLOCK, x += BLOCK, b += 136) {
        block fitted;
        fit_symmetric(x, &l, &fitted);
        eg_store_u16(b, fitted.d);
        uint32_t high = 0;
        memset(b + 4, 0, 4);
        for (int j = 0; j < 8; j++) {
            int s = fitted.scale[j] + 32;
            b[4 + j / 2] = (uint8_t)(b[4 + j / 2] | (s & 15) << 4 * (j % 2));
            high |= (uint32_t)(s >> 4) << 2 * j;
            for (int i = 0; i < 16; i++) b[8 + 16 * j + i] = (uint8_t)(fitted.q[32 * j + i] | fitted.q[32 * j + 16 + i] << 4);
        }
        eg_store_u16(b + 2, (uint16_t)high);
    }
}
