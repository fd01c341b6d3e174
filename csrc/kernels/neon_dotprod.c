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

#define EACH for (int i = 0; i < 4; i++)

/* ---- floats ------------------------------------------------------------------------------------------------------ */

typedef struct vec { float32x4_t v[4]; } vec;

EG_INLINE vec vec_load(const void *p)
{
    vec y;
    EG_UNROLL
    EACH y.v[i] = vreinterpretq_f32_u8(vld1q_u8((const uint8_t *)p + 16 * i));
    return y;
}

EG_INLINE vec vec_load_half(const void *p)
{
    vec y;
    EG_UNROLL
    EACH y.v[i] = vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8((const uint8_t *)p + 8 * i)));
    return y;
}

EG_INLINE vec vec_load_bf16(const void *p)
{
    vec y;
    EG_UNROLL
    EACH y.v[i] = vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8((const uint8_t *)p + 8 * i)), 16));
    return y;
}

EG_INLINE vec vec_load_i8(const void *p)
{
    int8x16_t q = vld1q_s8(p);
    int16x8_t low = vmovl_s8(vget_low_s8(q)), high = vmovl_s8(vget_high_s8(q));
    return (vec){{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
                  vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}

EG_INLINE void vec_store(void *p, vec x)
{
    EG_UNROLL
    EACH vst1q_u8((uint8_t *)p + 16 * i, vreinterpretq_u8_f32(x.v[i]));
}

EG_INLINE void vec_store_half(void *p, vec x)
{
    EG_UNROLL
    EACH vst1_u8((uint8_t *)p + 8 * i, vreinterpret_u8_f16(vcvt_f16_f32(x.v[i])));
}

EG_INLINE vec vec_set(float f)
{
    float32x4_t v = vdupq_n_f32(f);
    return (vec){{v, v, v, v}};
}

#define BINARY(name, function) \
    EG_INLINE vec name(vec x, vec y) \
    { \
        return (vec){{function(x.v[0], y.v[0]), function(x.v[1], y.v[1]), function(x.v[2], y.v[2]), \
                      function(x.v[3], y.v[3])}}; \
    }

EG_INLINE float32x4_t larger(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
EG_INLINE float32x4_t smaller(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }

BINARY(vec_add, vaddq_f32)
BINARY(vec_sub, vsubq_f32)
BINARY(vec_mul, vmulq_f32)
BINARY(vec_div, vdivq_f32)
BINARY(vec_max, larger)
BINARY(vec_min, smaller)

EG_INLINE vec vec_if_gt(vec x, vec y, vec yes, vec no)
{
    vec z;
    EG_UNROLL
    EACH z.v[i] = vbslq_f32(vcgtq_f32(x.v[i], y.v[i]), yes.v[i], no.v[i]);
    return z;
}

EG_INLINE vec vec_power(vec x)
{
    vec y;
    EG_UNROLL
    EACH y.v[i] = vreinterpretq_f32_u32(vshlq_n_u32(vaddq_u32(vreinterpretq_u32_f32(x.v[i]), vdupq_n_u32(126)), 23));
    return y;
}

EG_INLINE float vec_sum(vec x)
{
    float32x4_t b = vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3]));
    float32x2_t c = vadd_f32(vget_low_f32(b), vget_high_f32(b));
    return vget_lane_f32(c, 0) + vget_lane_f32(c, 1);
}

EG_INLINE float vec_max_across(vec x)
{
    float32x4_t b = larger(larger(x.v[0], x.v[2]), larger(x.v[1], x.v[3])), high = vextq_f32(b, b, 2);
    b = larger(b, high);
    float first = vgetq_lane_f32(b, 0), second = vgetq_lane_f32(b, 1);
    return first > second ? first : second;
}

