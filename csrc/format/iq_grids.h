/* Constant tables of the codebook types (IQ2, IQ3, IQ4). tools/generate_iq_grids.py writes iq_grids.c.
 *
 * A grid row has the magnitudes of 8 (IQ2) or 4 (IQ3) neighbouring values; blocks store the signs separately.
 */
#ifndef EG_FORMAT_IQ_GRIDS_H
#define EG_FORMAT_IQ_GRIDS_H

#include <stdint.h>

extern const uint8_t eg_grid_iq2_xxs[256][8];
extern const uint8_t eg_grid_iq2_xs[512][8];
extern const uint8_t eg_grid_iq2_s[1024][8];
extern const uint8_t eg_grid_iq3_xxs[256][4];
extern const uint8_t eg_grid_iq3_s[512][4];

/* 7-bit sign index -> 8 sign bits, first value in the lowest bit, always an even number of ones. */
extern const uint8_t eg_even_signs[128];

/* Byte -> the IQ4 values of its low and of its high nibble. */
extern const int8_t eg_iq4_pairs[256][2];

/* Byte -> its bits, lowest first, as 0 or 0xff each. */
extern const uint8_t eg_bit_masks[256][8];

#endif
