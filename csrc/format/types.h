/* GGML tensor types: a table row and an unpacking function for each.
 *
 * Every quantized type is unpacked to the same form: value[i] = scale[i / group] * q[i] - min[i / group], with int8 q. The
 * matrix kernels work on that form, and dequantization is that formula. So a new type needs one row of the table and one
 * `unpack`. Files and matrices are not its concern.
 */
#ifndef EG_FORMAT_TYPES_H
#define EG_FORMAT_TYPES_H

#include "../base/exact.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The type numbers of GGUF files. */
enum {
    EG_TYPE_F32 = 0,
    EG_TYPE_F16 = 1,
    EG_TYPE_Q4_0 = 2,
    EG_TYPE_Q4_1 = 3,
    EG_TYPE_Q5_0 = 6,
    EG_TYPE_Q5_1 = 7,
    EG_TYPE_Q8_0 = 8,
    EG_TYPE_Q2_K = 10,
    EG_TYPE_Q3_K = 11,
    EG_TYPE_Q4_K = 12,
    EG_TYPE_Q5_K = 13,
    EG_TYPE_Q6_K = 14,
    EG_TYPE_IQ2_XXS = 16,
    EG_TYPE_IQ2_XS = 17,
    EG_TYPE_IQ3_XXS = 18,
    EG_TYPE_IQ4_NL = 20,
    EG_TYPE_IQ3_S = 21,
    EG_TYPE_IQ2_S = 22,
    EG_TYPE_IQ4_XS = 23,
    EG_TYPE_BF16 = 30,
    EG_TYPE_TQ1_0 = 34,
    EG_TYPE_TQ2_0 = 35,
    EG_TYPE_MXFP4 = 39,
    /* "QC": quantized per channel, to 2, 4 or 8 bits. A row of W makes one output channel of y = W x and has one scale,
     * which is in a tensor of its own (nn/binder.h). GGML does not have these types. */
    EG_TYPE_QC2 = 0x45470002,
    EG_TYPE_QC4 = 0x45470004,
    EG_TYPE_QC8 = 0x45470008
};

/* Unpacks n values (a multiple of the block) from `blocks` (any alignment): q[n], scale[n / group] and, if the type has mins,
 * min[n / group]. For other types min is untouched and may be NULL. */
typedef void eg_unpack(const void *blocks, int64_t n, int8_t *q, float *scale, float *min);

typedef struct eg_type_info {
    const char *name; /* "Q4_0" */
    uint32_t id; /* EG_TYPE_... */
    uint16_t block, bytes; /* values per block, bytes per block */
    uint16_t group; /* values that share a scale once unpacked: 16 or 32; 0 for F32, F16, BF16 */
    bool has_min;
    eg_unpack *unpack; /* NULL for F32, F16, BF16 */
} eg_type_info;

/* The row of a type; NULL if unknown. */
const eg_type_info *eg_type_find(uint32_t id);

/* The name of a type by its number, also of GGML's types that this engine cannot read; NULL for other numbers. */
const char *eg_type_name(uint32_t id);

/* Whether the type is QC2, QC4 or QC8: its blocks have no scales. They unpack to integers with scales of 1, and the scale of
 * the row is in another tensor. */
bool eg_type_per_channel(const eg_type_info *type);

/* A row of the table by its index, for listing; NULL past the end. */
const eg_type_info *eg_type_at(size_t index);

/* out[n] = the values of n / block blocks, equal to what the gguf package computes. n is a multiple of the block. */
void eg_type_to_float(const eg_type_info *type, const void *blocks, int64_t n, float *out);

#endif
