/* The timeline of a session over the decoder: what evaluates tokens, and what is known about the evaluated ones. */
#include "timeline.h"

#include <string.h>

#include "../base/clock.h"

/* ---- calls ------------------------------------------------------------------------------------------------------- */

static eg_status cancelled(eg_error *err) { return eg_fail(err, EG_CANCELLED, "cancelled."); }

eg_status eg_timeline_begin(eg_session *s, eg_error *err)
{
    eg_pool_renew(s->model->pool);
    return atomic_exchange(&s->cancel, false) ? cancelled(err) : EG_OK;
}

eg_status eg_timeline_end(eg_session *s, eg_status status)
{
    if (status == EG_CANCELLED) atomic_store(&s->cancel, false);
    return status;
}

eg_status eg_timeline_end_feed(eg_session *s, int64_t old_length, eg_status status)
{
    if (status) {
        s->length = s->evaluated > old_length ? s->evaluated : old_length;
        /* The failure has lost the state that the last token's logits are made of: that token is evaluated again. */
        if (s->evaluated == s->length && s->length && !s->has_last && s->tokens[s->length - 1] >= 0) s->evaluated--;
    }
    return eg_timeline_end(s, status);
}

/* ---- evaluation -------------------------------------------------------------------------------------------------- */

/* Evaluates n tokens that wait (at most EG_BLOCK) as far as the cache needs it; all layers if logits or hidden are wanted
 * of all of them. hidden_stride is that of eg_decoder_run. */
static bool evaluate_block(eg_session *s, const float *soft, int64_t n, bool full, float *logits, float *hidden,
                           size_t hidden_stride)
{
    eg_decoder *dec = &s->decoder;
    const eg_config *c = dec->config;
    const int32_t *ids = s->tokens + s->evaluated;
    int32_t last = c->kv_layers - 1;   /* of this layer the cache needs K/V only */
    size_t row = (size_t)c->hidden, bytes = row * sizeof(float);

    s->has_last = s->has_logits = false;
    if (s->evaluated + n > s->high) s->high = s->evaluated + n;   /* even when cancelled: the rings are written */
    eg_decoder_embed(dec, ids, soft, n);
    memcpy(s->last_embedding, dec->x + (size_t)(n - 1) * row, bytes);
    if (hidden) memcpy(hidden, dec->x, (size_t)n * bytes);
    eg_decoder_per_layer_inputs(dec, ids, n, 0, full ? c->layers : last);
    if (last > 0 && !eg_decoder_run(dec, n, s->evaluated, 0, last, EG_LAYER_FULL, EG_LAYER_FULL, hidden, hidden_stride))
        return false;
    memcpy(s->last_x, dec->x + (size_t)(n - 1) * row, bytes);
    if (!eg_decoder_run(dec, n, s->evaluated, last, full ? c->layers : last + 1, full ? EG_LAYER_FULL : EG_LAYER_KV_ONLY,
                        EG_LAYER_FULL, hidden, hidden_stride))
        return false;
    if (full) eg_decoder_head(dec, n, logits, hidden ? hidden + (size_t)c->layers * hidden_stride : NULL);
    s->evaluated += n;
    s->has_last = true;
    return true;
}

/* Tokens of the next block. */
static int64_t block_size(const eg_session *s)
{
    int64_t n = s->length - s->evaluated;
    return n < EG_BLOCK ? n : EG_BLOCK;
}

eg_status eg_timeline_settle(eg_session *s, eg_error *err)
{
    while (s->evaluated < s->length) {
        if (!evaluate_block(s, s->waiting_soft, block_size(s), false, NULL, NULL, 0)) return cancelled(err);
        s->waiting_soft = NULL;   /* all of them were in the first block */
    }
    return EG_OK;
}

