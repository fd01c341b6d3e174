/* Unpacks the types with 32-value blocks of plain integers, the K-quants and the per-channel types.
 *
 * Owns their byte layouts; types with codebooks are in unpack_iq.c. Each function turns blocks into value[i] = scale[i /
 * group] * q[i] - min[i / group]. The comment of a function has the layout of a block and the formula of the type, where n is
 * a code. scale and min are computed with the float operations of that formula in its order, so that values have the same
 * bits.
 *
 * Loops read fields of 1, 2 or 4 bits at one shift from consecutive bytes, so that they vectorize.
 */
#include <string.h>

#include "half.h"
#include "unpack.h"

/* 16 bytes -> 32 nibbles, the low ones first. */
static inline void nibbles(const uint8_t *restrict qs, int offset, int8_t *restrict q)
{
    for (int i = 0; i < 16; i++) {
        q[i] = (int8_t)((qs[i] & 15) - offset);
        q[i + 16] = (int8_t)((qs[i] >> 4) - offset);
    }
}

/* The same with a fifth bit: bit i of the 32 bits of qh[4] belongs to value i. */
static inline void nibbles_and_bit(const uint8_t *restrict qs, const uint8_t *restrict qh, int offset, int8_t *restrict q)
{
    static const uint8_t first[16] = {1, 2, 4, 8, 16, 32, 64, 128}, second[16] = {[8] = 1, 2, 4, 8, 16, 32, 64, 128};
    uint8_t a = qh[0], b = qh[1], c = qh[2], d = qh[3];
    for (int i = 0; i < 16; i++) {
        int low = (a & first[i]) | (b & second[i]), high = (c & first[i]) | (d & second[i]);
        q[i] = (int8_t)(((qs[i] & 15) | (low ? 16 : 0)) - offset);
        q[i + 16] = (int8_t)((qs[i] >> 4 | (high ? 16 : 0)) - offset);
    }
}

/* d f16, qs[16]: d * (n - 8) */
void eg_unpack_q4_0(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    (void)min;
    const uint8_t *b = blocks;
    for (int64_t k = 0; k < n / 32; k++, b += 18, q += 32) {
        scale[k] = eg_half_to_float(eg_load_u16(b));
        nibbles(b + 2, 8, q);
    }
}

/* d, m f16, qs[16]: d * n + m */
void eg_unpack_q4_1(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    const uint8_t *b = blocks;
    for (int64_t k = 0; k < n / 32; k++, b += 20, q += 32) {
        scale[k] = eg_half_to_float(eg_load_u16(b));
        min[k] = -eg_half_to_float(eg_load_u16(b + 2));
        nibbles(b + 4, 0, q);
    }
}

/* d f16, qh[4], qs[16]: d * (n - 16) */
void eg_unpack_q5_0(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    (void)min;
    const uint8_t *b = blocks;
    for (int64_t k = 0; k < n / 32; k++, b += 22, q += 32) {
        scale[k] = eg_half_to_float(eg_load_u16(b));
        nibbles_and_bit(b + 6, b + 2, 16, q);
    }
}

/* d, m f16, qh[4], qs[16]: d * n + m */
void eg_unpack_q5_1(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    const uint8_t *b = blocks;
    for (int64_t k = 0; k < n / 32; k++, b += 24, q += 32) {
        scale[k] = eg_half_to_float(eg_load_u16(b));
        min[k] = -eg_half_to_float(eg_load_u16(b + 2));
        nibbles_and_bit(b + 8, b + 4, 0, q);
    }
}

/* d f16, int8 qs[32]: d * n */
void eg_unpack_q8_0(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    (void)min;
    const uint8_t *b = blocks;
    for (int64_t k = 0; k < n / 32; k++, b += 34, q += 32) {
        scale[k] = eg_half_to_float(eg_load_u16(b));
        memcpy(q, b + 2, 32);
    }
}

