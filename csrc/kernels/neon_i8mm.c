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

#define EG_ALONG_TOKENS 2
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

/* a, b, a, b in the lanes, moved from an integer register as by lanes_from_integer. */
EG_INLINE int32x4_t pairs_from_integers(int a, int b)
{
    const uint64_t both = (uint32_t)a | (uint64_t)(uint32_t)b << 32;
    int32x4_t lanes;
    __asm__ volatile("dup %0.2d, %x1" : "=w"(lanes) : "r"(both));
    return lanes;
}

/* The sums of one token; neon_multiply.inc says of what. */
EG_INLINE void sum_columns_one(int32x4_t *dot, const int vectors, const uint8_t *w, const int8_t *q, const int group, int start,
                               const bool more)
{
    int32x4_t halves[8];                                     /* of two rows each */
    EG_UNROLL
    for (int j = 0; j < 2 * vectors; j++) halves[j] = pairs_from_integers(more ? 0 : start, 0);
    EG_UNROLL
    for (int c = 0; c < group / 8; c++) {
        int8x16_t x = vcombine_s8(vld1_s8(q + 8 * c), vld1_s8(q + 8 * c));
        EG_UNROLL
        for (int j = 0; j < 2 * vectors; j++)
            halves[j] = vdotq_s32(halves[j], vreinterpretq_s8_u8(vld1q_u8(w + c * 128 + j * 16)), x);
    }
    EG_UNROLL
    for (int r = 0; r < vectors; r++) {
        int32x4_t rows = vpaddq_s32(halves[2 * r], halves[2 * r + 1]);
        dot[r] = more ? vaddq_s32(dot[r], rows) : rows;
    }
}

/* The sums of two tokens. The four lanes of a product are row 0 token 0, row 0 token 1, row 1 token 0 and row 1 token 1. */
EG_INLINE void start_pair(int32x4_t *product, int32x4_t dot[][4], const int vectors, const int *start, const bool more)
{
    EG_UNROLL
    for (int r = 0; r < vectors; r++) {
        product[2 * r] = more ? vzip1q_s32(dot[0][r], dot[1][r]) : pairs_from_integers(start[0], start[1]);
        product[2 * r + 1] = more ? vzip2q_s32(dot[0][r], dot[1][r]) : pairs_from_integers(start[0], start[1]);
    }
}

/* The sums of an even number of tokens. */
EG_INLINE void sum_columns_in_pairs(int32x4_t dot[][4], const int tokens, const int vectors, const uint8_t *w,
                                    const int8_t *const *q, int64_t at, const int group, const int *start, const bool more)
{
    enum { PAIRS = MAX_TOKENS / 2 };
    int32x4_t product[PAIRS][8];                             /* of two rows each */
    EG_UNROLL
    for (int t = 0; t < tokens / 2; t++) start_pair(product[t], dot + 2 * t, vectors, start + 2 * t, more);
    EG_UNROLL
    for (int c = 0; c < group; c += 16) {
        int8x16_t x[PAIRS][2];                               /* two steps of eight columns */
        if (vectors * tokens > 8) LOADS_STAY_BEHIND();
        EG_UNROLL
        for (int t = 0; t < tokens / 2; t++) {
            int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(q[2 * t] + at + c));
            int64x2_t b = vreinterpretq_s64_s8(vld1q_s8(q[2 * t + 1] + at + c));
            x[t][0] = vreinterpretq_s8_s64(vzip1q_s64(a, b));
            x[t][1] = vreinterpretq_s8_s64(vzip2q_s64(a, b));
        }
        EG_UNROLL
        for (int half = 0; half < 2; half++) {
            if (vectors * tokens > 8) LOADS_STAY_BEHIND();
            EG_UNROLL
            for (int j = 0; j < 2 * vectors; j++) {
                int8x16_t rows = vreinterpretq_s8_u8(vld1q_u8(w + c * EG_ROW_TILE + half * 128 + j * 16));
                EG_UNROLL
                for (int t = 0; t < tokens / 2; t++) product[t][j] = vmmlaq_s32(product[t][j], rows, x[t][half]);
            }
        }
    }
    EG_UNROLL
    for (int t = 0; t < tokens / 2; t++) {
        EG_UNROLL
        for (int r = 0; r < vectors; r++) {
            dot[2 * t][r] = vuzp1q_s32(product[t][2 * r], product[t][2 * r + 1]);
            dot[2 * t + 1][r] = vuzp2q_s32(product[t][2 * r], product[t][2 * r + 1]);
        }
    }
}

