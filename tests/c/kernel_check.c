/* Runs every kernel of every set that this machine supports on numbers from a fixed generator, and prints a checksum of each
 * result. All sets on all machines must print the same checksums. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/thread.h"
#include "kernels/kernels.h"

static uint64_t state;

static uint32_t next(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static float number(void) { return (float)((int32_t)(next() % 2000001) - 1000000) * 2e-6f; }

static uint64_t hash(const void *data, size_t n)
{
    const uint8_t *p = data;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static void *memory(size_t n)
{
    void *p = eg_aligned_alloc(64, (n + 63) / 64 * 64 + 64);
    if (!p) exit(2);
    memset(p, 0, n);
    return p;
}

static void release(void *p) { eg_aligned_free(p); }

static void fill(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] = number();
}

/* Random blocks. Scales get small finite halves (an exponent of 2 for MXFP4), so that no sum is NaN: the bits of a NaN differ
 * between processors. */
static void fill_blocks(const eg_type_info *type, uint8_t *blocks, int64_t count)
{
    static const struct {
        uint32_t id;
        int at, at2;
    } halves[] = {
        {EG_TYPE_Q2_K, 80, 82},  {EG_TYPE_Q3_K, 108, 108}, {EG_TYPE_Q6_K, 208, 208}, {EG_TYPE_TQ1_0, 52, 52},
        {EG_TYPE_TQ2_0, 64, 64}, {EG_TYPE_Q4_1, 0, 2},     {EG_TYPE_Q5_1, 0, 2},     {EG_TYPE_Q4_K, 0, 2},
        {EG_TYPE_Q5_K, 0, 2},    {EG_TYPE_F16, 0, 0},      {EG_TYPE_BF16, 0, 0},
    };
    int at = 0, at2 = 0;
    for (size_t i = 0; i < sizeof halves / sizeof *halves; i++)
        if (halves[i].id == type->id) at = halves[i].at, at2 = halves[i].at2;
    for (int64_t b = 0; b < count; b++) {
        uint8_t *p = blocks + b * type->bytes;
        for (int i = 0; i < type->bytes; i++) p[i] = (uint8_t)next();
        if (type->id == EG_TYPE_F32) {
            float f = number();
            memcpy(p, &f, 4);
        } else if (type->id == EG_TYPE_MXFP4) {
            p[0] = (uint8_t)(120 + next() % 8);
        } else {
            uint16_t h = (uint16_t)((next() & 0x83ff) | 0x2c00);
            memcpy(p + at, &h, 2);
            memcpy(p + at2, &h, 2);
        }
    }
}

static void check_matrices(const eg_kernels *k)
{
    /* tokens, rows, columns */
    static const int sizes[][3] = {{1, 16, 256}, {2, 33, 768}, {3, 18, 512}, {4, 21, 2304}, {7, 17, 1280}, {9, 48, 512}};
    const eg_type_info *type;
    for (size_t i = 0; (type = eg_type_at(i)); i++) {
        uint64_t sum = 0;
        for (size_t s = 0; s < 2 * sizeof sizes / sizeof *sizes; s++) {
            const int *size = sizes[s / 2];
            const bool two_term = s % 2 == 1;
            int64_t n = size[0], rows = size[1], cols = size[2], blocks = rows * cols / type->block, terms = two_term ? 2 : 1;
            uint8_t *w = memory((size_t)blocks * type->bytes);
            float *x = memory((size_t)(n * cols) * 4), *y = memory((size_t)(n * rows) * 4);
            eg_q8 q8 = {memory((size_t)(n * terms * cols)), memory((size_t)(n * cols / 8)),
                        memory((size_t)(n * terms * cols / 8)), two_term};
            void *scratch = memory(eg_matmul_scratch_bytes(cols));
            eg_matrix m = {
                .data = w, .type = type, .rows = rows, .cols = cols, .row_bytes = (size_t)(cols / type->block) * type->bytes};
            fill_blocks(type, w, blocks);
            fill(x, n * cols);
            for (int64_t t = 0; t < n; t++)
                k->quantize_q8(x + t * cols, cols, two_term, q8.q + t * terms * cols, q8.d + t * cols / 32,
                               q8.sum + t * terms * cols / 16);
            if (type->group) {
                k->prepare_q8(&q8, n, &m, scratch);
                k->matmul_q8(y, rows, &q8, n, &m, 0, rows, scratch);
            } else k->matmul_float(y, rows, x, cols, n, &m, 0, rows, scratch);
            sum = sum * 31 + hash(y, (size_t)(n * rows) * 4) + hash(q8.q, (size_t)(n * terms * cols)) +
                  hash(q8.sum, (size_t)(n * terms * cols / 8));
            release(w), release(x), release(y), release(q8.q), release(q8.d), release(q8.sum), release(scratch);
        }
        printf("%s %s %016llx\n", k->name, type->name, (unsigned long long)sum);
    }
}

