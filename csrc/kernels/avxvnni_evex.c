/* The set "avxvnni" with the VNNI dot product in its EVEX encoding (AVX-512), on 256-bit registers. It serves processors that
 * lower their clock for 512-bit registers, and lets machines without AVX-VNNI test the same code. */
#include "internal.h"

#if defined(__x86_64__)
#include "x86.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512vl,avx512vnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512vl,avx512vnni")
#endif

#define EG_DPBUSD _mm256_dpbusd_epi32
#define EG_DPWSSD _mm256_dpwssd_epi32
#include "vnni256.inc"

EG_KERNEL_SET(eg_kernels_avxvnni_evex, "avxvnni");

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
