/* Attention of one layer. Called only by decoder.c; works in the decoder's buffers. */
#ifndef EG_DECODER_ATTENTION_H
#define EG_DECODER_ATTENTION_H

#include "decoder.h"

/* Computes the RoPE frequencies. Call once, after the decoder has its memory. */
void eg_attend_init(eg_decoder *decoder);

/* Computes cos and sin of the RoPE angles of positions position .. position + n - 1, unless the decoder holds them already.
 * The angle is rounded to float, as in the reference: the model was trained so, and at position 100,000 the rounding is a
 * noticeable part of a radian. */
void eg_attend_angles(eg_decoder *decoder, int64_t n, int64_t position);

/* Writes K/V of x[n] at positions position .. position + n - 1 into the cache, and computes t[n], the output of attention;
 * `mode` may leave out either. Call eg_attend_angles for these positions before. */
void eg_attend(eg_decoder *decoder, int32_t layer, int64_t n, int64_t position, eg_layer_mode mode);

#endif
