/* The contract of all kernels: what every instruction set implements.
 *
 * Kernels work on a range of rows and own nothing: no malloc, no threads, no I/O, no state. The caller splits the rows among
 * threads. Pointers need only the alignment of their element type.
 *
 * One order of arithmetic. Integer sums are exact. Float sums follow the order that is written at each kernel, in 16 lanes
 * where lanes are named. fma(a, b, c) is c + a b, rounded once; every other multiplication and addition is rounded by itself.
 * So every instruction set, every split into rows and every number of tokens in a call gives the same bits, and results
 * depend neither on the number of threads nor on how a prompt was cut into calls.
 */
#ifndef EG_KERNELS_H
#define EG_KERNELS_H

#include "../edge_gemma.h"
#include "../format/types.h"

/* A weight matrix W[rows, cols] of y = W x, in a file mapping. A row is contiguous; rows are row_bytes apart. */
typedef struct eg_matrix {
    const uint8_t *data;
    const eg_type_info *type;
    int64_t rows, cols;
    size_t row_bytes;
    /* Only for the per-channel types QC2, QC4 and QC8; NULL and 0 for all others. */
    const float *scale;        /* [rows, scales]: each for cols / scales columns */
    int64_t scales;            /* scales in a row: 1, except in embedding tables */
    float in_step, out_step;   /* x and y are int8 multiples of these steps; 0: x or y is not rounded to a step */
    bool two_term;             /* x is quantized with two terms (nn/multiply.h); kernels go by eg_q8.two_term */
} eg_matrix;

/* Activations x[n, cols], quantized with a scale d for every 32 values; cols is a multiple of 32. With one term:
 *   x[t, i] ~ d[t, i / 32] * q[t, 0, i]
 * With two terms, for twice the bits:
 *   x[t, i] ~ d[t, i / 32] * (256 * q[t, 0, i] + q[t, 1, i])
 * sum[t, term, i / 16] is the sum of q[t, term] over 16 values. */
typedef struct eg_q8 {
    int8_t *q;                 /* [n, terms, cols] */
    float *d;                  /* [n, cols / 32] */
    int16_t *sum;              /* [n, terms, cols / 16] */
    bool two_term;             /* two terms; else one */
} eg_q8;

/* Activations x[n, cols] as int8 multiples of a fixed step; cols is a multiple of 32.
 *   x[t, i] ~ d[t] * q[t, i], d[t] the step;  sum[t] = sum of q[t] */
typedef struct eg_i8 {
    int8_t *q;                 /* [n, cols] */
    float *d;                  /* [n] */
    int32_t *sum;              /* [n] */
} eg_i8;

/* K or V of one KV head of one layer. Position p lies in slot p % capacity, slot_bytes apart. */
typedef struct eg_kv_view {
    const uint8_t *k, *v;      /* slot 0 of this head: [capacity] rows of eg_kv_row_bytes(format, head_dim) */
    size_t slot_bytes;
    int64_t capacity;
    eg_kv_type format;
} eg_kv_view;

/* Bytes of one head's row of head_dim values. Q8: int8 values, padded to a multiple of 4 bytes, then a float scale for every
 * 32 values (rounded up). A multiple of 2 (F16) or 4. */
size_t eg_kv_row_bytes(eg_kv_type format, int64_t head_dim);

enum { EG_ROW_TILE = 16 };     /* rows of a tile: any range of rows is correct, multiples of this are fast */
enum { EG_SPAN = 128, EG_SPAN_QUERIES = 16 };   /* attention_span: keys of a span, and most queries of a call */
enum { EG_SEEN_KEYS = 64, EG_SEEN_HEAD = 128 };   /* bidirectional: keys of a block, and the largest head_dim */
enum { EG_CHANNEL_COLS = 65536 };   /* longest row of QC2, QC4 and QC8: its sum of int8 products fits 32 bits */

