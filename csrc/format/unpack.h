/* The unpacking functions of the quantized types, in the `eg_unpack` form of types.h. Plain loops, the same for every
 * instruction set. The layout of a type is documented at its function. */
#ifndef EG_FORMAT_UNPACK_H
#define EG_FORMAT_UNPACK_H

#include "types.h"

eg_unpack eg_unpack_q4_0, eg_unpack_q4_1, eg_unpack_q5_0, eg_unpack_q5_1, eg_unpack_q8_0;
eg_unpack eg_unpack_q2_k, eg_unpack_q3_k, eg_unpack_q4_k, eg_unpack_q5_k, eg_unpack_q6_k;
eg_unpack eg_unpack_iq4_nl, eg_unpack_iq4_xs, eg_unpack_mxfp4;
eg_unpack eg_unpack_iq2_xxs, eg_unpack_iq2_xs, eg_unpack_iq2_s, eg_unpack_iq3_xxs, eg_unpack_iq3_s;
eg_unpack eg_unpack_tq1_0, eg_unpack_tq2_0;
eg_unpack eg_unpack_qc2, eg_unpack_qc4, eg_unpack_qc8;

#endif
