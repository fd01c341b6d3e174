/* NEON with dot products (Armv8.2: Cortex-A76 of a Raspberry Pi 5, every phone since 2018, every Apple chip): sixteen
 * lanes are four registers. */
#include "internal.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

#include "neon.inc"

#define DOTS(word) EACH acc.v[i] = dot_word(acc.v[i], w.v[i], words, word)
#define dot_word(acc, w, x, word) \
    vreinterpretq_u8_s32(vdotq_laneq_s32(vreinterpretq_s32_u8(acc), vreinterpretq_s8_u8(w), x, word))

/* Weights are signed bytes here; those below 128 are the same unsigned. Four words of x are loaded at once, and the
 * instruction picks one, which must be a literal. */
EG_INLINE ints ints_dot(ints acc, ints w, const int8_t *x, const int c, const bool wide)
{
    int8x16_t words = vld1q_s8(x + (c & ~3) * 4);
    (void)wide;
    if (c % 4 == 0)
        DOTS(0);
    else if (c % 4 == 1)
        DOTS(1);
    else if (c % 4 == 2)
        DOTS(2);
    else
        DOTS(3);
    return acc;
}

enum { WIDE_BIAS = 0, SHORT_SUMS = 0, MAX_TOKENS = 4 };
EG_INLINE ints ints_dot_short(ints acc, ints w, const int8_t *x, int c) { return ints_dot(acc, w, x, c, false); }
EG_INLINE ints ints_widen(ints acc, ints pairs) { (void)pairs; return acc; }
#include "tiles.inc"

const eg_kernels eg_kernels_neon_dotprod = {
    "neon_dotprod", quantize_q8, matmul_q8, matmul_float, rms_norm, gelu_mul, sigmoid_mul, softcap, kv_store, attention,
    quantize_i8, matmul_i8, snap_i8,
};

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
