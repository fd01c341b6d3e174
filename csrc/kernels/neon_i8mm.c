/* The set "neon_i8mm": NEON with int8 matrix products (Armv8.6: Apple M2, Graviton3, Cortex-A510, A710, X2 and later).
 *
 * One instruction multiplies eight columns of two rows by eight columns of two tokens. So a register of a tile holds eight
 * columns of two rows, and the order of a tile is [columns / 8][16 rows][8]. For a single token, dot products work on the same
 * tile: they add up four columns each, and the two halves of a row's sum are added at the end of the group.
 */
#include "internal.h"

#if EG_COMPILES_I8MM
#include <arm_neon.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod,i8mm"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod+i8mm")
#endif

#include "neon.inc"

/* 16 columns are two steps of eight. Of each step, register j holds row 2 j in its lower half and row 2 j + 1 in its upper
 * half. */
EG_INLINE void tile_gather(const uint8_t *p, size_t stride, ints out[4])
{
    EG_UNROLL
    for (int j = 0; j < 8; j++) {
        const uint8_t *rows = p + (size_t)(2 * j) * stride;
        uint64x2_t a = vreinterpretq_u64_u8(vld1q_u8(rows)), b = vreinterpretq_u64_u8(vld1q_u8(rows + stride));
        out[j / 4].v[j % 4] = vreinterpretq_u8_u64(vzip1q_u64(a, b));
        out[j / 4 + 2].v[j % 4] = vreinterpretq_u8_u64(vzip2q_u64(a, b));
    }
}

EG_INLINE void tile_store(uint8_t *q, ints first, ints second)
{
    EG_UNROLL
    EACH
    {
        uint32x4_t a = vreinterpretq_u32_u8(first.v[i]), b = vreinterpretq_u32_u8(second.v[i]);
        vst1q_u8(q + 32 * i, vreinterpretq_u8_u32(vzip1q_u32(a, b)));
        vst1q_u8(q + 32 * i + 16, vreinterpretq_u8_u32(vzip2q_u32(a, b)));
    }
}

/* dot += a group of the tile times one token. */
EG_INLINE void add_dots_one_token(ints *dot, const uint8_t *w, const int8_t *q, const int group)
{
    int32x4_t halves[8];                                     /* of two rows each */
    EG_UNROLL
    for (int j = 0; j < 8; j++) halves[j] = vdupq_n_s32(0);
    EG_UNROLL
    for (int c = 0; c < group / 8; c++) {
        int8x16_t x = vcombine_s8(vld1_s8(q + 8 * c), vld1_s8(q + 8 * c));
        EG_UNROLL
        for (int j = 0; j < 8; j++) halves[j] = vdotq_s32(halves[j], vreinterpretq_s8_u8(vld1q_u8(w + c * 128 + j * 16)), x);
    }
    EG_UNROLL
    EACH
    {
        int32x4_t rows = vpaddq_s32(halves[2 * i], halves[2 * i + 1]);
        dot->v[i] = vreinterpretq_u8_s32(vaddq_s32(vreinterpretq_s32_u8(dot->v[i]), rows));
    }
}

/* The same for an even number of tokens, two at a time. The four lanes of a product are row 0 token 0, row 0 token 1, row 1
 * token 0 and row 1 token 1. */
EG_INLINE void add_dots_in_pairs(ints *dot, const int tokens, const uint8_t *w, const int8_t *const *q, int64_t k,
                                 const int group)
{
    enum { PAIRS = 2 };
    int32x4_t product[PAIRS][8];                             /* of two rows each */
    EG_UNROLL
    for (int t = 0; t < tokens / 2; t++) {
        EG_UNROLL
        EACH
        {
            int32x4_t a = vreinterpretq_s32_u8(dot[2 * t].v[i]), b = vreinterpretq_s32_u8(dot[2 * t + 1].v[i]);
            product[t][2 * i] = vzip1q_s32(a, b);
            product[t][2 * i + 1] = vzip2q_s32(a, b);
        }
    }
    EG_UNROLL
    for (int c = 0; c < group / 8; c += 2) {
        int8x16_t x[PAIRS][2];                               /* two steps of eight columns */
        EG_UNROLL
        for (int t = 0; t < tokens / 2; t++) {
            int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(q[2 * t] + k + 8 * c));
            int64x2_t b = vreinterpretq_s64_s8(vld1q_s8(q[2 * t + 1] + k + 8 * c));
            x[t][0] = vreinterpretq_s8_s64(vzip1q_s64(a, b));
            x[t][1] = vreinterpretq_s8_s64(vzip2q_s64(a, b));
        }
        EG_UNROLL
        for (int j = 0; j < 16; j++) {
            int8x16_t rows = vreinterpretq_s8_u8(vld1q_u8(w + c * 128 + j * 16));
            EG_UNROLL
            for (int t = 0; t < tokens / 2; t++) product[t][j % 8] = vmmlaq_s32(product[t][j % 8], rows, x[t][j / 8]);
        }
    }
    EG_UNROLL
    for (int t = 0; t < tokens / 2; t++) {
        EG_UNROLL
        EACH
        {
            int32x4_t a = product[t][2 * i], b = product[t][2 * i + 1];
            dot[2 * t].v[i] = vreinterpretq_u8_s32(vuzp1q_s32(a, b));
            dot[2 * t + 1].v[i] = vreinterpretq_u8_s32(vuzp2q_s32(a, b));
        }
    }
}

/* Weights are signed bytes here; codes below 128 are the same signed and unsigned. */
EG_INLINE void add_dots(ints *dot, const int tokens, const uint8_t *w, const int8_t *const *q, int64_t k, const int group,
                        const bool int8_weights)
{
    (void)int8_weights;
    if (tokens == 1) add_dots_one_token(dot, w, q[0] + k, group);
    else add_dots_in_pairs(dot, tokens, w, q, k, group);
}

#define EG_OWN_TILES
#include "tiles.inc"

EG_KERNEL_SET(eg_kernels_neon_i8mm, "neon_i8mm");

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
