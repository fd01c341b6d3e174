/* The table of types that can be written, and the check that a type can express the values; see quantize.h. */
#include "quantize.h"

#include <float.h>
#include <math.h>

#include "pack.h"

#define BF16_LIMIT 3.3895313892515355e38f   /* the largest BF16 */

static const struct {
    uint32_t id;
    float limit;   /* largest magnitude */
    eg_pack *pack;
} rows[] = {
    {EG_TYPE_F32, FLT_MAX, eg_pack_f32},
    {EG_TYPE_F16, EG_PACK_LIMIT, eg_pack_f16},
    {EG_TYPE_BF16, BF16_LIMIT, eg_pack_bf16},
    {EG_TYPE_Q4_0, EG_PACK_LIMIT, eg_pack_q4_0},
    {EG_TYPE_Q4_1, EG_PACK_LIMIT, eg_pack_q4_1},
    {EG_TYPE_Q5_0, EG_PACK_LIMIT, eg_pack_q5_0},
    {EG_TYPE_Q5_1, EG_PACK_LIMIT, eg_pack_q5_1},
    {EG_TYPE_Q8_0, EG_PACK_LIMIT, eg_pack_q8_0},
    {EG_TYPE_Q2_K, EG_PACK_LIMIT, eg_pack_q2_k},
    {EG_TYPE_Q3_K, EG_PACK_LIMIT, eg_pack_q3_k},
    {EG_TYPE_Q4_K, EG_PACK_LIMIT, eg_pack_q4_k},
    {EG_TYPE_Q5_K, EG_PACK_LIMIT, eg_pack_q5_k},
    {EG_TYPE_Q6_K, EG_PACK_LIMIT, eg_pack_q6_k},
    {EG_TYPE_IQ4_NL, EG_PACK_LIMIT, eg_pack_iq4_nl},
    {EG_TYPE_IQ4_XS, EG_PACK_LIMIT, eg_pack_iq4_xs},
};

enum { N_ROWS = sizeof rows / sizeof rows[0] };

static int find(const eg_type_info *type)
{
    int i = 0;
    while (i < N_ROWS && rows[i].id != type->id) i++;
    return i;
}

bool eg_type_writable(const eg_type_info *type) { return find(type) < N_ROWS; }

int64_t eg_type_from_float(const eg_type_info *type, const float *x, int64_t n, void *blocks)
{
    int row = find(type);
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(x[i]) <= rows[row].limit))   /* also true for NaN */
            return i;
    rows[row].pack(x, n, blocks);
    return n;
}
