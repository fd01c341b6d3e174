/* The table of tensor types, and dequantization: value = scale * q - min, one multiplication and one subtraction. The byte
 * layouts are in unpack.c and unpack_iq.c. */
#include "types.h"

#include <string.h>

#include "half.h"
#include "unpack.h"

static const eg_type_info types[] = {
    {"F32", EG_TYPE_F32, 1, 4, 0, false, NULL},
    {"F16", EG_TYPE_F16, 1, 2, 0, false, NULL},
    {"BF16", EG_TYPE_BF16, 1, 2, 0, false, NULL},
    {"Q4_0", EG_TYPE_Q4_0, 32, 18, 32, false, eg_unpack_q4_0},
    {"Q4_1", EG_TYPE_Q4_1, 32, 20, 32, true, eg_unpack_q4_1},
    {"Q5_0", EG_TYPE_Q5_0, 32, 22, 32, false, eg_unpack_q5_0},
    {"Q5_1", EG_TYPE_Q5_1, 32, 24, 32, true, eg_unpack_q5_1},
    {"Q8_0", EG_TYPE_Q8_0, 32, 34, 32, false, eg_unpack_q8_0},
    {"Q2_K", EG_TYPE_Q2_K, 256, 84, 16, true, eg_unpack_q2_k},
    {"Q3_K", EG_TYPE_Q3_K, 256, 110, 16, false, eg_unpack_q3_k},
    {"Q4_K", EG_TYPE_Q4_K, 256, 144, 32, true, eg_unpack_q4_k},
    {"Q5_K", EG_TYPE_Q5_K, 256, 176, 32, true, eg_unpack_q5_k},
    {"Q6_K", EG_TYPE_Q6_K, 256, 210, 16, false, eg_unpack_q6_k},
    {"IQ4_NL", EG_TYPE_IQ4_NL, 32, 18, 32, false, eg_unpack_iq4_nl},
    {"IQ4_XS", EG_TYPE_IQ4_XS, 256, 136, 32, false, eg_unpack_iq4_xs},
    {"IQ2_XXS", EG_TYPE_IQ2_XXS, 256, 66, 32, false, eg_unpack_iq2_xxs},
    {"IQ2_XS", EG_TYPE_IQ2_XS, 256, 74, 16, false, eg_unpack_iq2_xs},
    {"IQ2_S", EG_TYPE_IQ2_S, 256, 82, 16, false, eg_unpack_iq2_s},
    {"IQ3_XXS", EG_TYPE_IQ3_XXS, 256, 98, 32, false, eg_unpack_iq3_xxs},
    {"IQ3_S", EG_TYPE_IQ3_S, 256, 110, 32, false, eg_unpack_iq3_s},
    {"TQ1_0", EG_TYPE_TQ1_0, 256, 54, 32, false, eg_unpack_tq1_0},
    {"TQ2_0", EG_TYPE_TQ2_0, 256, 66, 32, false, eg_unpack_tq2_0},
    {"MXFP4", EG_TYPE_MXFP4, 32, 17, 32, false, eg_unpack_mxfp4},
    {"QC2", EG_TYPE_QC2, 256, 64, 32, false, eg_unpack_qc2},
    {"QC4", EG_TYPE_QC4, 128, 64, 32, false, eg_unpack_qc4},
    {"QC8", EG_TYPE_QC8, 32, 32, 32, false, eg_unpack_qc8},
};

enum { N_TYPES = sizeof types / sizeof types[0] };

/* Values that eg_type_to_float unpacks at a time: at least the largest block, and small enough for the stack. */
enum { CHUNK = 256 };

const eg_type_info *eg_type_find(uint32_t id)
{
    for (size_t i = 0; i < N_TYPES; i++)
        if (types[i].id == id) return &types[i];
    return NULL;
}

/* GGML's numbers from 0 on. Those without a name are unused, or belong to types that GGUF files have no more. */
static const char *const ggml_names[] = {
    "F32",        "F16",        "Q4_0",       "Q4_1",  "Q4_2",     "Q4_3",     "Q5_0",     "Q5_1",    "Q8_0",
    "Q8_1",       "Q2_K",       "Q3_K",       "Q4_K",  "Q5_K",     "Q6_K",     "Q8_K",     "IQ2_XXS", "IQ2_XS",
    "IQ3_XXS",    "IQ1_S",      "IQ4_NL",     "IQ3_S", "IQ2_S",    "IQ4_XS",   "I8",       "I16",     "I32",
    "I64",        "F64",        "IQ1_M",      "BF16",  "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "TQ1_0",   "TQ2_0",
    "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4", "NVFP4",    "Q1_0",     "Q2_0",
};

const char *eg_type_name(uint32_t id)
{
    const eg_type_info *type = eg_type_find(id);
    if (type) return type->name;
    return id < sizeof ggml_names / sizeof *ggml_names ? ggml_names[id] : NULL;
}

bool eg_type_per_channel(const eg_type_info *type)
{
    return type->id == EG_TYPE_QC2 || type->id == EG_TYPE_QC4 || type->id == EG_TYPE_QC8;
}

const eg_type_info *eg_type_at(size_t index) { return index < N_TYPES ? &types[index] : NULL; }

/* out[n] from q[n], with one scale for every `group` values and, unless min is NULL, one min. */
static inline void evaluate(const int8_t *restrict q, const float *restrict scale, const float *restrict min, int64_t n,
                            int group, float *restrict out)
{
    for (int64_t g = 0; g < n / group; g++, q += group, out += group) {
        if (min)
            for (int i = 0; i < group; i++) out[i] = scale[g] * (float)q[i] - min[g];
        else
            for (int i = 0; i < group; i++) out[i] = scale[g] * (float)q[i];
    }
}

void eg_type_to_float(const eg_type_info *type, const void *blocks, int64_t n, float *out)
{
    const uint8_t *b = blocks;
    if (type->id == EG_TYPE_F32) {
        if (n > 0) memcpy(out, b, (size_t)n * sizeof *out);
        return;
    }
    if (type->id == EG_TYPE_F16) {
        for (int64_t i = 0; i < n; i++) out[i] = eg_half_to_float(eg_load_u16(b + 2 * i));
        return;
    }
    if (type->id == EG_TYPE_BF16) {
        for (int64_t i = 0; i < n; i++) out[i] = eg_bits_to_float((uint32_t)eg_load_u16(b + 2 * i) << 16);
        return;
    }
    int8_t q[CHUNK];
    float scale[CHUNK / 16], min[CHUNK / 16];
    for (int64_t done = 0; done < n; done += CHUNK) {
        int64_t count = n - done < CHUNK ? n - done : CHUNK;
        type->unpack(b, count, q, scale, min);
        const float *m = type->has_min ? min : NULL;
        if (type->group == 16)   /* constants: the inner loops have a known length */
            evaluate(q, scale, m, count, 16, out + done);
        else evaluate(q, scale, m, count, 32, out + done);
        b += CHUNK / type->block * type->bytes;
    }
}
