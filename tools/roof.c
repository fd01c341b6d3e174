/* The limits of one core, with which bench_kernels.py compares the kernels: loops of independent instructions on registers.
 * Each function runs `loops` iterations and returns the number of multiplications. That script compiles this file; it is not
 * part of the library. */
#include <stdint.h>

/* Twelve independent sums: at least latency times throughput of these processors, and few enough for 16 registers. Each has
 * a name, since compilers keep arrays in memory. */
#define EACH(f) f(s0) f(s1) f(s2) f(s3) f(s4) f(s5) f(s6) f(s7) f(s8) f(s9) f(s10) f(s11)
#define DECLARE(s) , s = a
#define KEEP(s) __asm__ volatile("" : "+" REGISTER(s));   /* keeps the compiler from combining iterations */
#define LIMIT(name, target_text, type, start, STEP, per_step) \
    __attribute__((target(target_text))) int64_t name(int64_t loops) \
    { \
        type a = start EACH(DECLARE); \
        for (int64_t n = 0; n < loops; n++) { \
            EACH(STEP) \
            EACH(KEEP) \
        } \
        return loops * 12 * (per_step); \
    }

#if defined(__x86_64__)
#include <immintrin.h>
#define REGISTER(v) "v"(v)
#define AVX512 "avx512f,avx512bw,avx512vl,avx512vnni"
#define ZMM_INT8(s) s = _mm512_dpbusd_epi32(s, a, a);
#define YMM_INT8(s) s = _mm256_dpbusd_epi32(s, a, a);
#define ZMM_FLOAT(s) s = _mm512_fmadd_ps(a, a, s);
LIMIT(avx512vnni_int8, AVX512, __m512i, _mm512_set1_epi8(1), ZMM_INT8, 64)
LIMIT(evex_int8, AVX512, __m256i, _mm256_set1_epi8(1), YMM_INT8, 32)
#define ZMM_PAIRS(s) s = _mm512_dpwssd_epi32(s, a, a);
#define YMM_PAIRS(s) s = _mm256_dpwssd_epi32(s, a, a);
LIMIT(avx512vnni_int16, AVX512, __m512i, _mm512_set1_epi8(1), ZMM_PAIRS, 32)
LIMIT(evex_int16, AVX512, __m256i, _mm256_set1_epi8(1), YMM_PAIRS, 16)
LIMIT(avx512vnni_float, AVX512, __m512, _mm512_set1_ps(1), ZMM_FLOAT, 16)
#undef REGISTER
#define REGISTER(v) "x"(v)
#define AVX2_INT8(s) s = _mm256_add_epi16(s, _mm256_maddubs_epi16(a, s));
#define AVX2_FLOAT(s) s = _mm256_fmadd_ps(a, a, s);
LIMIT(avx2_int8, "avx2,fma", __m256i, _mm256_set1_epi8(1), AVX2_INT8, 32)
#define AVX2_PAIRS(s) s = _mm256_add_epi32(s, _mm256_madd_epi16(a, s));
LIMIT(avx2_int16, "avx2,fma", __m256i, _mm256_set1_epi8(1), AVX2_PAIRS, 16)
LIMIT(avx2_float, "avx2,fma", __m256, _mm256_set1_ps(1), AVX2_FLOAT, 8)
#define VEX_INT8(s) s = _mm256_dpbusd_avx_epi32(s, a, a);
LIMIT(vex_int8, "avx2,avxvnni", __m256i, _mm256_set1_epi8(1), VEX_INT8, 32)
#define VEX_PAIRS(s) s = _mm256_dpwssd_avx_epi32(s, a, a);
LIMIT(vex_int16, "avx2,avxvnni", __m256i, _mm256_set1_epi8(1), VEX_PAIRS, 16)
/* Two encodings of the same instruction, as the library has it. */
int64_t avxvnni_int16(int64_t loops) { return __builtin_cpu_supports("avxvnni") ? vex_int16(loops) : evex_int16(loops); }
int64_t avxvnni_int8(int64_t loops) { return __builtin_cpu_supports("avxvnni") ? vex_int8(loops) : evex_int8(loops); }
#elif defined(__aarch64__)
#include <arm_neon.h>
#define REGISTER(v) "w"(v)
#define DOTPROD(s) s = vreinterpretq_s8_s32(vdotq_s32(vreinterpretq_s32_s8(s), a, a));
#define I8MM(s) s = vreinterpretq_s8_s32(vmmlaq_s32(vreinterpretq_s32_s8(s), a, a));
#define FLOAT(s) s = vfmaq_f32(s, a, a);
LIMIT(neon_dotprod_int8, "arch=armv8.2-a+dotprod", int8x16_t, vdupq_n_s8(1), DOTPROD, 16)
LIMIT(neon_i8mm_int8, "arch=armv8.2-a+dotprod+i8mm", int8x16_t, vdupq_n_s8(1), I8MM, 32)
/* A product of 16 bits is three of 8 (csrc/kernels/neon_panels.inc). */
int64_t neon_dotprod_int16(int64_t loops) { return neon_dotprod_int8(loops) / 3; }
int64_t neon_i8mm_int16(int64_t loops) { return neon_i8mm_int8(loops) / 3; }
LIMIT(neon_dotprod_float, "arch=armv8.2-a", float32x4_t, vdupq_n_f32(1), FLOAT, 4)
#endif
