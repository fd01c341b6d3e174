/* AVX2 with F16C (x86 processors since 2013): sixteen lanes are two registers. */
#include "internal.h"

#if defined(__x86_64__)
#include "x86.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,f16c")
#endif

/* ---- floats ------------------------------------------------------------------------------------------------------ */

typedef struct vec { __m256 a, b; } vec;



EG_INLINE vec vec_load(const void *p)
{
    const float *f = p;
    return (vec){_mm256_loadu_ps(f), _mm256_loadu_ps(f + 8)};
}

EG_INLINE vec vec_load_half(const void *p)
{
    const __m128i *h = p;
    return (vec){_mm256_cvtph_ps(_mm_loadu_si128(h)), _mm256_cvtph_ps(_mm_loadu_si128(h + 1))};
}

EG_INLINE __m256 bf16_to_floats(__m128i h) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)); }
EG_INLINE vec vec_load_bf16(const void *p)
{
    const __m128i *h = p;
    return (vec){bf16_to_floats(_mm_loadu_si128(h)), bf16_to_floats(_mm_loadu_si128(h + 1))};
}

EG_INLINE vec vec_load_i8(const void *p)
{
    __m128i q = _mm_loadu_si128(p);
    return (vec){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)),
                 _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(q, 8)))};
}

EG_INLINE void vec_store(void *p, vec x)
{
    float *f = p;
    _mm256_storeu_ps(f, x.a);
    _mm256_storeu_ps(f + 8, x.b);
}

