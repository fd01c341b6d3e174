/* The head: logits = softcap(E rms(x)).
 *
 * E, the token embeddings, is the largest matrix that every token reads. If a sidecar has a leaner version of it, that one is
 * multiplied first. Its logits are a little wrong, so those of the tokens that matter are computed again with E: the best
 * EG_HEAD_EXACT, and what ties with them. Their logits, and so what greedy decoding and top-k draw, have the bits that they have
 * without a sidecar, unless a token is missed: it would have to be better than it looks by more than the distance between the
 * best tokens and the last of these. The logits of all others keep the error of the leaner matrix.
 */
#ifndef EG_DECODER_HEAD_H
#define EG_DECODER_HEAD_H

#include "workspace.h"

/* logits[n, V] (unless NULL) of ws->x[n]; normed[n, d], unless NULL, receives rms(x). ws->h is overwritten. False if the
 * disk failed. */
bool eg_head(eg_workspace *ws, int64_t n, float *logits, float *normed);

#endif
