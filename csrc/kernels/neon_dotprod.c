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
