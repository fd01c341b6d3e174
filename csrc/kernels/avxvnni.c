/* The set "avxvnni": AVX2 and the VNNI dot product in its VEX encoding (Alder Lake and later, Zen 5). */
#include "internal.h"

#if EG_COMPILES_AVXVNNI
#include "x86.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avxvnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avxvnni")
#endif

#define EG_DPBUSD _mm256_dpbusd_avx_epi32
#define EG_DPWSSD _mm256_dpwssd_avx_epi32
#include "vnni256.inc"

EG_KERNEL_SET(eg_kernels_avxvnni, "avxvnni");

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
