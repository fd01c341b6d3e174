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

enum { UNIT = 4, LANE_BYTES = 4, PANEL_ROWS = 4, PANEL_VECTORS = 1 };

EG_INLINE void unit_store(uint8_t *to, size_t plane, const ints *n)
{
    ints split[UNIT][PLANES];
    EG_UNROLL
    for (int u = 0; u < UNIT; u++) split_number(n[u], split[u]);
    EG_UNROLL
    for (int i = 0; i < PLANES; i++)
        ints_store(to + (size_t)i * plane, join_bytes(split[0][i], split[1][i], split[2][i], split[3][i]));
}

EG_INLINE void multiply_panels(ints *sum, const uint8_t *a, int64_t a_rows, size_t a_plane, const uint8_t *b, int64_t b_rows,
                               size_t b_plane, int64_t units, const int rows, const int vectors)
{
    int32x4_t dot[4 * PANEL_ROWS];
    (void)vectors;
    EG_UNROLL
    for (int i = 0; i < 4 * rows; i++) dot[i] = vdupq_n_s32(0);
    for (int plane = 0; plane < PLANES; plane++) {
        const uint8_t *w = a + (size_t)plane * a_plane, *x = b + (size_t)plane * b_plane;
        for (int64_t u = 0; u < units; u++, w += a_rows * LANE_BYTES, x += b_rows * LANE_BYTES) {
            int8x16_t four = rows == 4 ? vreinterpretq_s8_u8(vld1q_u8(w))
                                       : vreinterpretq_s8_s32(vld1q_dup_s32((const int32_t *)w));
            EG_UNROLL
            for (int i = 0; i < 4; i++) {
                int8x16_t lanes = vreinterpretq_s8_u8(vld1q_u8(x + 16 * i));
                dot[i] = vdotq_laneq_s32(dot[i], lanes, four, 0);
                if (rows < 4) continue;
                dot[4 + i] = vdotq_laneq_s32(dot[4 + i], lanes, four, 1);
                dot[8 + i] = vdotq_laneq_s32(dot[8 + i], lanes, four, 2);
                dot[12 + i] = vdotq_laneq_s32(dot[12 + i], lanes, four, 3);
            }
        }
        scale_sums(dot, 4 * rows, plane);
    }
    EG_UNROLL
    for (int r = 0; r < rows; r++) {
        EG_UNROLL
        EACH sum[r].v[i] = vreinterpretq_u8_s32(dot[4 * r + i]);
    }
}

#include "bidirectional.inc"

EG_KERNEL_SET(eg_kernels_neon_dotprod, "neon_dotprod");

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