eg_status eg_timeline_finish(eg_session *s, eg_error *err)
{
    eg_decoder *dec = &s->decoder;
    const eg_config *c = dec->config;
    eg_status status = eg_timeline_settle(s, err);
    if (status || s->has_logits) return status;
    if (!s->has_last)
        return eg_fail(err, EG_ERROR_STATE,
                       s->length ? "the last token is soft and was rewound to: feed a token first."
                                 : "there are no logits before the first token: feed something.");
    int32_t first = c->kv_layers - 1;
    memcpy(dec->x, s->last_embedding, (size_t)c->hidden * sizeof(float));
    eg_decoder_per_layer_inputs(dec, s->tokens + s->evaluated - 1, 1, first, c->layers);
    memcpy(dec->x, s->last_x, (size_t)c->hidden * sizeof(float));
    if (!eg_decoder_run(dec, 1, s->evaluated - 1, first, c->layers, EG_LAYER_NO_KV, EG_LAYER_FULL, NULL, 0))
        return cancelled(err);
    eg_decoder_head(dec, 1, dec->logits, NULL);
    s->has_logits = true;
    return EG_OK;
}

/* ---- appending --------------------------------------------------------------------------------------------------- */

eg_status eg_timeline_check_room(const eg_session *s, size_t n, eg_error *err)
{
    if (n <= (size_t)(s->context - s->length)) return EG_OK;
    return eg_fail(err, EG_ERROR_CONTEXT,
                   "%zu more tokens do not fit: %lld of the session's %lld are in use. Open a session with a larger context, "
                   "rewind, or start a new one.",
                   n, (long long)s->length, (long long)s->context);
}

void eg_timeline_append(eg_session *s, const int32_t *ids, size_t n)
{
    memcpy(s->tokens + s->length, ids, n * sizeof *ids);
    s->length += (int64_t)n;
    s->detokenizer = (eg_detokenizer){0};
}

eg_status eg_timeline_append_soft(eg_session *s, const float *embeddings, size_t n, eg_error *err)
{
    eg_status status = eg_timeline_settle(s, err);   /* a block holds either tokens or rows of embeddings */
    if (status) return status;
    int64_t d = s->model->config.hidden, first = s->length;
    double start = eg_clock();
    for (size_t i = 0; i < n; i++) s->tokens[s->length++] = -1;
    s->detokenizer = (eg_detokenizer){0};
    while (!status && s->evaluated < s->length)
        if (!evaluate_block(s, embeddings + (s->evaluated - first) * d, block_size(s), false, NULL, NULL, 0))
            status = cancelled(err);
    s->stats.prefill_tokens += (uint64_t)(s->evaluated - first);
    s->stats.prefill_seconds += eg_clock() - start;
    return status;
}

eg_status eg_timeline_forward(eg_session *s, const int32_t *ids, size_t n, float *logits, float *hidden, eg_error *err)
{
    size_t d = (size_t)s->model->config.hidden, vocab = (size_t)s->model->config.vocab, done = 0;
    double start = eg_clock();
    eg_status status = eg_timeline_settle(s, err);
    if (!status) eg_timeline_append(s, ids, n);
    while (!status && done < n) {
        int64_t block = block_size(s);
        if (evaluate_block(s, NULL, block, true, logits ? logits + done * vocab : NULL, hidden ? hidden + done * d : NULL,
                           n * d))
            done += (size_t)block;
        else status = cancelled(err);
    }
    s->stats.prefill_tokens += done;
    s->stats.prefill_seconds += eg_clock() - start;
    return status;
}

/* ---- going back -------------------------------------------------------------------------------------------------- */

eg_status eg_timeline_rewind_to(eg_session *s, int64_t position, eg_error *err)
{
    if (position < s->evaluated) {
        /* The last kept token is evaluated again when logits are wanted, and leaves the same in the cache. A soft token
         * cannot be evaluated again, so something must be fed after it. */
        int64_t resume = position && s->tokens[position - 1] >= 0 ? position - 1 : position;
        if (!position || !eg_cache_can_resume(&s->decoder.cache, &s->model->config, resume, s->high)) {
            for (int64_t i = 0; i < position; i++)
                if (s->tokens[i] < 0)
                    return eg_fail(err, EG_ERROR_STATE,
                                   "going back by %lld tokens would evaluate the prompt again, but it "
                                   "holds soft tokens (audio or images): restore a snapshot or feed it anew.",
                                   (long long)(s->length - position));
            resume = s->high = 0;
        }
        s->evaluated = resume;
        s->has_last = s->has_logits = false;
    }
    s->length = position;
    s->detokenizer = (eg_detokenizer){0};
    return EG_OK;
}