/* s[16], qs[64], d, dmin f16: d * (s & 15) * n - dmin * (s >> 4), one s per 16 values.
 * 32 bytes of qs hold four runs of 32 values, two bits each. */
void eg_unpack_q2_k(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    const uint8_t *b = blocks;
    for (int64_t k = 0; k < n / 256; k++, b += 84, scale += 16, min += 16) {
        float d = eg_half_to_float(eg_load_u16(b + 80)), dmin = eg_half_to_float(eg_load_u16(b + 82));
        for (int j = 0; j < 16; j++) {
            scale[j] = d * (float)(b[j] & 15);
            min[j] = dmin * (float)(b[j] >> 4);
        }
        const uint8_t *qs = b + 16;
        for (int h = 0; h < 2; h++, qs += 32, q += 128) {
            for (int l = 0; l < 32; l++) {
                q[l] = (int8_t)(qs[l] & 3);
                q[l + 32] = (int8_t)(qs[l] >> 2 & 3);
                q[l + 64] = (int8_t)(qs[l] >> 4 & 3);
                q[l + 96] = (int8_t)(qs[l] >> 6);
            }
        }
    }
}

/* hmask[32], qs[64], s[12], d f16: d * (S - 32) * (n + 4 * bit - 4), one 6-bit S per 16 values.
 * qs as in Q2_K; bit j of hmask[l] belongs to value 32 j + l. S: low nibbles of s[0..7], then their high nibbles; the
 * upper two bits lie in s[8..11], one shift per four values of S. */
void eg_unpack_q3_k(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    (void)min;
    const uint8_t *b = blocks;
    for (int64_t k = 0; k < n / 256; k++, b += 110, scale += 16) {
        float d = eg_half_to_float(eg_load_u16(b + 108));
        const uint8_t *s = b + 96;
        for (int j = 0; j < 16; j++) {
            int low = s[j % 8] >> 4 * (j / 8) & 15, high = s[8 + j % 4] >> 2 * (j / 4) & 3;
            scale[j] = d * (float)((low | high << 4) - 32);
        }
        const uint8_t *qs = b + 32;
        for (int h = 0; h < 2; h++, qs += 32, q += 128) {
            for (int l = 0; l < 32; l++) {
                uint8_t bits = (uint8_t)(b[l] >> 4 * h), low = qs[l];
                q[l] = (int8_t)(((low & 3) | (bits << 2 & 4)) - 4);
                q[l + 32] = (int8_t)(((low >> 2 & 3) | (bits << 1 & 4)) - 4);
                q[l + 64] = (int8_t)(((low >> 4 & 3) | (bits & 4)) - 4);
                q[l + 96] = (int8_t)((low >> 6 | (bits >> 1 & 4)) - 4);
            }
        }
    }
}

/* Q4_K and Q5_K open with d, dmin f16 and s[12]: eight 6-bit multipliers for each, one pair per 32 values. The first
 * four of d lie in the low bits of s[0..3], of dmin in s[4..7]; the others have four bits in s[8..11] and their upper
 * two above those first ones. */
static inline void scales_and_mins(const uint8_t *restrict b, float *restrict scale, float *restrict min)
{
    float d = eg_half_to_float(eg_load_u16(b)), dmin = eg_half_to_float(eg_load_u16(b + 2));
    const uint8_t *s = b + 4;
    for (int j = 0; j < 4; j++) {
        scale[j] = d * (float)(s[j] & 63);
        min[j] = dmin * (float)(s[j + 4] & 63);
        scale[j + 4] = d * (float)((s[j + 8] & 15) | (s[j] >> 6 << 4));
        min[j + 4] = dmin * (float)(s[j + 8] >> 4 | (s[j + 4] >> 6 << 4));
    }
}

