/* Chooses the set of kernels at run time, and computes the sizes of their scratch. */
#include "internal.h"

#include <stdatomic.h>
#include <stdlib.h>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__aarch64__) && defined(_WIN32)
#include "../base/thread.h"    /* windows.h, as small as possible */
#endif

size_t eg_matmul_scratch_bytes(int64_t cols)
{
    size_t floats = (size_t)eg_round_up_16(cols) * EG_FLOAT_ROWS * sizeof(float);
    size_t quantized = sizeof(eg_scratch) + (size_t)eg_round_up_16(cols) * EG_PREPARED_BYTES;
    return floats > quantized ? floats : quantized;
}

size_t eg_attention_scratch_bytes(int64_t head_dim, int64_t heads, int64_t n)
{
    size_t width = (size_t)eg_round_up_16(head_dim), rows = (size_t)(eg_smaller(n, EG_QUERIES) * heads);
    return sizeof(float) * (2 * EG_KEYS * width + rows * (width + EG_KEYS + 1 + 2 * (width + 2)));
}

size_t eg_bidirectional_bytes(int64_t head_dim, int64_t n_keys)
{
    size_t numbers = (size_t)(eg_round_up_8(head_dim) + eg_round_up_16(head_dim)) * EG_SEEN_KEYS;
    return (size_t)((n_keys + EG_SEEN_KEYS - 1) / EG_SEEN_KEYS) * (sizeof(eg_seen_block) + numbers * EG_PACKED_BYTES);
}

size_t eg_bidirectional_scratch_bytes(int64_t head_dim)
{
    size_t numbers = (size_t)(eg_round_up_8(head_dim) + EG_SEEN_KEYS) * EG_SEEN_QUERIES;
    size_t sums = (size_t)eg_round_up_16(head_dim) * EG_SEEN_QUERIES * sizeof(float);
    return sizeof(eg_seen_queries) + numbers * EG_PACKED_BYTES + sums;
}

size_t eg_i16_bytes(int64_t n, int64_t cols)
{
    size_t blocks = (size_t)((n + 15) / 16), groups = (size_t)((cols + EG_PANEL_DEPTH - 1) / EG_PANEL_DEPTH);
    return blocks * groups * 16 * (sizeof(float) + EG_PANEL_DEPTH * EG_PACKED_BYTES);
}

size_t eg_matmul_i16_scratch_bytes(void) { return sizeof(eg_i16_scratch); }

size_t eg_attention_partial_floats(int64_t head_dim, int64_t rows)
{
    return (size_t)rows * ((size_t)eg_round_up_16(head_dim) + 2);
}

size_t eg_kv_row_bytes(eg_kv_type format, int64_t head_dim)
{
    size_t n = (size_t)head_dim;
    if (format == EG_KV_F32) return 4 * n;
    if (format == EG_KV_F16) return 2 * n;
    return ((n + 3) & ~(size_t)3) + (n + 31) / 32 * sizeof(float);
}

static bool always(void) { return true; }

#if defined(__x86_64__)

/* Whether the operating system saves the registers of `mask` (XCR0: 6 for AVX, 0xe6 for AVX-512). */
static bool registers_saved(uint32_t mask)
{
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_AVX)) return false;
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & mask) == mask;
}

static bool has_avx2(void)
{
    uint32_t a, b, c, d;
    if (!registers_saved(0x6) || !__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_F16C) || !(c & bit_FMA)) return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2);
}

static bool has_avx512vnni(void)
{
    uint32_t a, b, c, d, want = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    if (!has_avx2() || !registers_saved(0xe6) || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    return (b & want) == want && (c & bit_AVX512VNNI);
}

#if EG_COMPILES_AVXVNNI
static bool has_avxvnni(void)
{
    uint32_t a, b, c, d;
    return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
}
#endif

#elif defined(__aarch64__)

#if defined(__APPLE__)
static bool has_feature(const char *name)
{
    int found = 0;
    size_t size = sizeof found;
    return sysctlbyname(name, &found, &size, NULL, 0) == 0 && found;
}
#endif

static bool has_dotprod(void)
{
#if defined(__linux__)
    return getauxval(AT_HWCAP) & 1ul << 20;              /* HWCAP_ASIMDDP */
#elif defined(__APPLE__)
    return has_feature("hw.optional.arm.FEAT_DotProd");  /* not on A11 and A12 */
#elif defined(_WIN32)
    return IsProcessorFeaturePresent(43);                /* PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE */
#else
    return false;
#endif
}

#if EG_COMPILES_I8MM
static bool has_i8mm(void)
{
#if defined(__linux__)
    return has_dotprod() && getauxval(AT_HWCAP2) & 1ul << 13;              /* HWCAP2_I8MM */
#elif defined(__APPLE__)
    return has_feature("hw.optional.arm.FEAT_I8MM");
#elif defined(_WIN32)
    return has_dotprod() && IsProcessorFeaturePresent(66);                 /* PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE */
#else
    return false;
#endif
}
#endif

#endif

/* Best last. A set may have a twin: the same code and name in another encoding of the instructions, for processors that have
 * only that one. */
static const struct set {
    const eg_kernels *kernels;
    bool (*supported)(void);
    const eg_kernels *twin;
    bool (*twin_supported)(void);
} sets[] = {
    {&eg_kernels_scalar, always, NULL, NULL},
#if defined(__x86_64__)
    {&eg_kernels_avx2, has_avx2, NULL, NULL},
#if EG_COMPILES_AVXVNNI
    {&eg_kernels_avxvnni, has_avxvnni, &eg_kernels_avxvnni_evex, has_avx512vnni},
#else
    {&eg_kernels_avxvnni_evex, has_avx512vnni, NULL, NULL},
#endif
    {&eg_kernels_avx512vnni, has_avx512vnni, NULL, NULL},
#elif defined(__aarch64__)
    {&eg_kernels_neon_dotprod, has_dotprod, NULL, NULL},
#if EG_COMPILES_I8MM
    {&eg_kernels_neon_i8mm, has_i8mm, NULL, NULL},
#endif
#endif
};

enum { N_SETS = sizeof sets / sizeof sets[0] };

const eg_kernels *eg_kernels_at(size_t index, bool *supported)
{
    if (index >= N_SETS) return NULL;
    const struct set *set = &sets[index];
    *supported = set->supported();
    if (*supported || !set->twin) return set->kernels;
    *supported = set->twin_supported();
    return set->twin;
}

static const eg_kernels *choose(void)
{
    const eg_kernels *best = &eg_kernels_scalar, *kernels;
    const char *wanted = getenv("EDGE_GEMMA_ISA");
    bool supported;
    for (size_t i = 0; (kernels = eg_kernels_at(i, &supported)); i++) {
        if (!supported) continue;
        best = kernels;
        if (wanted && strcmp(wanted, best->name) == 0) break;
    }
    return best;
}

/* A benign race: threads that get here at the same time all store the same pointer. */
const eg_kernels *eg_kernels_get(void)
{
    static _Atomic(const eg_kernels *) chosen;
    const eg_kernels *kernels = atomic_load_explicit(&chosen, memory_order_acquire);
    if (!kernels) {
        kernels = choose();
        atomic_store_explicit(&chosen, kernels, memory_order_release);
    }
    return kernels;
}
