/* Sampler: draws a token from logits. The same seed and options give the same token on every machine: the exponential does not
 * come from the C library, and equal logits are ordered by their ids.
 */
#ifndef EG_DECODER_SAMPLER_H
#define EG_DECODER_SAMPLER_H

#include "../base/arena.h"
#include "../base/status.h"
#include "../kernels/kernels.h"

typedef struct eg_candidate {
    float logit;
    int32_t id;
} eg_candidate;

/* Work space. The state of the random number generator belongs to the timeline. */
typedef struct eg_sampler {
    int32_t vocab;
    float *logits;             /* [V] work copy */
    eg_candidate *candidates;  /* [V]; only the first top_k are used */
    uint16_t *counts;          /* [V] zero between calls */
} eg_sampler;

void eg_sampler_layout(eg_sampler *sampler, int32_t vocab, eg_arena *arena);

/* Completes the options: `given`, or those of eg_sampling_default for NULL, into *options. EG_ERROR_ARGUMENT, with a sentence
 * that names the field, if a value is out of range. */
eg_status eg_sampling_read(const eg_sampling *given, int32_t vocab, eg_sampling *options, eg_error *err);

/* Draws from logits[V], which stay unchanged, and advances the random state. history[n]: the last tokens of the timeline, where
 * negative ids (soft tokens) are ignored. suppressed: ids that the model file says must never be drawn. options come from
 * eg_sampling_read. -1: every token is suppressed or masked. */
int32_t eg_sampler_draw(eg_sampler *sampler, const eg_sampling *options, const float *logits, uint64_t *random,
                        const int32_t *history, size_t n, const int32_t *suppressed, size_t n_suppressed);

/* The logarithm of the sum of e^logit: a token's log-probability is its logit less this. NaN if a logit is. */
double eg_sampler_log_sum(const eg_kernels *kernels, const float *logits, int32_t vocab);

/* The n likeliest tokens (fewer if fewer have a finite logit), the best first, with their log-probabilities. Returns their
 * number. */
size_t eg_sampler_best(eg_sampler *sampler, const float *logits, double log_sum, size_t n, eg_logprob *best);

#endif
