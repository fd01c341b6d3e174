/* The packing functions behind eg_type_from_float: one for each type that can be written, the inverse of unpack.h.
 *
 * A block depends only on its own values. Plain loops, which give the same bits on every processor.
 */
#ifndef EG_FORMAT_PACK_H
#define EG_FORMAT_PACK_H

#include <stdint.h>

#include "half.h"

/* n values (a multiple of the block) to blocks. |x| is at most EG_PACK_LIMIT; for F32 and BF16 it only must be finite. */
typedef void eg_pack(const float *x, int64_t n, void *blocks);

#define EG_PACK_LIMIT 65504.0f   /* the largest half float, so that scales do not overflow */

eg_pack eg_pack_f32, eg_pack_f16, eg_pack_bf16;
eg_pack eg_pack_q4_0, eg_pack_q4_1, eg_pack_q5_0, eg_pack_q5_1, eg_pack_q8_0, eg_pack_iq4_nl;
eg_pack eg_pack_q2_k, eg_pack_q3_k, eg_pack_q4_k, eg_pack_q5_k, eg_pack_q6_k, eg_pack_iq4_xs;

/* Stores a little-endian 16-bit word at p, any alignment. */
static inline void eg_store_u16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

/* The half float nearest to a scale; never infinite. */
static inline uint16_t eg_half_scale(float scale)
{
    scale = scale > 65504.0f ? 65504.0f : scale < -65504.0f ? -65504.0f : scale;
    return eg_float_to_half(scale);
}

#endif
