/* The set "neon_dotprod": NEON with int8 dot products (Armv8.2: Cortex-A76 of a Raspberry Pi 5, phones since 2018, every Apple
 * chip). Sixteen lanes are four registers. Its tiles have the usual order (tiles.inc). */
#include "internal.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

#define EG_ALONG_TOKENS 4
#include "neon.inc"

/* dot[i][r] += columns 4 c .. 4 c + 15 of the rows 4 r .. 4 r + 3 at w times the 16 activations x[i]; `vectors` vectors of four
 * rows. */
EG_INLINE void add_16_columns(int32x4_t dot[][4], const int tokens, const int vectors, const uint8_t *w, const int8x16_t *x)
{
#define ADD_4_COLUMNS(c) \
    do { \
        LOADS_STAY_BEHIND(); \
        EG_UNROLL \
        for (int r = 0; r < vectors; r++) { \
            int8x16_t rows = vreinterpretq_s8_u8(vld1q_u8(w + (c) * 64 + r * 16)); \
            EG_UNROLL \
            for (int i = 0; i < tokens; i++) dot[i][r] = vdotq_laneq_s32(dot[i][r], rows, x[i], c); \
        } \
    } while (0)
    ADD_4_COLUMNS(0);
    ADD_4_COLUMNS(1);
    ADD_4_COLUMNS(2);
    ADD_4_COLUMNS(3);
#undef ADD_4_COLUMNS
}

/* neon_multiply.inc says what this sums up. */
EG_INLINE void sum_columns(int32x4_t dot[][4], const int tokens, const int vectors, const int first, const uint8_t *w,
                           const int8_t *const *q, int64_t at, const int group, const int *start, const bool more)
{
    EG_UNROLL
    for (int i = 0; i < tokens; i++) {
        EG_UNROLL
        for (int r = 0; r < vectors; r++) dot[i][r] = more ? dot[i][r] : lanes_from_integer(start[i]);
    }
    EG_UNROLL
    for (int c = 0; c < group; c += 16) {
        int8x16_t x[MAX_TOKENS];
        LOADS_STAY_BEHIND();
        EG_UNROLL
        for (int i = 0; i < tokens; i++) x[i] = vld1q_s8(q[i] + at + c);
        add_16_columns(dot, tokens, vectors, w + c * EG_ROW_TILE + first * 4, x);
    }
}

#define EG_OWN_MULTIPLY "neon_multiply.inc"

#include "tiles.inc"

enum { UNIT = 4, LANE_BYTES = 4, PANEL_ROWS = 4, REGISTERS = 4, MOST_OF_ONE = 4 };

EG_INLINE void join_unit(uint8_t *to, ints a, ints b)
{
    (void)b;
    ints_store(to, a);
}

EG_INLINE void add_products(int32x4_t *dot, const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes, int64_t units,
                            const int rows)
{
    for (; units > 0; units--, a += a_bytes, b += b_bytes) {
        int8x16_t four = rows > 1 ? vld1q_s8((const int8_t *)a) : vreinterpretq_s8_s32(vld1q_dup_s32((const int32_t *)a));
        EG_UNROLL
        EACH
        {
            int8x16_t lanes = vld1q_s8((const int8_t *)b + 16 * i);
            dot[i] = vdotq_laneq_s32(dot[i], lanes, four, 0);
            if (rows == 1) continue;
            dot[4 + i] = vdotq_laneq_s32(dot[4 + i], lanes, four, 1);
            dot[8 + i] = vdotq_laneq_s32(dot[8 + i], lanes, four, 2);
            dot[12 + i] = vdotq_laneq_s32(dot[12 + i], lanes, four, 3);
        }
    }
}

EG_INLINE ints order_sums(const int32x4_t *dot, const int r)
{
    ints y;
    EG_UNROLL
    EACH y.v[i] = vreinterpretq_u8_s32(dot[4 * r + i]);
    return y;
}

#include "neon_panels.inc"

EG_KERNEL_SET(eg_kernels_neon_dotprod, "neon_dotprod");

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