/* Per-channel types, with a step so small that some activations are clamped to -128 and 127. */
static void check_channels(const eg_kernels *k)
{
    /* tokens, rows, columns */
    static const int sizes[][3] = {{1, 16, 256}, {2, 33, 768}, {3, 18, 512}, {4, 21, 2304}, {7, 17, 1280}, {9, 48, 512}};
    const eg_type_info *type;
    for (size_t i = 0; (type = eg_type_at(i)); i++) {
        if (!eg_type_per_channel(type)) continue;
        uint64_t sum = 0;
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            int64_t n = sizes[s][0], rows = sizes[s][1], cols = sizes[s][2];
            size_t row_bytes = (size_t)(cols / type->block) * type->bytes;
            uint8_t *w = memory((size_t)rows * row_bytes);
            float *x = memory((size_t)(n * cols) * 4), *y = memory((size_t)(n * rows) * 4), *scale = memory((size_t)rows * 4);
            eg_i8 i8 = {memory((size_t)(n * cols)), memory((size_t)n * 4), memory((size_t)n * 4)};
            void *scratch = memory(eg_matmul_scratch_bytes(cols));
            eg_matrix m = {w, type, rows, cols, row_bytes, scale, 1, 0.011f, 0.7f, false};
            for (size_t b = 0; b < (size_t)rows * row_bytes; b++) w[b] = (uint8_t)next();
            fill(x, n * cols);
            fill(scale, rows);
            for (int64_t t = 0; t < n; t++)
                i8.d[t] = k->quantize_i8(x + t * cols, cols, m.in_step, i8.q + t * cols, i8.sum + t);
            k->matmul_i8(y, rows, &i8, n, &m, 0, rows, scratch);
            sum = sum * 31 + hash(y, (size_t)(n * rows) * 4) + hash(i8.q, (size_t)(n * cols)) + hash(i8.sum, (size_t)n * 4);
            k->fake_quant_i8(y, n * rows, m.out_step);
            sum += hash(y, (size_t)(n * rows) * 4);
            release(w), release(x), release(y), release(scale), release(i8.q), release(i8.d), release(i8.sum), release(scratch);
        }
        printf("%s %s-per-channel %016llx\n", k->name, type->name, (unsigned long long)sum);
    }
}

static void check_attention(const eg_kernels *k)
{
    for (int format = EG_KV_F16; format <= EG_KV_Q8; format++)
        for (int window = 0; window < 40; window += 13) {
            enum { N = 21, M = 75, HEADS = 3, D = 40 };
            size_t row = eg_kv_row_bytes((eg_kv_type)format, D);
            uint8_t *keys = memory(M * row), *values = memory(M * row);
            float *x = memory(N * HEADS * D * 4), *o = memory(N * HEADS * D * 4), source[D];
            void *scratch = memory(eg_attention_scratch_bytes(D, HEADS, N));
            for (size_t p = 0; p < M; p++) {
                fill(source, D);
                k->kv_store((eg_kv_type)format, keys + p * row, source, D);
                fill(source, D);
                k->kv_store((eg_kv_type)format, values + p * row, source, D);
            }
            fill(x, N * HEADS * D);
            eg_kv_view view = {keys, values, row, M, (eg_kv_type)format};
            k->attention(o, HEADS * D, x, HEADS * D, N, M - N, -1, HEADS, D, &view, window, scratch);
            printf("%s attention %d %d %016llx\n", k->name, format, window, (unsigned long long)hash(o, N * HEADS * D * 4));
            release(keys), release(values), release(x), release(o), release(scratch);
        }
}

