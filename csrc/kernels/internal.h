/* Shared by the files of this folder alone: sizes of tiles and scratch, and the compiled sets.
 *
 * A set of kernels (one instruction set) is made of layers, from the instructions up:
 *   its own file    `vec` (16 floats), `ints` (16 int32 or 64 bytes), and a few operations on each; sets with the same
 *                   registers share them in avx256.inc and neon.inc
 *   lanes.inc       the float kernels, written once over `vec`
 *   unpack.inc      common types: unpacking into tiles, and the product with one token (GEMV)
 *   tiles.inc       matmul_q8, written once over tiles
 *   gemv512.inc     faster products of few tokens with AVX-512 for Q4_0 and Q6_K
 *   few512.inc      the same for up to eight tokens of Q4_0 and Q4_K
 *   neon_along.inc  the same with NEON for Q4_0, Q8_0, Q4_K and Q6_K
 *   neon_multiply.inc   the product of a tile with NEON
 *   channels.inc    matmul_i8, for the per-channel types QC2, QC4 and QC8
 *   panels.inc      products of matrices of integers of 14 bits, for encoders; with NEON neon_panels.inc
 *   matmul_i16.inc      products with float weights, on panels
 *   bidirectional.inc   the attention of encoders, on panels
 * The .inc files are compiled once for each set, inside its target pragma.
 */
#ifndef EG_KERNELS_INTERNAL_H
#define EG_KERNELS_INTERNAL_H

#include <math.h>
#include <string.h>

#include "../base/numbers.h"
#include "kernels.h"

#if defined(__SANITIZE_ADDRESS__) && !defined(__clang__)
#define EG_INLINE static inline          /* forced inlining of all the checks would take gcc minutes for each file */
#else
#define EG_INLINE static inline __attribute__((always_inline))
#endif
#if defined(__clang__)
#define EG_UNROLL _Pragma("unroll")
#else
#define EG_UNROLL _Pragma("GCC unroll 32")
#endif

enum {
    EG_SEGMENT = 1024,                   /* most columns of a tile: its 16 KB stay in the first-level cache */
    EG_TILES = 2,                        /* most tiles, of adjacent rows, that are multiplied together */
    EG_ADDENDS = 16384,                  /* groups of activations whose addends are kept for all rows of a call */
    EG_PREPARED_BYTES = 18,              /* most bytes for each column of activations that are prepared for all rows */
    EG_PREFETCH_AHEAD = 8192,            /* prefetch distance: bytes beyond the beginning of the next tile */
    EG_PREFETCH_FAR = 8192,              /* the same for the second-level cache: bytes beyond those for the first one */
    EG_GROUPS = EG_SEGMENT / 16,         /* most groups in a row of a tile */
    EG_FLOAT_ROWS = 8,                   /* rows of F16 or BF16 that are converted to floats together */
    EG_KEYS = 32,                        /* keys of a block of attention */
    EG_QUERIES = EG_SPAN_QUERIES,        /* queries that share a block of converted keys and values */
    EG_SEEN_QUERIES = 32,                /* the same of bidirectional */
    EG_PANEL_DEPTH = 128,                /* most numbers of a vector that becomes integers with one scale, see panels.inc */
    EG_I16_TOKENS = 512,                 /* matmul_i16: tokens that are multiplied by weights before the next are packed */
    EG_I16_ROWS = 32,                    /* matmul_i16: most rows that are packed together */
#if defined(__aarch64__)
    EG_PACKED_BYTES = 3                  /* of a number in a panel, in the set that takes most */
#else
    EG_PACKED_BYTES = 2
#endif
};

/* Whether this compiler can build the newer sets. Clang before 16 declares their intrinsics only for the target of the whole
 * file, and not for functions with a target attribute. */
#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define EG_COMPILES_AVXVNNI 1
#else
#define EG_COMPILES_AVXVNNI 0
#endif
#if defined(__aarch64__) && (!defined(__clang__) || __clang_major__ >= 16 || defined(__ARM_FEATURE_MATMUL_INT8))
#define EG_COMPILES_I8MM 1
#else
#define EG_COMPILES_I8MM 0
#endif

/* Defines the set of the kernels that the file has included. */
/* clang-format off: keeps the list in rows */
#define EG_KERNEL_SET(symbol, name) \
    const eg_kernels symbol = { \
        name,        quantize_q8,   prepare_q8, matmul_q8,          matmul_float,   rms_norm,        gelu_mul, \
        sigmoid_mul, softcap,       kv_store,   attention,          attention_span, attention_merge, quantize_i8, \
        matmul_i8,   fake_quant_i8, exp_sum,    bidirectional_pack, bidirectional,  pack_i16,        matmul_i16, \
    }
/* clang-format on */

