/* The set "scalar": the kernels in plain C. All other sets must give the same bits, and it runs on processors that support no
 * other set. */
#include "internal.h"

#include "../format/half.h"

typedef struct vec {
    float v[16];
} vec;

#define EACH(expression) \
    vec y; \
    for (int i = 0; i < 16; i++) y.v[i] = (expression); \
    return y

EG_INLINE vec vec_load(const void *p)
{
    vec y;
    memcpy(&y, p, sizeof y);
    return y;
}

EG_INLINE vec vec_load_f16(const void *p) { EACH(eg_half_to_float(eg_load_u16((const uint8_t *)p + 2 * i))); }
EG_INLINE vec vec_load_bf16(const void *p) { EACH(eg_bits_to_float((uint32_t)eg_load_u16((const uint8_t *)p + 2 * i) << 16)); }
EG_INLINE vec vec_load_i8(const void *p) { EACH((float)((const int8_t *)p)[i]); }
EG_INLINE void vec_store(void *p, vec a) { memcpy(p, &a, sizeof a); }

EG_INLINE void vec_store_f16(void *p, vec a)
{
    uint16_t half[16];
    for (int i = 0; i < 16; i++) half[i] = eg_float_to_half(a.v[i]);
    memcpy(p, half, sizeof half);
}

