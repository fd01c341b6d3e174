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

#include "neon.inc"

#define EG_HAS_MULTIPLY
#include "neon_multiply.inc"

#include "tiles.inc"

EG_KERNEL_SET(eg_kernels_neon_dotprod, "neon_dotprod");

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
