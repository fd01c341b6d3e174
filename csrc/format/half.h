/* Conversions between IEEE half floats and float32, inline for loops over blocks. Exact, or rounded to nearest even.
 *
 * Branch-free and in 32-bit lanes, so that a loop over them vectorizes without half-float instructions. Values below 2^-14 use
 * one float operation near 0.5, where the last bit of a float is worth 2^-24, the smallest step of a half. It involves no
 * subnormal float, so a flush-to-zero mode of the process cannot change the result. Results are selected with masks: a
 * compiler must not execute a float operation that a condition skips, so a condition would become a branch.
 */
#ifndef EG_FORMAT_HALF_H
#define EG_FORMAT_HALF_H

#include "../base/exact.h"

#include <stdint.h>
#include <string.h>

static inline float eg_bits_to_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t eg_float_to_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* The little-endian 16-bit word at p, any alignment. */
static inline uint16_t eg_load_u16(const uint8_t *p) { return (uint16_t)(p[0] | (uint32_t)p[1] << 8); }

static inline float eg_half_to_float(uint16_t h)
{
    uint32_t rest = h & 0x7fffu, sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t rebias = rest >= 0x7c00u ? 224u << 23 : 112u << 23;   /* infinities and NaN go to the top exponent */
    uint32_t normal = (rest << 13) + rebias;
    uint32_t small = eg_float_to_bits(eg_bits_to_float((126u << 23) + rest) - 0.5f);   /* rest * 2^-24 */
    uint32_t is_small = 0u - (rest < 0x400u);
    return eg_bits_to_float(sign | (small & is_small) | (normal & ~is_small));
}

static inline uint16_t eg_float_to_half(float f)
{
    uint32_t bits = eg_float_to_bits(f), rest = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
    /* Adding 0xfff plus the last kept bit rounds ties to even; a carry into the exponent is correct. */
    uint32_t normal = (rest + 0xfffu + (rest >> 13 & 1u) - (112u << 23)) >> 13;
    uint32_t small = eg_float_to_bits(eg_bits_to_float(rest) + 0.5f) - (126u << 23);
    uint32_t is_small = 0u - (rest < 113u << 23);
    uint32_t half = (small & is_small) | (normal & ~is_small);
    half = rest >= 0x477ff000u ? 0x7c00u : half;                   /* 65520 and above round to infinity */
    half = rest > 0x7f800000u ? 0x7e00u | (rest >> 13 & 0x3ffu) : half;
    return (uint16_t)(sign | half);
}

#endif