EG_INLINE vec vec_set(float a) { EACH(a); }
EG_INLINE vec vec_add(vec a, vec b) { EACH(a.v[i] + b.v[i]); }
EG_INLINE vec vec_sub(vec a, vec b) { EACH(a.v[i] - b.v[i]); }
EG_INLINE vec vec_mul(vec a, vec b) { EACH(a.v[i] * b.v[i]); }
EG_INLINE vec vec_fma(vec a, vec b, vec c) { EACH(fmaf(a.v[i], b.v[i], c.v[i])); }
EG_INLINE vec vec_div(vec a, vec b) { EACH(a.v[i] / b.v[i]); }
EG_INLINE vec vec_max(vec a, vec b) { EACH(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
EG_INLINE vec vec_min(vec a, vec b) { EACH(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
EG_INLINE vec vec_if_gt(vec a, vec b, vec x, vec z) { EACH(a.v[i] > b.v[i] ? x.v[i] : z.v[i]); }
EG_INLINE vec vec_power(vec k) { EACH(eg_bits_to_float((eg_float_to_bits(k.v[i]) + 126u) << 23)); }

EG_INLINE float vec_sum(vec a)
{
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++) a.v[i] += a.v[i + half];
    return a.v[0];
}

EG_INLINE float vec_max_across(vec a)
{
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    return a.v[0];
}

/* |a| < 2^22, so adding 1.5 * 2^23 rounds to the nearest integer, ties to even. */
EG_INLINE int vec_store_i8(int8_t *q, vec a)
{
    int sum = 0;
    for (int i = 0; i < 16; i++) {
        q[i] = (int8_t)(a.v[i] + 0x1.8p23f - 0x1.8p23f);
        sum += q[i];
    }
    return sum;
}

enum { EG_REGISTER_ROWS = 2, EG_REGISTER_COLS = 1, EG_F16_IN_PLACE = 0 };
#include "lanes.inc"

typedef struct ints {
    int32_t v[16];
} ints;

#define EACH_INT(expression) \
    ints y; \
    for (int i = 0; i < 16; i++) y.v[i] = (expression); \
    return y

EG_INLINE ints ints_load(const void *p)
{
    ints y;
    memcpy(&y, p, sizeof y);
    return y;
}

EG_INLINE void ints_store(void *p, ints a) { memcpy(p, &a, sizeof a); }
EG_INLINE ints ints_set32(int32_t a) { EACH_INT(a); }
EG_INLINE ints ints_add(ints a, ints b) { EACH_INT(a.v[i] + b.v[i]); }
EG_INLINE vec ints_to_vec(ints a) { EACH((float)a.v[i]); }
EG_INLINE void ints_gather(const uint8_t *p, size_t stride, ints out[4])
{
    for (int r = 0; r < 16; r++)
        for (int i = 0; i < 4; i++) memcpy(&out[i].v[r], p + (size_t)r * stride + 4 * i, 4);
}

EG_INLINE ints ints_round(vec a) { EACH_INT((int32_t)(a.v[i] + 0x1.8p23f - 0x1.8p23f)); }
EG_INLINE ints ints_join(ints a, ints b) { EACH_INT((int32_t)(((uint32_t)a.v[i] & 0xffff) | (uint32_t)b.v[i] << 16)); }
EG_INLINE vec vec_times_power(vec a, vec k)
{
    EACH(eg_bits_to_float(eg_float_to_bits(a.v[i]) + (eg_float_to_bits(k.v[i]) << 23)));
}

EG_INLINE ints ints_dot_pairs(ints acc, ints w, int32_t pair)
{
    const int16_t low = (int16_t)pair, high = (int16_t)(pair >> 16);
    EACH_INT(acc.v[i] + (int16_t)w.v[i] * low + (int16_t)(w.v[i] >> 16) * high);
}

enum { PANEL_ROWS = 8, PANEL_VECTORS = 1 };
#include "panels.inc"

/* The dot product of one group of int8 weights and activations. */
EG_INLINE int32_t dot_i8(const int8_t *a, const int8_t *b, const int n)
{
    int32_t sum = 0;
    for (int i = 0; i < n; i++) sum += (int32_t)a[i] * b[i];
    return sum;
}

/* acc plus the products of one unpacked segment of a row with token t: n columns from column k on. */
EG_INLINE float add_groups(float acc, const eg_scratch *row, const eg_q8 *x, int64_t t, int64_t cols, int64_t k, int64_t n,
                           const int group, bool has_min)
{
    const int terms = x->two_term ? 2 : 1;
    for (int64_t g = 0; g < n / group; g++) {
        float factor = x->d[(t * cols + k + g * group) / 32];
        int32_t dot = 0, total = 0;
        for (int term = 0; term < terms; term++) {
            const int64_t at = (t * terms + term) * cols + k + g * group;
            dot = 256 * dot + dot_i8(row->plain + g * group, x->q + at, group);
            total = 256 * total + eg_group_total(x->sum + at / 16, 0, group);
        }
        acc += (float)dot * (row->plain_scale[g] * factor);
        if (has_min) acc -= (float)total * (row->plain_min[g] * factor);
    }
    return acc;
}

void eg_matmul_q8_scalar(float *y, int64_t ldy, const eg_q8 *x, int64_t n, const eg_matrix *w, int64_t row0, int64_t row1,
                         void *scratch)
{
    const eg_type_info *type = w->type;
    eg_scratch *row = scratch;
    for (int64_t r = row0; r < row1; r++) {
        for (int64_t k = 0; k < w->cols; k += EG_SEGMENT) {
            int64_t count = eg_smaller(EG_SEGMENT, w->cols - k);
            type->unpack(w->data + (size_t)r * w->row_bytes + (size_t)(k / type->block) * type->bytes, count, row->plain,
                         row->plain_scale, row->plain_min);
            for (int64_t t = 0; t < n; t++) {
                float acc = k ? y[t * ldy + r] : 0.0f;
                if (type->group == 16) acc = add_groups(acc, row, x, t, w->cols, k, count, 16, type->has_min);
                else acc = add_groups(acc, row, x, t, w->cols, k, count, 32, type->has_min);
                y[t * ldy + r] = acc;
            }
        }
    }
}

static void prepare_q8(const eg_q8 *x, int64_t n, const eg_matrix *w, void *scratch)
{
    (void)x, (void)n, (void)w, (void)scratch;
}

/* Between the segments of a row, y holds the bits of the integer sums so far. */
void eg_matmul_i8_scalar(float *y, int64_t ldy, const eg_i8 *x, int64_t n, const eg_matrix *w, int64_t row0, int64_t row1,
                         void *scratch)
{
    const eg_type_info *type = w->type;
    eg_scratch *row = scratch;
    for (int64_t r = row0; r < row1; r++) {
        for (int64_t k = 0; k < w->cols; k += EG_SEGMENT) {
            int64_t count = eg_smaller(EG_SEGMENT, w->cols - k);
            type->unpack(w->data + (size_t)r * w->row_bytes + (size_t)(k / type->block) * type->bytes, count, row->plain,
                         row->plain_scale, NULL);
            for (int64_t t = 0; t < n; t++) {
                int32_t sum = 0;
                if (k) memcpy(&sum, &y[t * ldy + r], sizeof sum);
                for (int64_t i = 0; i < count; i += 32) sum += dot_i8(row->plain + i, x->q + t * w->cols + k + i, 32);
                if (k + count < w->cols) memcpy(&y[t * ldy + r], &sum, sizeof sum);
                else y[t * ldy + r] = (float)sum * (w->scale[r] * x->d[t]);
            }
        }
    }
}

/* In rows, as EG_KERNEL_SET has them. */
/* clang-format off */
const eg_kernels eg_kernels_scalar = {
    "scalar",            quantize_q8,   prepare_q8, eg_matmul_q8_scalar, matmul_float,   rms_norm,        gelu_mul,
    sigmoid_mul,         softcap,       kv_store,   attention,           attention_span, attention_merge, quantize_i8,
    eg_matmul_i8_scalar, fake_quant_i8, exp_sum,    bidirectional_pack,  bidirectional,  pack_i16,        matmul_i16,
};
/* clang-format on */