EG_INLINE void vec_store_half(void *p, vec x)
{
    __m128i *h = p;
    _mm_storeu_si128(h, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128(h + 1, _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

EG_INLINE vec vec_set(float f) { return (vec){_mm256_set1_ps(f), _mm256_set1_ps(f)}; }
EG_INLINE vec vec_add(vec x, vec y) { return (vec){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
EG_INLINE vec vec_sub(vec x, vec y) { return (vec){_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
EG_INLINE vec vec_mul(vec x, vec y) { return (vec){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
EG_INLINE vec vec_div(vec x, vec y) { return (vec){_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
EG_INLINE vec vec_max(vec x, vec y) { return (vec){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
EG_INLINE vec vec_min(vec x, vec y) { return (vec){_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }

EG_INLINE vec vec_if_gt(vec x, vec y, vec yes, vec no)
{
    return (vec){_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ)),
                 _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ))};
}

EG_INLINE __m256 power(__m256 k)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_castps_si256(k), _mm256_set1_epi32(126)), 23));
}
EG_INLINE vec vec_power(vec x) { return (vec){power(x.a), power(x.b)}; }

EG_INLINE float vec_sum(vec x)
{
    __m256 b = _mm256_add_ps(x.a, x.b);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}

EG_INLINE float vec_max_across(vec x)
{
    __m256 b = _mm256_max_ps(x.a, x.b);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}

EG_INLINE int vec_store_i8(int8_t *q, vec x)
{
    __m256i a = _mm256_cvtps_epi32(x.a), b = _mm256_cvtps_epi32(x.b);
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
    __m128i low = _mm256_castsi256_si128(words), high = _mm256_extracti128_si256(words, 1);
    _mm_storeu_si128((__m128i *)q, _mm_packs_epi16(low, high));
    __m256i sums = _mm256_madd_epi16(words, _mm256_set1_epi16(1));
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

enum { EG_BLOCK_ROWS = 2, EG_BLOCK_COLS = 2 };
#include "lanes.inc"

/* ---- integers ---------------------------------------------------------------------------------------------------- */

typedef struct ints { __m256i a, b; } ints;

EG_INLINE ints ints_load(const void *p)
{
    const __m256i *q = p;
    return (ints){_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}

EG_INLINE void ints_store(void *p, ints v)
{
    __m256i *q = p;
    _mm256_storeu_si256(q, v.a);
    _mm256_storeu_si256(q + 1, v.b);
}

EG_INLINE ints ints_set8(int v) { return (ints){_mm256_set1_epi8((char)v), _mm256_set1_epi8((char)v)}; }
EG_INLINE ints ints_set32(int v) { return (ints){_mm256_set1_epi32(v), _mm256_set1_epi32(v)}; }
EG_INLINE ints ints_and(ints x, ints y) { return (ints){_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
EG_INLINE ints ints_or(ints x, ints y) { return (ints){_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
EG_INLINE ints ints_xor(ints x, ints y) { return (ints){_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)}; }

EG_INLINE ints ints_add(ints x, ints y) { return (ints){_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
EG_INLINE ints ints_lookup(const int8_t table[16], ints v)
{
    __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));
    return (ints){_mm256_shuffle_epi8(t, v.a), _mm256_shuffle_epi8(t, v.b)};
}

EG_INLINE ints ints_left(ints v, int n)
{
    __m128i count = _mm_cvtsi32_si128(n);
    return (ints){_mm256_sll_epi32(v.a, count), _mm256_sll_epi32(v.b, count)};
}

EG_INLINE ints ints_right(ints v, int n)
{
    __m128i count = _mm_cvtsi32_si128(n);
    return (ints){_mm256_srl_epi32(v.a, count), _mm256_srl_epi32(v.b, count)};
}

EG_INLINE ints ints_right_signed(ints v, int n)
{
    __m128i count = _mm_cvtsi32_si128(n);
    return (ints){_mm256_sra_epi32(v.a, count), _mm256_sra_epi32(v.b, count)};
}

EG_INLINE vec ints_to_vec(ints v) { return (vec){_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)}; }

/* The low words of eight lanes. */
EG_INLINE __m128i low_words(__m256i v)
{
    v = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(v, v), 0xd8));
}

EG_INLINE vec halves_to_vec(ints v) { return (vec){_mm256_cvtph_ps(low_words(v.a)), _mm256_cvtph_ps(low_words(v.b))}; }

/* Pairs of products of an unsigned and a signed byte are added in 16 bits: enough while weights stay below 128. Wide
 * weights go in as |w|, and their sign to x: 128 * 127 * 2 just fits. */
EG_INLINE __m256i dot_half(__m256i acc, __m256i w, __m256i x, const bool wide)
{
    __m256i pairs = wide ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)) : _mm256_maddubs_epi16(w, x);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

EG_INLINE ints ints_dot(ints acc, ints w, int32_t x, const bool wide)
{
    __m256i words = _mm256_set1_epi32(x);
    return (ints){dot_half(acc.a, w.a, words, wide), dot_half(acc.b, w.b, words, wide)};
}

EG_INLINE ints ints_dot_short(ints acc, ints w, int32_t x)
{
    __m256i words = _mm256_set1_epi32(x);
    return (ints){_mm256_add_epi16(acc.a, _mm256_maddubs_epi16(w.a, words)),
                  _mm256_add_epi16(acc.b, _mm256_maddubs_epi16(w.b, words))};
}

EG_INLINE ints ints_widen(ints acc, ints pairs)
{
    __m256i one = _mm256_set1_epi16(1);
    return (ints){_mm256_add_epi32(acc.a, _mm256_madd_epi16(pairs.a, one)),
                  _mm256_add_epi32(acc.b, _mm256_madd_epi16(pairs.b, one))};
}

/* Eight rows: rows i and i + 4 in the halves of in[i]; transposing the halves puts the rows in order. */
EG_INLINE void gather_half(const uint8_t *p, size_t stride, __m256i out[4])
{
    __m256i in[4];
    EG_UNROLL
    for (int i = 0; i < 4; i++) {
        const uint8_t *row = p + (size_t)i * stride;
        in[i] = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)row));
        in[i] = _mm256_inserti128_si256(in[i], _mm_loadu_si128((const __m128i *)(row + 4 * stride)), 1);
    }
    __m256i a = _mm256_unpacklo_epi32(in[0], in[1]), b = _mm256_unpackhi_epi32(in[0], in[1]);
    __m256i c = _mm256_unpacklo_epi32(in[2], in[3]), d = _mm256_unpackhi_epi32(in[2], in[3]);
    out[0] = _mm256_unpacklo_epi64(a, c);
    out[1] = _mm256_unpackhi_epi64(a, c);
    out[2] = _mm256_unpacklo_epi64(b, d);
    out[3] = _mm256_unpackhi_epi64(b, d);
}

EG_INLINE void ints_gather(const uint8_t *p, size_t stride, ints out[4])
{
    __m256i a[4], b[4];
    gather_half(p, stride, a);
    gather_half(p + 8 * stride, stride, b);
    EG_UNROLL
    for (int i = 0; i < 4; i++)
        out[i] = (ints){a[i], b[i]};
}

EG_INLINE ints bytes_gather2(const uint8_t *p, size_t stride)
{
    __m256i words = eg_gather_16_words(p, stride);
    return (ints){_mm256_cvtepu16_epi32(_mm256_castsi256_si128(words)),
                  _mm256_cvtepu16_epi32(_mm256_extracti128_si256(words, 1))};
}

enum { WIDE_BIAS = 0, SHORT_SUMS = 1, MAX_TOKENS = 4 };
#include "tiles.inc"

const eg_kernels eg_kernels_avx2 = {
    "avx2", quantize_q8, matmul_q8, matmul_float, rms_norm, gelu_mul, sigmoid_mul, softcap, kv_store, attention,
};

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
