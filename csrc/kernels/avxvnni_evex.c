/* The set "avxvnni" in AVX-512's encoding: for who wants 256 bits on a processor whose clock falls with 512, and so that
 * processors without AVX-VNNI can test the same code. */
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
#include "vnni256.inc"

EG_KERNEL_SET(eg_kernels_avxvnni_evex, "avxvnni");

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
