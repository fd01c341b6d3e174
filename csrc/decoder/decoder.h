/* The text decoder: evaluates blocks of tokens, of one timeline or of several, in one pass through the weights.
 *
 * Owns nothing: it works in a work space, and reads and writes the caches that the rows belong to. The layers up to the last one
 * that owns K/V run for all tokens, this last one only as far as its K/V. Everything after that is used for logits alone, so it
 * runs only for the tokens whose logits are wanted, perhaps later. This changes no bit of the result.
 */
#ifndef EG_DECODER_DECODER_H
#define EG_DECODER_DECODER_H

#include "workspace.h"

/* The last evaluated token of a timeline, before the layers that only logits need. */
typedef struct eg_last {
    bool valid;
    int32_t id;
    int64_t position;
    float *embedding, *x;      /* [d] */
} eg_last;

/* Consecutive tokens of one timeline. */
typedef struct eg_run {
    const eg_cache *cache;
    const int32_t *ids;        /* [n]; negative: soft */
    const float *soft;         /* [n, d]: embeddings of the soft tokens, in their rows; NULL without any */
    int64_t position, n;       /* position of the first one */
    bool both_ways;            /* in local layers every token sees all of the run: the tokens of a picture */
    int64_t wanted;            /* logits of so many of the last tokens; with n = 0 at most one, of *last */
    eg_last *last;             /* becomes the last of the n tokens; with n = 0 it is valid if its logits are wanted */
} eg_run;

/* Evaluates the tokens of all runs, at most ws->rows, and writes their K/V. No two runs hold the same position of a cache.
 *   logits[sum of wanted, V], in the order of the runs; NULL: not computed.
 *   hidden, for one run with wanted = n, unless NULL: the embeddings [n, d], and behind them, hidden_stride floats apart, the
 *   output of each layer, the last one after the final norm.
 * False if ws->turn was stopped, or if ws->file could not be read (eg_gguf_check): K/V were written in part, and no *last of a run
 * with tokens is valid. */
bool eg_decoder_evaluate(eg_workspace *ws, const eg_run *runs, int64_t n_runs, float *logits, float *hidden,
                         size_t hidden_stride);

#endif
