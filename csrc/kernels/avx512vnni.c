/* The set "avx512vnni": AVX-512 with VNNI. Sixteen lanes are one register. In a matrix product each lane holds one row, and
 * one instruction multiplies four columns of all sixteen rows; it takes the weights as unsigned bytes. */
#include "internal.h"

#if defined(__x86_64__)
#include "x86.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512dq,avx512bw,avx512vl,avx512vnni"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512dq,avx512bw,avx512vl,avx512vnni")
#endif

typedef __m512 vec;

EG_INLINE vec vec_load(const void *p) { return _mm512_loadu_ps(p); }
EG_INLINE vec vec_load_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
EG_INLINE vec vec_load_bf16(const void *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
}
EG_INLINE vec vec_load_i8(const void *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p))); }
EG_INLINE void vec_store(void *p, vec a) { _mm512_storeu_ps(p, a); }
EG_INLINE void vec_store_f16(void *p, vec a)
{
    _mm256_storeu_si256(p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
EG_INLINE vec vec_set(float a) { return _mm512_set1_ps(a); }
EG_INLINE vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
EG_INLINE vec vec_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
EG_INLINE vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
EG_INLINE vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
EG_INLINE vec vec_div(vec a, vec b) { return _mm512_div_ps(a, b); }
EG_INLINE vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); }
EG_INLINE vec vec_min(vec a, vec b) { return _mm512_min_ps(a, b); }
EG_INLINE vec vec_if_gt(vec a, vec b, vec x, vec y) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), y, x); }
EG_INLINE vec vec_power(vec k)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_castps_si512(k), _mm512_set1_epi32(126)), 23));
}
EG_INLINE float vec_sum(vec a)
{
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
EG_INLINE float vec_max_across(vec a)
{
    __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}
EG_INLINE int vec_store_i8(int8_t *q, vec a)
{
    __m512i n = _mm512_cvtps_epi32(a);
    _mm_storeu_si128((__m128i *)q, _mm512_cvtepi32_epi8(n));
    return _mm512_reduce_add_epi32(n);
}

enum { EG_REGISTER_ROWS = 4, EG_REGISTER_COLS = 4, EG_F16_IN_PLACE = 1 };
#include "lanes.inc"

/* ---- integers ---------------------------------------------------------------------------------------------------- */

typedef __m512i ints;

EG_INLINE ints ints_load(const void *p) { return _mm512_loadu_si512(p); }
EG_INLINE void ints_store(void *p, ints v) { _mm512_storeu_si512(p, v); }
EG_INLINE ints ints_set8(int v) { return _mm512_set1_epi8((char)v); }
EG_INLINE ints ints_set32(int v) { return _mm512_set1_epi32(v); }
EG_INLINE ints ints_and(ints a, ints b) { return _mm512_and_si512(a, b); }
EG_INLINE ints ints_or(ints a, ints b) { return _mm512_or_si512(a, b); }
EG_INLINE ints ints_xor(ints a, ints b) { return _mm512_xor_si512(a, b); }
EG_INLINE ints ints_add(ints a, ints b) { return _mm512_add_epi32(a, b); }
EG_INLINE ints ints_lookup(const int8_t table[16], ints v)
{
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table)), v);
}
EG_INLINE ints ints_left(ints v, int n) { return _mm512_sll_epi32(v, _mm_cvtsi32_si128(n)); }
EG_INLINE ints ints_right(ints v, int n) { return _mm512_srl_epi32(v, _mm_cvtsi32_si128(n)); }
EG_INLINE ints ints_high4(ints v) { return ints_and(ints_right(v, 4), ints_set8(15)); }
EG_INLINE ints ints_right_signed(ints v, int n) { return _mm512_sra_epi32(v, _mm_cvtsi32_si128(n)); }
EG_INLINE vec ints_to_vec(ints v) { return _mm512_cvtepi32_ps(v); }
EG_INLINE ints dots_start(int n) { return ints_set32(n); }
EG_INLINE vec dots_to_vec(ints v) { return ints_to_vec(v); }
EG_INLINE vec f16_to_vec(ints v) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)); }

