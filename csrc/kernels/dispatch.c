/* Chooses the set of kernels at run time, and tells the sizes of their work space. No computation here. */
#include "internal.h"

#include <stdatomic.h>
#include <stdlib.h>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

size_t eg_matmul_scratch_bytes(int64_t cols)
{
    size_t floats = (size_t)eg_round_up_16(cols) * EG_FLOAT_ROWS * sizeof(float);
    return floats > sizeof(eg_tile) ? floats : sizeof(eg_tile);
}

size_t eg_attention_scratch_bytes(int64_t head_dim, int64_t heads, int64_t n)
{
    size_t width = (size_t)eg_round_up_16(head_dim), rows = (size_t)(eg_smaller(n, EG_QUERIES) * heads);
    return sizeof(float) * (2 * EG_KEYS * width + rows * (2 * width + EG_KEYS + 3));
}

size_t eg_kv_row_bytes(eg_kv_type format, int64_t head_dim)
{
    size_t n = (size_t)head_dim;
    if (format == EG_KV_F32)
        return 4 * n;
    if (format == EG_KV_F16)
        return 2 * n;
    return ((n + 3) & ~(size_t)3) + (n + 31) / 32 * sizeof(float);
}

static bool always(void) { return true; }

#if defined(__x86_64__)

/* Processor and operating system: the latter must save the registers (XCR0: 6 for AVX, 0xe6 for AVX-512). */
static bool registers_saved(uint32_t mask)
{
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_AVX))
        return false;
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & mask) == mask;
}

static bool has_avx2(void)
{
    uint32_t a, b, c, d;
    if (!registers_saved(0x6) || !__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_F16C))
        return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2);
}

static bool has_avx512vnni(void)
{
    uint32_t a, b, c, d, want = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    if (!has_avx2() || !registers_saved(0xe6) || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return false;
    return (b & want) == want && (c & bit_AVX512VNNI);
}

#elif defined(__aarch64__)

static bool has_dotprod(void)
{
#if defined(__linux__)
    return getauxval(AT_HWCAP) & 1ul << 20;              /* HWCAP_ASIMDDP */
#elif defined(__APPLE__)
    return true;
#else
    return false;
#endif
}

#endif

/* Best last. */
static const struct { const eg_kernels *kernels; bool (*supported)(void); } sets[] = {
    {&eg_kernels_scalar, always},
#if defined(__x86_64__)
    {&eg_kernels_avx2, has_avx2},
    {&eg_kernels_avx512vnni, has_avx512vnni},
#elif defined(__aarch64__)
    {&eg_kernels_neon_dotprod, has_dotprod},
#endif
};

enum { N_SETS = sizeof sets / sizeof sets[0] };

const eg_kernels *eg_kernels_at(size_t index, bool *supported)
{
    if (index >= N_SETS)
        return NULL;
    *supported = sets[index].supported();
    return sets[index].kernels;
}

static const eg_kernels *choose(void)
{
    const eg_kernels *best = &eg_kernels_scalar;
    const char *wanted = getenv("EDGE_GEMMA_ISA");
    for (size_t i = 0; i < N_SETS; i++) {
        if (!sets[i].supported())
            continue;
        best = sets[i].kernels;
        if (wanted && strcmp(wanted, best->name) == 0)
            break;
    }
    return best;
}

/* Threads that come here at the same time choose the same set, so the last store wins nothing and loses nothing. */
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
