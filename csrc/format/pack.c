/* Packs floats into F32, F16, BF16 and the types with blocks of 32 values; the inverse of unpack.c, which has the layouts.
 *
 * F32, F16, BF16 and Q8_0 are defined by their rounding. The other types allow any scale, and fit.c searches for the one with
 * the least error.
 */
#include "pack.h"

#include <math.h>
#include <string.h>

#include "fit.h"
#include "half.h"

enum { BLOCK = 32 };

void eg_pack_f32(const float *x, int64_t n, void *blocks) { memcpy(blocks, x, (size_t)n * sizeof *x); }

void eg_pack_f16(const float *x, int64_t n, void *blocks)
{
    uint8_t *b = blocks;
    for (int64_t i = 0; i < n; i++) eg_store_u16(b + 2 * i, eg_float_to_half(x[i]));
}

/* The upper half of the float, rounded to the nearest, ties to even. */
void eg_pack_bf16(const float *x, int64_t n, void *blocks)
{
    uint8_t *b = blocks;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = eg_float_to_bits(x[i]);
        eg_store_u16(b + 2 * i, (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16));
    }
}

/* d = peak / 127; each value to the nearest multiple, ties away from zero. */
void eg_pack_q8_0(const float *restrict x, int64_t n, void *restrict blocks)
{
    uint8_t *b = blocks;
    for (; n > 0; n -= BLOCK, x += BLOCK, b += 34) {
        float peak = 0.0f;
        for (int i = 0; i < BLOCK; i++) peak = fabsf(x[i]) > peak ? fabsf(x[i]) : peak;
        float d = peak / 127.0f, inverse = d != 0.0f ? 1.0f / d : 0.0f;
        inverse = isfinite(inverse) ? inverse : 0.0f;
        eg_store_u16(b, eg_float_to_half(d));
        int8_t q[BLOCK];
        for (int i = 0; i < BLOCK; i++) {
            float t = x[i] * inverse, r = (t + 12582912.0f) - 12582912.0f, rest = t - r;   /* exact: |t| < 128 */
            r += t > 0.0f && rest == 0.5f ? 1.0f : 0.0f;
            r -= t < 0.0f && rest == -0.5f ? 1.0f : 0.0f;
            q[i] = (int8_t)r;
        }
        memcpy(b + 2, q, BLOCK);
    }
}

/* Stores 32 codes of 4 bits: the first 16 in the low nibbles. */
static void store_nibbles(const int8_t *q, uint8_t *qs)
{
    for (int i = 0; i < 16; i++) qs[i] = (uint8_t)((q[i] & 15) | (q[i + 16] & 15) << 4);
}

/* Stores the fifth bits of 32 codes. */
static void store_fifth_bits(const int8_t *q, uint8_t *qh)
{
    uint32_t bits = 0;
    for (int i = 0; i < BLOCK; i++) bits |= (uint32_t)(q[i] >> 4 & 1) << i;
    for (int i = 0; i < 4; i++) qh[i] = (uint8_t)(bits >> 8 * i);
}

/* Fits one block with a scale and no min: codes q[32], counted from 0; stores d at b. */
static void symmetric(const float *x, eg_levels levels, uint8_t *b, int8_t *q)
{
    float w[BLOCK];
    eg_weigh(x, BLOCK, w);
    uint16_t d = eg_half_scale(eg_fit_scale((eg_group){x, w, BLOCK}, levels));
    eg_store_u16(b, d);
    eg_nearest(x, BLOCK, (eg_fit){eg_half_to_float(d), 0.0f}, levels, q);
    for (int i = 0; i < BLOCK && !levels.iq4; i++) q[i] = (int8_t)(q[i] - (int)levels.low);
}

/* Fits one block with a scale and a min: codes q[32]; stores d and m at b (the formats add m). */
static void affine(const float *x, float high, uint8_t *b, int8_t *q)
{
    float w[BLOCK];
    eg_weigh(x, BLOCK, w);
    eg_fit fit = eg_fit_affine((eg_group){x, w, BLOCK}, high, false);
    uint16_t d = eg_half_scale(fit.scale), m = eg_half_scale(-fit.min);
    eg_store_u16(b, d);
    eg_store_u16(b + 2, m);
    fit = (eg_fit){eg_half_to_float(d), -eg_half_to_float(m)};
    eg_nearest(x, BLOCK, fit, (eg_levels){0.0f, high, false}, q);
}

void eg_pack_q4_0(const float *x, int64_t n, void *blocks)
{
    uint8_t *b = blocks;
    int8_t q[BLOCK];
    for (; n > 0; n -= BLOCK, x += BLOCK, b += 18) {
        symmetric(x, (eg_levels){-8.0f, 7.0f, false}, b, q);
        store_nibbles(q, b + 2);
    }
}

void eg_pack_iq4_nl(const float *x, int64_t n, void *blocks)
{
    uint8_t *b = blocks;
    int8_t q[BLOCK];
    for (; n > 0; n -= BLOCK, x += BLOCK, b += 18) {
        symmetric(x, (eg_levels){-127.0f, 113.0f, true}, b, q);
        store_nibbles(q, b + 2);
    }
}

void eg_pack_q4_1(const float *x, int64_t n, void *blocks)
{
    uint8_t *b = blocks;
    int8_t q[BLOCK];
    for (; n > 0; n -= BLOCK, x += BLOCK, b += 20) {
        affine(x, 15.0f, b, q);
        store_nibbles(q, b + 4);
    }
}

void eg_pack_q5_0(const float *x, int64_t n, void *blocks)
{
    uint8_t *b = blocks;
    int8_t q[BLOCK];
    for (; n > 0; n -= BLOCK, x += BLOCK, b += 22) {
        symmetric(x, (eg_levels){-16.0f, 15.0f, false}, b, q);
        store_fifth_bits(q, b + 2);
        store_nibbles(q, b + 6);
    }
}

void eg_pack_q5_1(const float *x, int64_t n, void *blocks)
{
    uint8_t *b = blocks;
    int8_t q[BLOCK];
    for (; n > 0; n -= BLOCK, x += BLOCK, b += 24) {
        affine(x, 31.0f, b, q);
        store_fifth_bits(q, b + 4);
        store_nibbles(q, b + 8);
    }
}
