/* Unpacks the types with codebooks (IQ4, MXFP4, IQ2, IQ3) and the ternary types.
 *
 * Owns their byte layouts; the codebooks are in iq_grids.c. As in unpack.c, scale is computed with the float operations of the
 * type's formula in its order. These types have no mins.
 *
 * IQ2 and IQ3: q = +-magnitude. Magnitudes are copied from the codebook row by row, signs become bytes of 0 or -1, and one
 * loop over the block, which vectorizes, combines them.
 */
#include <string.h>

#include "half.h"
#include "iq_grids.h"
#include "unpack.h"

/* IQ4: the nibbles of 16 bytes -> 32 values, the low nibbles first. One look-up gives the values of both nibbles of a byte. */
static inline void iq4_values(const uint8_t *restrict qs, int8_t *restrict q)
{
    int8_t pairs[32];
    for (int i = 0; i < 16; i++) memcpy(pairs + 2 * i, eg_iq4_pairs[qs[i]], 2);
    for (int i = 0; i < 16; i++) {
        q[i] = pairs[2 * i];
        q[i + 16] = pairs[2 * i + 1];
    }
}

/* An e2m1 number times two, which makes it an integer: 0 1 2 3 4 6 8 12, negative with bit 3. Computed instead of looked up,
 * since that vectorizes. */
static inline int8_t fp4_value(uint8_t code)
{
    uint8_t m = code & 7, sign = code > 7 ? 255 : 0;
    uint8_t value = (uint8_t)(m + (m > 4 ? 1 : 0) + (m > 5 ? 1 : 0) + (m > 6 ? 3 : 0));
    return (int8_t)(uint8_t)((value ^ sign) - sign);
}

/* d f16, qs[16]: d * value */
void eg_unpack_iq4_nl(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    (void)min;
    const uint8_t *b = blocks;
    for (int64_t k = 0; k < n / 32; k++, b += 18, q += 32) {
        scale[k] = eg_half_to_float(eg_load_u16(b));
        iq4_values(b + 2, q);
    }
}

/* d f16, sh u16, sl[4], qs[128]: d * (S - 32) * value, one 6-bit S per 32 values: nibble j of sl, two bits of sh. */
void eg_unpack_iq4_xs(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    (void)min;
    const uint8_t *b = blocks;
    for (int64_t k = 0; k < n / 256; k++, b += 136, scale += 8) {
        float d = eg_half_to_float(eg_load_u16(b));
        int high = eg_load_u16(b + 2);
        for (int j = 0; j < 8; j++, q += 32) {
            int s = (b[4 + j / 2] >> 4 * (j % 2) & 15) | (high >> 2 * j & 3) << 4;
            scale[j] = d * (float)(s - 32);
            iq4_values(b + 8 + 16 * j, q);
        }
    }
}

/* e u8, qs[16]: 2^(e - 128) * doubled value. The two smallest powers are subnormal floats; e = 255 is not special. */
void eg_unpack_mxfp4(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    (void)min;
    const uint8_t *b = blocks;
    for (int64_t k = 0; k < n / 32; k++, b += 17, q += 32) {
        uint32_t e = b[0];
        scale[k] = eg_bits_to_float(e < 2 ? 0x200000u << e : (e - 1) << 23);
        const uint8_t *qs = b + 1;
        for (int i = 0; i < 16; i++) {
            q[i] = fp4_value(qs[i] & 15);
            q[i + 16] = fp4_value(qs[i] >> 4);
        }
    }
}

/* The 256 values of a block from their magnitudes and signs; bit i of signs[k] is the sign of value 8 k + i. */
static inline void apply_signs(const uint8_t *restrict magnitude, const uint8_t *restrict signs, int8_t *restrict q)
{
    uint8_t mask[256];
    for (int k = 0; k < 32; k++) memcpy(mask + 8 * k, eg_bit_masks[signs[k]], 8);
    for (int i = 0; i < 256; i++) q[i] = (int8_t)(uint8_t)((magnitude[i] ^ mask[i]) - mask[i]);
}

/* The sign bits of 32 values, from a word with four 7-bit sign indices. Returns its other four bits, the scale. */
static inline int signs_and_scale(const uint8_t *restrict p, uint8_t *restrict signs)
{
    uint32_t word = eg_load_u16(p) | (uint32_t)eg_load_u16(p + 2) << 16;
    for (int k = 0; k < 4; k++) signs[k] = eg_even_signs[word >> 7 * k & 127];
    return (int)(word >> 28);
}

/* d f16, then per 32 values: four row numbers u8, one word of signs and scale: d * (0.5 + s) / 4 * (+-row) */
void eg_unpack_iq2_xxs(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    (void)min;
    const uint8_t *b = blocks;
    for (int64_t k = 0; k < n / 256; k++, b += 66, q += 256, scale += 8) {
        float d = eg_half_to_float(eg_load_u16(b));
        uint8_t magnitude[256], signs[32];
        for (int j = 0; j < 8; j++) {
            const uint8_t *p = b + 2 + 8 * j;
            int s = signs_and_scale(p + 4, signs + 4 * j);
            scale[j] = d * (0.5f + (float)s) * 0.25f;
            for (int i = 0; i < 4; i++) memcpy(magnitude + 32 * j + 8 * i, eg_grid_iq2_xxs[p[i]], 8);
        }
        apply_signs(magnitude, signs, q);
    }
}

/* d f16, qs u16[32], sc[8]: d * (0.5 + s) / 4 * (+-row), s a nibble of sc per 16 values; a code has 9 bits of row
 * number and 7 of sign index. */