/* Products of floats as integers of 14 bits: a partial group of columns, block of tokens and vector of rows. */
static void check_i16(const eg_kernels *k)
{
    static const uint32_t ids[] = {EG_TYPE_F32, EG_TYPE_F16, EG_TYPE_BF16};
    const eg_type_info *type;
    for (size_t i = 0; (type = eg_type_at(i)); i++) {
        enum { N = 37, ROWS = 53, COLS = 300 };
        if (type->id != ids[0] && type->id != ids[1] && type->id != ids[2]) continue;
        uint8_t *w = memory((size_t)(ROWS * COLS * type->bytes));
        float *x = memory(N * COLS * 4), *y = memory(N * ROWS * 4);
        void *packed = memory(eg_i16_bytes(N, COLS)), *scratch = memory(eg_matmul_i16_scratch_bytes());
        eg_matrix m = {.data = w, .type = type, .rows = ROWS, .cols = COLS, .row_bytes = (size_t)(COLS * type->bytes)};
        fill_blocks(type, w, ROWS * COLS);
        fill(x, N * COLS);
        k->pack_i16(packed, x, COLS, N, COLS, 0, N);
        k->matmul_i16(y, ROWS, packed, N, &m, 0, ROWS, scratch);
        printf("%s i16 %s %016llx\n", k->name, type->name, (unsigned long long)hash(y, N * ROWS * 4));
        release(w), release(x), release(y), release(packed), release(scratch);
    }
}

/* The attention of encoders, with a partial block of keys and a partial vector of queries. */
static void check_bidirectional(const eg_kernels *k)
{
    static const int dims[] = {4, 16, 64, 72, 128};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        enum { N = 77, M = 203 };
        const int64_t d = dims[i], blocks = (M + EG_SEEN_KEYS - 1) / EG_SEEN_KEYS;
        float *q = memory((size_t)(N * d) * 4), *keys = memory((size_t)(M * d) * 4), *values = memory((size_t)(M * d) * 4);
        float *o = memory((size_t)(N * d) * 4);
        void *packed = memory(eg_bidirectional_bytes(d, M)), *scratch = memory(eg_bidirectional_scratch_bytes(d));
        fill(q, N * d);
        fill(keys, M * d);
        fill(values, M * d);
        k->bidirectional_pack(packed, keys, d, values, d, M, 0, blocks, d);
        k->bidirectional(o, d, q, d, N, packed, M, d, scratch);
        printf("%s bidirectional %d %016llx\n", k->name, dims[i], (unsigned long long)hash(o, (size_t)(N * d) * 4));
        release(q), release(keys), release(values), release(o), release(packed), release(scratch);
    }
}

static void check_vectors(const eg_kernels *k)
{
    enum { N = 1001 };
    static float x[N], w[N], y[N];
    fill(x, N);
    fill(w, N);
    k->rms_norm(y, x, w, N, 1e-6f);
    printf("%s rms_norm %016llx\n", k->name, (unsigned long long)hash(y, sizeof y));
    for (int i = 0; i < N; i++) x[i] *= 6;
    k->gelu_mul(y, x, w, N);
    printf("%s gelu_mul %016llx\n", k->name, (unsigned long long)hash(y, sizeof y));
    k->sigmoid_mul(y, x, w, N);
    printf("%s sigmoid_mul %016llx\n", k->name, (unsigned long long)hash(y, sizeof y));
    k->softcap(x, N, 3);
    printf("%s softcap %016llx\n", k->name, (unsigned long long)hash(x, sizeof x));
}

int main(void)
{
    bool supported;
    const eg_kernels *k;
    for (size_t i = 0; (k = eg_kernels_at(i, &supported)); i++) {
        if (!supported) continue;
        state = 1;
        check_matrices(k);
        check_channels(k);
        check_attention(k);
        check_i16(k);
        check_bidirectional(k);
        check_vectors(k);
    }
    return 0;
}
