/* Attention of one layer. Called only by decoder.c and workspace.c; works in the work space. */
#ifndef EG_DECODER_ATTENTION_H
#define EG_DECODER_ATTENTION_H

#include "workspace.h"

/* How a layer is run. */
typedef enum eg_layer_mode {
    EG_LAYER_FULL,             /* write K/V and compute the output */
    EG_LAYER_KV_ONLY,          /* write K/V, leave x as it is */
    EG_LAYER_NO_KV             /* K/V are in the cache already */
} eg_layer_mode;

/* Computes the RoPE frequencies. Call once, after the work space has its memory. */
void eg_attend_init(eg_workspace *ws);

/* Computes cos and sin of the RoPE angles of the first n rows, unless the work space holds them already. The angle is rounded to
 * float, as in the reference: the model was trained so, and at position 100,000 the rounding is a noticeable part of a
 * radian. */
void eg_attend_angles(eg_workspace *ws, int64_t n);

/* Writes K/V of x[n] into the caches of the rows, and computes t[n], the output of attention; `mode` may leave out either. The
 * stretches cover the n rows. Call eg_attend_angles for these rows before. */
void eg_attend(eg_workspace *ws, int32_t layer, int64_t n, eg_layer_mode mode);

#endif