EG_INLINE int vec_store_i8(int8_t *q, vec x)
{
    int32x4_t n[4];
    EG_UNROLL
    EACH n[i] = vcvtnq_s32_f32(x.v[i]);
    int16x8_t low = vcombine_s16(vmovn_s32(n[0]), vmovn_s32(n[1])), high = vcombine_s16(vmovn_s32(n[2]), vmovn_s32(n[3]));
    vst1q_s8(q, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
    return vaddvq_s32(vaddq_s32(vaddq_s32(n[0], n[1]), vaddq_s32(n[2], n[3])));
}

enum { EG_BLOCK_ROWS = 2, EG_BLOCK_COLS = 2 };
#include "lanes.inc"

/* ---- integers ---------------------------------------------------------------------------------------------------- */

typedef struct ints { uint8x16_t v[4]; } ints;

EG_INLINE ints ints_load(const void *p)
{
    ints y;
    EG_UNROLL
    EACH y.v[i] = vld1q_u8((const uint8_t *)p + 16 * i);
    return y;
}

EG_INLINE void ints_store(void *p, ints x)
{
    EG_UNROLL
    EACH vst1q_u8((uint8_t *)p + 16 * i, x.v[i]);
}

EG_INLINE ints ints_set8(int n)
{
    uint8x16_t v = vdupq_n_u8((uint8_t)n);
    return (ints){{v, v, v, v}};
}

EG_INLINE ints ints_set32(int n)
{
    uint8x16_t v = vreinterpretq_u8_s32(vdupq_n_s32(n));
    return (ints){{v, v, v, v}};
}

#define BINARY_INTS(name, function) \
    EG_INLINE ints name(ints x, ints y) \
    { \
        return (ints){{function(x.v[0], y.v[0]), function(x.v[1], y.v[1]), function(x.v[2], y.v[2]), \
                       function(x.v[3], y.v[3])}}; \
    }

BINARY_INTS(ints_and, vandq_u8)
BINARY_INTS(ints_or, vorrq_u8)
BINARY_INTS(ints_xor, veorq_u8)

EG_INLINE ints ints_add(ints x, ints y)
{
    EG_UNROLL
    EACH x.v[i] = vreinterpretq_u8_u32(vaddq_u32(vreinterpretq_u32_u8(x.v[i]), vreinterpretq_u32_u8(y.v[i])));
    return x;
}

EG_INLINE ints ints_lookup(const int8_t table[16], ints x)
{
    int8x16_t values = vld1q_s8(table);
    EG_UNROLL
    EACH x.v[i] = vreinterpretq_u8_s8(vqtbl1q_s8(values, x.v[i]));
    return x;
}

EG_INLINE ints ints_left(ints x, int n)
{
    ints y;
    EG_UNROLL
    EACH y.v[i] = vreinterpretq_u8_u32(vshlq_u32(vreinterpretq_u32_u8(x.v[i]), vdupq_n_s32(n)));
    return y;
}

EG_INLINE ints ints_right(ints x, int n) { return ints_left(x, -n); }

EG_INLINE ints ints_right_signed(ints x, int n)
{
    ints y;
    EG_UNROLL
    EACH y.v[i] = vreinterpretq_u8_s32(vshlq_s32(vreinterpretq_s32_u8(x.v[i]), vdupq_n_s32(-n)));
    return y;
}

EG_INLINE vec ints_to_vec(ints x)
{
    vec y;
    EG_UNROLL
    EACH y.v[i] = vcvtq_f32_s32(vreinterpretq_s32_u8(x.v[i]));
    return y;
}

EG_INLINE vec halves_to_vec(ints x)
{
    vec y;
    EG_UNROLL
    EACH y.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(vreinterpretq_u32_u8(x.v[i]))));
    return y;
}

/* Weights are signed bytes here; those below 128 are the same unsigned. */
EG_INLINE ints ints_dot(ints acc, ints w, int32_t x, const bool wide)
{
    int8x16_t words = vreinterpretq_s8_s32(vdupq_n_s32(x));
    (void)wide;
    EG_UNROLL
    EACH acc.v[i] = vreinterpretq_u8_s32(vdotq_s32(vreinterpretq_s32_u8(acc.v[i]), vreinterpretq_s8_u8(w.v[i]), words));
    return acc;
}

/* Four rows at a time: a transposition of 4 x 4 words. */
EG_INLINE void ints_gather(const uint8_t *p, size_t stride, ints out[4])
{
    EG_UNROLL
    EACH {
        const uint8_t *rows = p + (size_t)(4 * i) * stride;
        uint32x4_t a = vreinterpretq_u32_u8(vld1q_u8(rows)), b = vreinterpretq_u32_u8(vld1q_u8(rows + stride));
        uint32x4_t c = vreinterpretq_u32_u8(vld1q_u8(rows + 2 * stride)), d = vreinterpretq_u32_u8(vld1q_u8(rows + 3 * stride));
        uint64x2_t ab0 = vreinterpretq_u64_u32(vtrn1q_u32(a, b)), ab1 = vreinterpretq_u64_u32(vtrn2q_u32(a, b));
        uint64x2_t cd0 = vreinterpretq_u64_u32(vtrn1q_u32(c, d)), cd1 = vreinterpretq_u64_u32(vtrn2q_u32(c, d));
        out[0].v[i] = vreinterpretq_u8_u64(vtrn1q_u64(ab0, cd0));
        out[1].v[i] = vreinterpretq_u8_u64(vtrn1q_u64(ab1, cd1));
        out[2].v[i] = vreinterpretq_u8_u64(vtrn2q_u64(ab0, cd0));
        out[3].v[i] = vreinterpretq_u8_u64(vtrn2q_u64(ab1, cd1));
    }
}

EG_INLINE ints bytes_gather2(const uint8_t *p, size_t stride)
{
    uint32_t words[16];
    EG_UNROLL
    for (int r = 0; r < 16; r++) {
        uint16_t word;
        memcpy(&word, p + (size_t)r * stride, sizeof word);
        words[r] = word;
    }
    return ints_load(words);
}

enum { WIDE_BIAS = 0, SHORT_SUMS = 0, MAX_TOKENS = 4 };
EG_INLINE ints ints_dot_short(ints acc, ints w, int32_t x) { return ints_dot(acc, w, x, false); }
EG_INLINE ints ints_widen(ints acc, ints pairs) { (void)pairs; return acc; }
#include "tiles.inc"

const eg_kernels eg_kernels_neon_dotprod = {
    "neon_dotprod", quantize_q8, matmul_q8, matmul_float, rms_norm, gelu_mul, sigmoid_mul, softcap, kv_store, attention,
};

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