/* The weights of 16 rows, unpacked. */
typedef struct eg_tile {
    _Alignas(64) uint8_t q[EG_ROW_TILE * EG_SEGMENT];       /* codes in the set's order and encoding, see tiles.inc */
    _Alignas(64) float scale[EG_GROUPS * EG_ROW_TILE];      /* [groups][16 rows] */
    _Alignas(64) float min[EG_GROUPS * EG_ROW_TILE];
    const uint8_t *next;                                    /* the weights to prefetch while this tile is unpacked */
} eg_tile;

/* A block of packed keys and values of one head, see bidirectional.inc. Behind it lie its two panels. */
typedef struct eg_seen_block {
    float dk[EG_SEEN_KEYS];                                 /* scales of the keys; 0 for one that is not finite */
    _Alignas(64) float dv;                                  /* scale of the values; NaN if something is not finite */
} eg_seen_block;

/* What bidirectional keeps of the queries that it works on together. Behind it lie three arrays: the panel of queries,
 * the panel of weights, and the sums of weighted values [EG_SEEN_QUERIES, width]. */
typedef struct eg_seen_queries {
    _Alignas(64) float score[EG_SEEN_KEYS][EG_SEEN_QUERIES];
    float d[EG_SEEN_QUERIES];                               /* the scale times log2(e) */
    float bad[EG_SEEN_QUERIES];                             /* NaN for a query that is not finite, else 0 */
    float best[EG_SEEN_QUERIES];                            /* the largest score in the block */
    float m[EG_SEEN_QUERIES], l[EG_SEEN_QUERIES], c[EG_SEEN_QUERIES], f[EG_SEEN_QUERIES];
} eg_seen_queries;

/* Scratch of matmul_i16. */
typedef struct eg_i16_scratch {
    _Alignas(64) float row[16][EG_PANEL_DEPTH];             /* weights of a group of columns as floats */
    _Alignas(64) float d[EG_I16_ROWS];                      /* their scales, and the integers */
    _Alignas(64) uint8_t panel[EG_I16_ROWS * EG_PANEL_DEPTH * EG_PACKED_BYTES];
    _Alignas(64) float sum[EG_I16_TOKENS][EG_I16_ROWS];
} eg_i16_scratch;

/* Scratch of matmul_q8 and matmul_i8. Behind it lies what prepare_q8 has made: EG_PREPARED_BYTES for each column. */
typedef struct eg_scratch {
    eg_tile tile[EG_TILES];
    _Alignas(64) int32_t addend[EG_ADDENDS];                /* [tokens][groups], see tiles.inc */
    _Alignas(64) int8_t plain[EG_ROW_TILE * EG_SEGMENT];    /* [16 rows][columns]: codes of types that unpack.inc lacks */
    float plain_scale[EG_GROUPS], plain_min[EG_GROUPS];     /* of one row */
} eg_scratch;

/* Prefetches weights that are read once. On x86 in two steps: into the second-level cache from memory, and from there into the first
 * one. A core waits for few lines of the first-level cache at a time, so that memory alone would fill it at half its speed; and narrow
 * rows are a tenth faster from the first level. Arm prefetches into the second level. */
#if defined(__x86_64__)
#define eg_prefetch(p) (__builtin_prefetch((p) + EG_PREFETCH_FAR, 0, 2), __builtin_prefetch(p, 0, 3))
#else
#define eg_prefetch(p) __builtin_prefetch(p, 0, 2)
#endif

static inline int64_t eg_round_up_8(int64_t n) { return (n + 7) & ~(int64_t)7; }
static inline int64_t eg_round_up_16(int64_t n) { return (n + 15) & ~(int64_t)15; }

/* The sum of activations over group g, of 16 or 32. */
EG_INLINE int eg_group_total(const int16_t *sum, int64_t g, const int group)
{
    return group == 32 ? sum[2 * g] + sum[2 * g + 1] : sum[g];
}

extern const eg_kernels eg_kernels_scalar;
#if defined(__x86_64__)
extern const eg_kernels eg_kernels_avx2, eg_kernels_avxvnni, eg_kernels_avxvnni_evex, eg_kernels_avx512vnni;
#elif defined(__aarch64__)
extern const eg_kernels eg_kernels_neon_dotprod, eg_kernels_neon_i8mm;
#endif

/* Plain C; every set uses these for fewer rows than a tile has. */
void eg_matmul_q8_scalar(float *y, int64_t ldy, const eg_q8 *x, int64_t n, const eg_matrix *w, int64_t row0, int64_t row1,
                         void *scratch);
void eg_matmul_i8_scalar(float *y, int64_t ldy, const eg_i8 *x, int64_t n, const eg_matrix *w, int64_t row0, int64_t row1,
                         void *scratch);

#endif