typedef struct eg_kernels {
    const char *name;

    /* One row: x[n] -> q[n], d[n / 32], sum[n / 16]; n is a multiple of 32. For every 32 values:
     *   amax = max |x|, d = amax / 127, q = round-half-even(x * (127 / amax))
     * With two_term: q[2, n], sum[2, n / 16], d = (amax / 127) / 256, q[0] as above, and
     *   q[1] = round-half-even(256 * (x * (127 / amax) - q[0])), clamped to -127 .. 127
     * q and d are 0 where 127 / amax overflows (amax < 3.8e-37). If a value is not finite, d is NaN and q is 0. */
    void (*quantize_q8)(const float *x, int64_t n, bool two_term, int8_t *q, float *d, int16_t *sum);

    /* y[t, r] = sum_k W[r, k] x[t, k] for rows r in [row0, row1), tokens t in [0, n); y is indexed by absolute row and has
     * row stride ldy. W has a quantized type. Order: groups of 16 or 32 columns in sequence, starting from acc = 0:
     *   acc = acc + (float)isum * (scale[r, g] * d[t, g'])        isum = sum of q_w q_x over the group, exact
     *   acc = acc - (float)xsum * (min[r, g] * d[t, g'])          only if the type has mins; xsum = sum of q_x
     * where two-term x has q_x = 256 * q[0] + q[1].
     * prepare_q8 comes first: it brings x into the form that matmul_q8 wants for a W of this type and cols, if it wants another.
     * Then matmul_q8 may be called for any rows of any such W with the same x, n and scratch, until the scratch is used otherwise.
     * scratch: eg_matmul_scratch_bytes(cols) bytes, 64-byte aligned, one per thread. */
    void (*prepare_q8)(const eg_q8 *x, int64_t n, const eg_matrix *w, void *scratch);
    void (*matmul_q8)(float *y, int64_t ldy, const eg_q8 *x, int64_t n, const eg_matrix *w, int64_t row0, int64_t row1,
                      void *scratch);

    /* The same for W of F32, F16 or BF16 and float x with row stride ldx; any cols. Order: 16 lanes,
     *   lane[l] = fma(W[16 i + l], x[16 i + l], lane[l]) for i = 0, 1, ... (columns beyond the last count as 0),
     * then the lanes are added pairwise: l + (l+8), l + (l+4), l + (l+2), l + (l+1). */
    void (*matmul_float)(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t n, const eg_matrix *w, int64_t row0,
                         int64_t row1, void *scratch);

    /* y[n] = x[n] / sqrt(mean(x^2) + eps) * w[n]; w NULL: ones. The sum of squares in 16 lanes as above. y may be x. */
    void (*rms_norm)(float *y, const float *x, const float *w, int64_t n, float eps);

    /* y[n] = gelu_tanh(gate[n]) * up[n]. y may be gate or up. */
    void (*gelu_mul)(float *y, const float *gate, const float *up, int64_t n);

    /* y[n] = up[n] / (1 + e^-gate[n]); with up = gate this is silu. y may be gate or up. */
    void (*sigmoid_mul)(float *y, const float *gate, const float *up, int64_t n);

    /* x[n] = cap * tanh(x[n] / cap) */
    void (*softcap)(float *x, int64_t n, float cap);

    /* One row of K or V into the cache: src[head_dim] -> dst. Q8: per 32 values as quantize_q8. */
    void (*kv_store)(eg_kv_type format, void *dst, const float *src, int64_t head_dim);

    /* Attention of `heads` query heads that share one KV head, for n queries at positions first .. first+n-1:
     *   o[t, h, :] = sum_j p_j v_j,  p = softmax over j of q[t, h, :] . k_j,
     *   j from max(0, first + t - window + 1) (window 0: from 0) to first + t, or, unless it is negative, to `until`, which is
     *   not below first + n - 1: then the queries see what comes behind them, as the tokens of a picture do.
     * q and o: [n, heads, head_dim], row strides ldq and ldo between tokens, heads contiguous.
     * Online softmax in blocks of 32 keys within spans of EG_SPAN keys; then the spans are merged in sequence. Blocks and
     * spans begin at positions that are multiples of their size, so the order of a query's sum depends on its position
     * alone.
     * scratch: eg_attention_scratch_bytes(head_dim, heads, n). */
    void (*attention)(float *o, int64_t ldo, const float *q, int64_t ldq, int64_t n, int64_t first, int64_t until,
                      int64_t heads, int64_t head_dim, const eg_kv_view *kv, int64_t window, void *scratch);

    /* The same in two steps, so that threads can share the keys of few queries.
     *   attention_span: the partial result of keys span * EG_SPAN .. span * EG_SPAN + EG_SPAN - 1 for at most EG_SPAN_QUERIES
     *     queries, as eg_attention_partial_floats(head_dim, n * heads) floats.
     *   attention_merge: o[head_dim] of one row (row t * heads + h is query t, head h), from the partial results of all spans
     *     that the n queries see. They lie in `partials` one after the other; the row in the first one is overwritten. */
    void (*attention_span)(float *partial, const float *q, int64_t ldq, int64_t n, int64_t first, int64_t until, int64_t heads,
                           int64_t head_dim, const eg_kv_view *kv, int64_t window, int64_t span, void *scratch);
    void (*attention_merge)(float *o, float *partials, int64_t n_partials, int64_t rows, int64_t row, int64_t head_dim);

    /* One row with a fixed step > 0: x[n] -> q[n] = round-half-even(x / step), clamped to -128 .. 127; *sum = sum of q.
     * n is a multiple of 32. Returns the step. If a value is not finite, q and *sum are 0 and the result is NaN. */
    float (*quantize_i8)(const float *x, int64_t n, float step, int8_t *q, int32_t *sum);

    /* matmul_q8 for W of QC2, QC4 or QC8 with at most EG_CHANNEL_COLS columns, and x with a fixed step:
     *   y[t, r] = (float)isum * (scale[r] * d[t])                 isum = sum of q_w q_x over the whole row, exact */
    void (*matmul_i8)(float *y, int64_t ldy, const eg_i8 *x, int64_t n, const eg_matrix *w, int64_t row0, int64_t row1,
                      void *scratch);

    /* x[n] = step * round-half-even(x / step), the quotient clamped to -128 .. 127; step > 0. NaN stays NaN. */
    void (*fake_quant_i8)(float *x, int64_t n, float step);

    /* The sum of e^(x[n] - best), in 16 lanes: lane[l] += e^(x[16 i + l] - best) for i = 0, 1, ... (values beyond the last count as
     * -infinity), then the lanes are added pairwise as in matmul_float. */
    float (*exp_sum)(const float *x, int64_t n, float best);

    /* Attention in encoders: one head, where every query sees every key.
     *   o[t, :] = sum_j p_j v_j,  p = softmax over j of q[t, :] . k_j
     * head_dim is a multiple of 4, at most EG_SEEN_HEAD. Products are products of integers, summed exactly.
     *
     * bidirectional_pack: the keys and values of blocks block0 .. block1 - 1 into the set's own layout. A block has
     * EG_SEEN_KEYS keys, the last one what is left of n_keys. Rows of k and v, with strides ldk and ldv, begin with the first
     * key of block0. Calls for different blocks may run at the same time.
     *   A key k[head_dim] as integers q with a scale d:
     *     amax = max |k|,  z = k * (1 / amax),  s = min(8191, 46330 / sqrt(sum of z^2)), summed by fma in sequence
     *     q = round-half-even(k * (s * (1 / amax))),  d = amax / s
     *   So |q| <= 8191, and q as a vector is shorter than 2^15.5: the product of two of them is below 2^31 (Cauchy-Schwarz).
     *   The values of a block have one scale:
     *     amax = max |v|,  q = round-half-even(v * (8191 / amax)),  d = amax / 8191
     *   q and d are 0 where 8191 / amax overflows. If a number in k or v is not finite, or beyond 2^59, all results are NaN.
     *
     * bidirectional: n queries, rows of q, to rows of o; o may be q. A query has integers and a scale dq as a key has. If
     * a number in it is not finite, or beyond 2^59, its result is NaN, and that of no other. With D = dq * log2(e), from
     * m = -infinity, l = 0 and acc = 0, for the blocks of keys in sequence:
     *   t_j = (float)isum * dk_j                                       isum = sum of q q_j, exact
     *   b = max t_j,  p_j = round-half-even(4095 * 2^((t_j - b) * D))
     *   m' = max(m, b * D),  c = 2^(m - m'),  f = 2^(b * D - m')
     *   l = fma((float)(sum of p_j), f, l * c)
     *   acc[i] = fma((float)isum, f * dv, acc[i] * c)                  isum = sum of p_j q_v[j, i], exact: below 2^31
     * and then o[i] = acc[i] * (1 / l).
     *
     * packed: eg_bidirectional_bytes(head_dim, n_keys) bytes; scratch: eg_bidirectional_scratch_bytes(head_dim), one per
     * thread. Both are 64-byte aligned. */
    void (*bidirectional_pack)(void *packed, const float *k, int64_t ldk, const float *v, int64_t ldv, int64_t n_keys,
                               int64_t block0, int64_t block1, int64_t head_dim);
    void (*bidirectional)(float *o, int64_t ldo, const float *q, int64_t ldq, int64_t n, const void *packed, int64_t n_keys,
                          int64_t head_dim, void *scratch);

    /* matmul_float for many tokens, on integers of 14 bits: about twice as fast as floats from 128 tokens on, with
     * an error of about 0.02%. W is F32, F16 or BF16, and cols a multiple of 4.
     *
     * pack_i16: tokens t0 .. t1 - 1 of x[n, cols] as integers, in the set's own layout; t0 is a multiple of 16, and so is
     * t1 unless it is n. Calls for different tokens may run at the same time. Each 128 columns of a token become integers
     * q with a scale d as a key of bidirectional does, but d is NaN if a number is not finite, or beyond 2^59.
     *
     * matmul_i16: y[t, r] = sum_k W[r, k] x[t, k] for rows r in [row0, row1) and all n tokens. Each 128 columns of a row
     * of W become integers and a scale in the same way. Order: groups of 128 columns in sequence, starting from acc = 0:
     *   acc = fma((float)isum, d_w[r, g] * d_x[t, g], acc)             isum = sum of q_w q_x over the group, exact
     *
     * packed: eg_i16_bytes(n, cols) bytes; scratch: eg_matmul_i16_scratch_bytes(), one per thread. Both are 64-byte
     * aligned. */
    void (*pack_i16)(void *packed, const float *x, int64_t ldx, int64_t n, int64_t cols, int64_t t0, int64_t t1);
    void (*matmul_i16)(float *y, int64_t ldy, const void *packed, int64_t n, const eg_matrix *w, int64_t row0, int64_t row1,
                       void *scratch);
} eg_kernels;

/* Scratch of one thread, in bytes. */
size_t eg_matmul_scratch_bytes(int64_t cols);
size_t eg_attention_scratch_bytes(int64_t head_dim, int64_t heads, int64_t n);
size_t eg_bidirectional_bytes(int64_t head_dim, int64_t n_keys);
size_t eg_bidirectional_scratch_bytes(int64_t head_dim);
size_t eg_i16_bytes(int64_t n, int64_t cols);
size_t eg_matmul_i16_scratch_bytes(void);
/* Floats of the partial result of attention_span; rows = queries * heads. */
size_t eg_attention_partial_floats(int64_t head_dim, int64_t rows);

/* The kernels of this machine: the best set that the processor and the operating system support, or the set that the
 * environment variable EDGE_GEMMA_ISA names, if it is supported. Chosen at the first call; any thread may call. */
const eg_kernels *eg_kernels_get(void);

/* The compiled sets by index, best last; NULL past the end. *supported: whether this machine can run the set. */
const eg_kernels *eg_kernels_at(size_t index, bool *supported);

#endif
