/* Sampler: draws a token from logits. The same seed and options give the same token on every machine: the exponential does not
 * come from the C library, and equal logits are ordered by their ids.
 */
#ifndef EG_DECODER_SAMPLER_H
#define EG_DECODER_SAMPLER_H

#include "../base/arena.h"
#include "../base/status.h"

typedef struct eg_candidate {
    float logit;
    int32_t id;
} eg_candidate;

typedef struct eg_sampler {
    uint64_t state;            /* of the random number generator */
    int32_t vocab;
    float *logits;             /* [V] work copy */
    eg_candidate *candidates;  /* [V]; only the first top_k are used */
    uint16_t *counts;          /* [V] zero between calls */
} eg_sampler;

void eg_sampler_layout(eg_sampler *sampler, int32_t vocab, eg_arena *arena);

/* Completes the options: `given`, or those of eg_sampling_default for NULL, into *options. EG_ERROR_ARGUMENT, with a sentence
 * that names the field, if a value is out of range. */
eg_status eg_sampling_read(const eg_sampling *given, int32_t vocab, eg_sampling *options, eg_error *err);

/* Draws from logits[V], which stay unchanged. history[n]: the last tokens of the timeline, where negative ids (soft tokens)
 * are ignored. suppressed: ids that the model file says must never be drawn. options come from eg_sampling_read. */
int32_t eg_sampler_draw(eg_sampler *sampler, const eg_sampling *options, const float *logits, const int32_t *history, size_t n,
                        const int32_t *suppressed, size_t n_suppressed);

#endif