EG_INLINE ints ints_dot(ints acc, ints w, const int8_t *x, int c, const bool int8_weights)
{
    (void)int8_weights;
    return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(eg_int_at(x, c)));
}

/* 16 bytes from each of four places, `step` apart. The two halves are built first, since inserting into a 256-bit register is
 * cheaper. */
EG_INLINE ints quarters_at(const uint8_t *p, size_t step)
{
    __m256i low = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)p));
    __m256i high = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(p + 2 * step)));
    low = _mm256_inserti128_si256(low, _mm_loadu_si128((const __m128i *)(p + step)), 1);
    high = _mm256_inserti128_si256(high, _mm_loadu_si128((const __m128i *)(p + 3 * step)), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* The quarters of in[i] hold rows i, i + 4, i + 8, i + 12. Transposing 4 x 4 words in each quarter puts the rows in order. */
EG_INLINE void transpose_words(const ints in[4], ints out[4])
{
    __m512i a = _mm512_unpacklo_epi32(in[0], in[1]), b = _mm512_unpackhi_epi32(in[0], in[1]);
    __m512i c = _mm512_unpacklo_epi32(in[2], in[3]), d = _mm512_unpackhi_epi32(in[2], in[3]);
    out[0] = _mm512_unpacklo_epi64(a, c);
    out[1] = _mm512_unpackhi_epi64(a, c);
    out[2] = _mm512_unpacklo_epi64(b, d);
    out[3] = _mm512_unpackhi_epi64(b, d);
}

EG_INLINE void ints_gather(const uint8_t *p, size_t stride, ints out[4])
{
    ints in[4];
    EG_UNROLL
    for (int i = 0; i < 4; i++) in[i] = quarters_at(p + (size_t)i * stride, 4 * stride);
    transpose_words(in, out);
}

EG_INLINE vec f16_at(const uint8_t *p, size_t stride) { return _mm512_cvtph_ps(eg_gather_16_words(p, stride)); }

#define EG_HAS_FIFTH_BITS
EG_INLINE ints fifth_bits(ints bits, const int j)
{
    ints bytes = _mm512_shuffle_epi8(bits, _mm512_add_epi8(_mm512_broadcast_i32x4(EG_LANE_BYTES), ints_set8(j / 2)));
    return _mm512_maskz_mov_epi8(_mm512_test_epi8_mask(bytes, ints_set32(EG_BYTE_BITS(j))), ints_set8(16));
}

EG_INLINE ints ints_along(ints acc, ints w, ints x) { return _mm512_dpbusd_epi32(acc, w, x); }
EG_INLINE ints ints_along_int8(ints acc, ints w, ints x) { return ints_along(acc, w, x); }

enum { INT8_BIAS = 128, I16_SUMS = 0, MAX_TOKENS = 4 };
EG_INLINE ints ints_dot_i16(ints acc, ints w, const int8_t *x, int c) { return ints_dot(acc, w, x, c, false); }
EG_INLINE ints ints_widen(ints acc, ints pairs)
{
    (void)pairs;
    return acc;
}
#define EG_PAIRED_TILES
#define EG_GEMV_TOKENS 4
#define EG_HAS_FEW
#define EG_HAS_PREPARE
#include "tiles.inc"
#include "few512.inc"
#include "gemv512.inc"

EG_INLINE ints ints_round(vec a) { return _mm512_cvtps_epi32(a); }
EG_INLINE ints ints_join(ints a, ints b) { return _mm512_mask_blend_epi16(0xaaaaaaaa, a, _mm512_slli_epi32(b, 16)); }
EG_INLINE ints ints_dot_pairs(ints acc, ints w, int32_t pair)
{
    acc = _mm512_dpwssd_epi32(acc, w, _mm512_set1_epi32(pair));
    EG_SUM_IN_PLACE(acc);
    return acc;
}
EG_INLINE vec vec_times_power(vec a, vec k)
{
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_slli_epi32(_mm512_castps_si512(k), 23)));
}

enum { PANEL_ROWS = 8, PANEL_VECTORS = 2 };
#include "panels.inc"

EG_KERNEL_SET(eg_kernels_avx512vnni, "avx512vnni");

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
