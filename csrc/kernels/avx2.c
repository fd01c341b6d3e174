/* The set "avx2": AVX2, FMA and F16C (x86 processors since 2013). Sixteen lanes are two registers. Owns the integer dot
 * products of AVX2; everything else is in avx256.inc and the files that it includes. */
#include "internal.h"

#if defined(__x86_64__)
#include "x86.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#include "avx256.inc"

/* maddubs multiplies unsigned by signed bytes and adds pairs of products in 16 bits, which fit while weights are below 128.
 * For int8 weights the unsigned factor is |w|, and x takes the sign of w: at most 128 * 127 * 2, which still fits. */
EG_INLINE __m256i dot_half(__m256i acc, __m256i w, __m256i x, const bool int8_weights)
{
    __m256i pairs = int8_weights ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
                                 : _mm256_maddubs_epi16(w, x);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

EG_INLINE ints ints_dot(ints acc, ints w, const int8_t *x, int c, const bool int8_weights)
{
    __m256i words = _mm256_set1_epi32(eg_int_at(x, c));
    return (ints){dot_half(acc.a, w.a, words, int8_weights), dot_half(acc.b, w.b, words, int8_weights)};
}

EG_INLINE ints ints_dot_i16(ints acc, ints w, const int8_t *x, int c)
{
    __m256i words = _mm256_set1_epi32(eg_int_at(x, c));
    return (ints){_mm256_add_epi16(acc.a, _mm256_maddubs_epi16(w.a, words)),
                  _mm256_add_epi16(acc.b, _mm256_maddubs_epi16(w.b, words))};
}

EG_INLINE ints ints_widen(ints acc, ints pairs)
{
    __m256i one = _mm256_set1_epi16(1);
    return (ints){_mm256_add_epi32(acc.a, _mm256_madd_epi16(pairs.a, one)),
                  _mm256_add_epi32(acc.b, _mm256_madd_epi16(pairs.b, one))};
}

EG_INLINE ints ints_along(ints acc, ints w, ints x)
{
    return (ints){_mm256_add_epi16(acc.a, _mm256_maddubs_epi16(w.a, x.a)),
                  _mm256_add_epi16(acc.b, _mm256_maddubs_epi16(w.b, x.b))};
}

EG_INLINE __m256i along_half(__m256i acc, __m256i w, __m256i x)
{
    __m256i low = _mm256_madd_epi16(_mm256_cvtepi8_epi16(_mm256_castsi256_si128(w)),
                                    _mm256_cvtepi8_epi16(_mm256_castsi256_si128(x)));
    __m256i high = _mm256_madd_epi16(_mm256_cvtepi8_epi16(_mm256_extracti128_si256(w, 1)),
                                     _mm256_cvtepi8_epi16(_mm256_extracti128_si256(x, 1)));
    return _mm256_add_epi32(acc, _mm256_add_epi32(low, high));
}

EG_INLINE ints ints_along_int8(ints acc, ints w, ints x)
{
    return (ints){along_half(acc.a, w.a, x.a), along_half(acc.b, w.b, x.b)};
}

enum { INT8_BIAS = 0, I16_SUMS = 1, MAX_TOKENS = 4 };
#define EG_GEMV_TOKENS 2
#include "tiles.inc"

EG_INLINE ints ints_dot_pairs(ints acc, ints w, int32_t pair)
{
    __m256i both = _mm256_set1_epi32(pair);
    acc.a = _mm256_add_epi32(acc.a, _mm256_madd_epi16(w.a, both));
    acc.b = _mm256_add_epi32(acc.b, _mm256_madd_epi16(w.b, both));
    EG_SUM_IN_PLACE(acc.a);
    EG_SUM_IN_PLACE(acc.b);
    return acc;
}

enum { PANEL_ROWS = 4, PANEL_VECTORS = 1 };
#include "panels.inc"

EG_KERNEL_SET(eg_kernels_avx2, "avx2");

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