void eg_unpack_iq2_xs(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    (void)min;
    const uint8_t *b = blocks;
    for (int64_t k = 0; k < n / 256; k++, b += 74, q += 256, scale += 16) {
        float d = eg_half_to_float(eg_load_u16(b));
        uint8_t magnitude[256], signs[32];
        for (int j = 0; j < 16; j++) scale[j] = d * (0.5f + (float)(b[66 + j / 2] >> 4 * (j % 2) & 15)) * 0.25f;
        for (int i = 0; i < 32; i++) {
            uint32_t code = eg_load_u16(b + 2 + 2 * i);
            memcpy(magnitude + 8 * i, eg_grid_iq2_xs[code & 511], 8);
            signs[i] = eg_even_signs[code >> 9];
        }
        apply_signs(magnitude, signs, q);
    }
}

/* d f16, qs[32], signs[32], qh[8], sc[8]: as IQ2_XS, with sign bits as they are; qh has the upper two bits of the row
 * numbers. */
void eg_unpack_iq2_s(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    (void)min;
    const uint8_t *b = blocks;
    for (int64_t k = 0; k < n / 256; k++, b += 82, q += 256, scale += 16) {
        float d = eg_half_to_float(eg_load_u16(b));
        const uint8_t *qs = b + 2, *qh = b + 66;
        uint8_t magnitude[256];
        for (int j = 0; j < 16; j++) scale[j] = d * (0.5f + (float)(b[74 + j / 2] >> 4 * (j % 2) & 15)) * 0.25f;
        for (int i = 0; i < 32; i++) memcpy(magnitude + 8 * i, eg_grid_iq2_s[qs[i] | (qh[i / 4] >> 2 * (i % 4) & 3) << 8], 8);
        apply_signs(magnitude, b + 34, q);
    }
}

/* d f16, qs[64], words u32[8]: d * (0.5 + s) / 2 * (+-row), rows of four values, signs and scale as in IQ2_XXS. */
void eg_unpack_iq3_xxs(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    (void)min;
    const uint8_t *b = blocks;
    for (int64_t k = 0; k < n / 256; k++, b += 98, q += 256, scale += 8) {
        float d = eg_half_to_float(eg_load_u16(b));
        uint8_t magnitude[256], signs[32];
        for (int j = 0; j < 8; j++) scale[j] = d * (0.5f + (float)signs_and_scale(b + 66 + 4 * j, signs + 4 * j)) * 0.5f;
        for (int i = 0; i < 64; i++) memcpy(magnitude + 4 * i, eg_grid_iq3_xxs[b[2 + i]], 4);
        apply_signs(magnitude, signs, q);
    }
}

/* d f16, qs[64], qh[8], signs[32], sc[4]: d * (1 + 2 s) * (+-row), s a nibble of sc per 32 values; qh has the ninth
 * bit of the row numbers. */
void eg_unpack_iq3_s(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    (void)min;
    const uint8_t *b = blocks;
    for (int64_t k = 0; k < n / 256; k++, b += 110, q += 256, scale += 8) {
        float d = eg_half_to_float(eg_load_u16(b));
        const uint8_t *qs = b + 2, *qh = b + 66;
        uint8_t magnitude[256];
        for (int j = 0; j < 8; j++) scale[j] = d * (float)(1 + 2 * (b[106 + j / 2] >> 4 * (j % 2) & 15));
        for (int i = 0; i < 64; i++) memcpy(magnitude + 4 * i, eg_grid_iq3_s[qs[i] | (qh[i / 8] >> i % 8 & 1) << 8], 4);
        apply_signs(magnitude, b + 74, q);
    }
}

/* `count` ternary digits of each of `run` bytes, as runs of values: first the first digits of all bytes, then the second ones.
 * A byte is a fraction of 256. Digit k is the integer part of three times the fraction that is left after k multiplications by
 * three. */
static inline int8_t *digits(const uint8_t *restrict p, int run, int count, int8_t *restrict q)
{
    static const uint8_t powers[5] = {1, 3, 9, 27, 81};
    for (int k = 0; k < count; k++, q += run)
        for (int i = 0; i < run; i++) q[i] = (int8_t)(((uint8_t)(p[i] * powers[k]) * 3 >> 8) - 1);
    return q;
}

/* qs[48], qh[4], d f16: d * (digit - 1); five digits in each byte of qs, in runs of 32 and of 16, four in those of
 * qh. */
void eg_unpack_tq1_0(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    (void)min;
    const uint8_t *b = blocks;
    for (int64_t k = 0; k < n / 256; k++, b += 54, scale += 8) {
        float d = eg_half_to_float(eg_load_u16(b + 52));
        for (int j = 0; j < 8; j++) scale[j] = d;
        q = digits(b, 32, 5, q);
        q = digits(b + 32, 16, 5, q);
        q = digits(b + 48, 4, 4, q);
    }
}

/* qs[64], d f16: d * (n - 1); 32 bytes hold four runs of 32 values, two bits each. */
void eg_unpack_tq2_0(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    (void)min;
    const uint8_t *b = blocks;
    for (int64_t k = 0; k < n / 256; k++, b += 66, scale += 8) {
        float d = eg_half_to_float(eg_load_u16(b + 64));
        for (int j = 0; j < 8; j++) scale[j] = d;
        const uint8_t *qs = b;
        for (int h = 0; h < 2; h++, qs += 32, q += 128) {
            for (int l = 0; l < 32; l++) {
                q[l] = (int8_t)((qs[l] & 3) - 1);
                q[l + 32] = (int8_t)((qs[l] >> 2 & 3) - 1);
                q[l + 64] = (int8_t)((qs[l] >> 4 & 3) - 1);
                q[l + 96] = (int8_t)((qs[l] >> 6) - 1);
            }
        }
    }
}
