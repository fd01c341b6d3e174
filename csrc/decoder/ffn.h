/* Feed-forward of one layer. Called only by decoder.c; works in the work space. */
#ifndef EG_DECODER_FFN_H
#define EG_DECODER_FFN_H

#include "workspace.h"

/* t[n] := FFN(h[n]), where h is rms(x; ffn_norm). With experts: the sum of the dense FFN and of the chosen experts. False if
 * the disk failed that they are read from. */
bool eg_ffn(eg_workspace *ws, int32_t layer, int64_t n);

#endif
