/* Attention of one layer: a part of the decoder, which alone calls it. Works in the decoder's buffers. */
#ifndef EG_DECODER_ATTENTION_H
#define EG_DECODER_ATTENTION_H

#include "decoder.h"

/* Fills the frequencies of the rotations; once, after the decoder has its memory. */
void eg_attend_init(eg_decoder *decoder);

/* cos and sin of the angles of positions position .. position + n - 1, unless they are there from the layers before. The
 * angle is rounded to float, as the reference does: at position 100,000 that is a visible part of a radian, and the model
 * was trained with it. */
void eg_attend_angles(eg_decoder *decoder, int64_t n, int64_t position);

/* Puts K/V of x[n] at positions position .. position + n - 1 into the cache and computes t[n], the output of attention;
 * `mode` leaves out one of the two. The angles of these positions must be there. */
void eg_attend(eg_decoder *decoder, int32_t layer, int64_t n, int64_t position, eg_layer_mode mode);

#endif