/* Weights are signed bytes here; codes below 128 are the same signed and unsigned. */
EG_INLINE void sum_columns(int32x4_t dot[][4], const int tokens, const int vectors, const int first, const uint8_t *w,
                           const int8_t *const *q, int64_t at, const int group, const int *start, const bool more)
{
    if (tokens == 1) sum_columns_one(dot[0], vectors, w + first * 8, q[0] + at, group, start[0], more);
    else sum_columns_in_pairs(dot, tokens, vectors, w + first * 8, q, at, group, start, more);
}

EG_INLINE void add_dots(ints *dot, const int tokens, const uint8_t *w, const int8_t *const *q, int64_t k, const int group,
                        const bool int8_weights)
{
    const int start[MAX_TOKENS] = {0};
    int32x4_t sums[MAX_TOKENS][4];
    (void)int8_weights;
    EG_UNROLL
    for (int t = 0; t < tokens; t++) {
        EG_UNROLL
        EACH sums[t][i] = vreinterpretq_s32_u8(dot[t].v[i]);
    }
    sum_columns(sums, tokens, 4, 0, w, q, k, group, start, true);
    EG_UNROLL
    for (int t = 0; t < tokens; t++) {
        EG_UNROLL
        EACH dot[t].v[i] = vreinterpretq_u8_s32(sums[t][i]);
    }
}

#define EG_OWN_MULTIPLY "neon_multiply.inc"

#define EG_OWN_TILES
#include "tiles.inc"

/* A register holds a unit of two rows, and a product of two registers four sums: two for each of its rows of A. A row alone is
 * multiplied together with a row of zeros. */
enum { UNIT = 8, LANE_BYTES = 8, PANEL_ROWS = 4, REGISTERS = 4, MOST_OF_ONE = 8 };

EG_INLINE void join_unit(uint8_t *to, ints a, ints b) { tile_store(to, a, b); }

EG_INLINE void add_products(int32x4_t *dot, const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes, int64_t units,
                            const int rows)
{
    const int pairs = (rows + 1) / 2;
    for (; units > 0; units--, a += a_bytes, b += b_bytes) {
        int8x16_t two[PANEL_ROWS / 2];
        EG_UNROLL
        for (int p = 0; p < pairs; p++)
            two[p] = rows > 1 ? vld1q_s8((const int8_t *)a + 16 * p) : vcombine_s8(vld1_s8((const int8_t *)a), vdup_n_s8(0));
        EG_UNROLL
        for (int i = 0; i < 8; i++) {
            int8x16_t lanes = vld1q_s8((const int8_t *)b + 16 * i);
            EG_UNROLL
            for (int p = 0; p < pairs; p++) dot[8 * p + i] = vmmlaq_s32(dot[8 * p + i], two[p], lanes);
        }
    }
}

EG_INLINE ints order_sums(const int32x4_t *dot, const int r)
{
    ints y;
    EG_UNROLL
    EACH
    {
        const int at = r / 2 * 8 + 2 * i;
        int64x2_t a = vreinterpretq_s64_s32(dot[at]), b = vreinterpretq_s64_s32(dot[at + 1]);
        y.v[i] = vreinterpretq_u8_s64(r % 2 ? vzip2q_s64(a, b) : vzip1q_s64(a, b));
    }
    return y;
}

#include "neon_panels.inc"

EG_KERNEL_SET(eg_kernels_neon_i8mm, "neon_i8mm");

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
