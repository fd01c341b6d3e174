/* Sampler: draws a token from logits. The same seed and options give the same token on every machine: the exponential is
 * our own, and nothing depends on the library's rounding or on the order of equal logits.
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
    uint64_t state;            /* of the random sequence */
    int32_t vocab;
    float *logits;             /* [V] work copy */
    eg_candidate *candidates;  /* [V]; beyond top_k untouched */
    uint16_t *counts;          /* [V] zero between calls */
} eg_sampler;

void eg_sampler_layout(eg_sampler *sampler, int32_t vocab, eg_arena *arena);

/* The options in force: those of the caller, or what eg_sampling_default fills in for NULL. EG_ERROR_ARGUMENT names the
 * field that is out of range. */
eg_status eg_sampling_read(const eg_sampling *given, int32_t vocab, eg_sampling *options, eg_error *err);

/* Draws from logits[V] (not changed). history[n] are the timeline's last tokens (negative: soft, ignored); suppressed are
 * ids of the model file never to be drawn. options as eg_sampling_read gives them. */
int32_t eg_sampler_draw(eg_sampler *sampler, const eg_sampling *options, const float *logits, const int32_t *history, size_t n,
                        const int32_t *suppressed, size_t n_suppressed);

#endif
