/* The packing functions behind eg_type_from_float: one per type that can be written, the inverse of unpack.h.
 *
 * A block depends on its own values alone. Plain loops, the same bits on every processor.
 */
#ifndef EG_FORMAT_PACK_H
#define EG_FORMAT_PACK_H

#include <stdint.h>

#include "half.h"

/* n values (a multiple of the block) of at most EG_PACK_LIMIT in magnitude (F32, BF16: any finite ones) to blocks. */
typedef void eg_pack(const float *x, int64_t n, void *blocks);

#define EG_PACK_LIMIT 65504.0f   /* the largest half float: what it does not reach, no scale needs to */

eg_pack eg_pack_f32, eg_pack_f16, eg_pack_bf16;
eg_pack eg_pack_q4_0, eg_pack_q4_1, eg_pack_q5_0, eg_pack_q5_1, eg_pack_q8_0, eg_pack_iq4_nl;
eg_pack eg_pack_q2_k, eg_pack_q3_k, eg_pack_q4_k, eg_pack_q5_k, eg_pack_q6_k, eg_pack_iq4_xs;

/* A little-endian 16-bit word to p, any alignment. */
static inline void eg_store_u16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

/* The half float nearest to a scale, no infinity. */
static inline uint16_t eg_half_scale(float scale)
{
    scale = scale > 65504.0f ? 65504.0f : scale < -65504.0f ? -65504.0f : scale;
    return eg_float_to_half(scale);
}

#endif