/* d, dmin f16, s[12], qs[128]: scale * n - min; 32 bytes of qs hold two runs of 32 values. */
void eg_unpack_q4_k(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    const uint8_t *b = blocks;
    for (int64_t k = 0; k < n / 256; k++, b += 144, scale += 8, min += 8) {
        scales_and_mins(b, scale, min);
        const uint8_t *qs = b + 16;
        for (int h = 0; h < 4; h++, qs += 32, q += 64) {
            for (int l = 0; l < 32; l++) {
                q[l] = (int8_t)(qs[l] & 15);
                q[l + 32] = (int8_t)(qs[l] >> 4);
            }
        }
    }
}

/* d, dmin f16, s[12], qh[32], qs[128]: as Q4_K; bit j of qh[l] is the fifth bit of value 32 j + l. */
void eg_unpack_q5_k(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    const uint8_t *b = blocks;
    for (int64_t k = 0; k < n / 256; k++, b += 176, scale += 8, min += 8) {
        scales_and_mins(b, scale, min);
        const uint8_t *qh = b + 16, *qs = b + 48;
        for (int h = 0; h < 4; h++, qs += 32, q += 64) {
            for (int l = 0; l < 32; l++) {
                uint8_t bits = (uint8_t)(qh[l] >> 2 * h);
                q[l] = (int8_t)((qs[l] & 15) | (bits << 4 & 16));
                q[l + 32] = (int8_t)(qs[l] >> 4 | (bits << 3 & 16));
            }
        }
    }
}

/* ql[128], qh[64], int8 s[16], d f16: d * s * (n - 32), one s per 16 values. For each 128 values, 64 bytes of ql hold
 * the low nibbles (two runs of 64) and 32 bytes of qh the upper two bits (four runs of 32). */
void eg_unpack_q6_k(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    (void)min;
    const uint8_t *b = blocks;
    for (int64_t k = 0; k < n / 256; k++, b += 210, scale += 16) {
        float d = eg_half_to_float(eg_load_u16(b + 208));
        int8_t s[16];
        memcpy(s, b + 192, 16);
        for (int j = 0; j < 16; j++) scale[j] = d * (float)s[j];
        const uint8_t *ql = b, *qh = b + 128;
        for (int h = 0; h < 2; h++, ql += 64, qh += 32, q += 128) {
            for (int l = 0; l < 32; l++) {
                q[l] = (int8_t)(((ql[l] & 15) | (qh[l] << 4 & 48)) - 32);
                q[l + 32] = (int8_t)(((ql[l + 32] & 15) | (qh[l] << 2 & 48)) - 32);
                q[l + 64] = (int8_t)((ql[l] >> 4 | (qh[l] & 48)) - 32);
                q[l + 96] = (int8_t)((ql[l + 32] >> 4 | (qh[l] >> 2 & 48)) - 32);
            }
        }
    }
}

/* QC2: n - 2; QC4: n - 8. 64 bytes hold four runs of 64 values with two bits each, or two runs with four bits. So a vector of
 * up to 64 bytes, shifted and masked, has the codes of neighbouring values, in the order of the activations. */
static void unpack_runs(const uint8_t *restrict b, int64_t n, const int bits, int8_t *restrict q, float *restrict scale)
{
    const int offset = 1 << (bits - 1), mask = (1 << bits) - 1, runs = 8 / bits;
    for (int64_t k = 0; k < n / (64 * runs); k++, b += 64)
        for (int r = 0; r < runs; r++, q += 64)
            for (int i = 0; i < 64; i++) q[i] = (int8_t)((b[i] >> bits * r & mask) - offset);
    for (int64_t g = 0; g < n / 32; g++) scale[g] = 1;
}

void eg_unpack_qc2(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    (void)min;
    unpack_runs(blocks, n, 2, q, scale);
}

void eg_unpack_qc4(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    (void)min;
    unpack_runs(blocks, n, 4, q, scale);
}

/* QC8: int8 n */
void eg_unpack_qc8(const void *restrict blocks, int64_t n, int8_t *restrict q, float *restrict scale, float *restrict min)
{
    (void)min;
    if (n > 0) memcpy(q, blocks, (size_t)n);
    for (int64_t g = 0; g < n / 32; g++) scale[g] = 1;
}
