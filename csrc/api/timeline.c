/* The timeline of a session over the decoder: what evaluates tokens, and what is known about the evaluated ones. */
#include "timeline.h"

#include <string.h>

#include "../base/clock.h"

/* ---- calls ------------------------------------------------------------------------------------------------------- */

static eg_status cancelled(eg_error *err) { return eg_fail(err, EG_CANCELLED, "cancelled."); }

/* Why an evaluation has ended early. */
static eg_status ended(const eg_workspace *ws, eg_error *err)
{
    eg_status status = eg_gguf_check(ws->file, err);
    return status ? status : cancelled(err);
}

static bool is_cancelled(void *session) { return atomic_load_explicit(&((eg_session *)session)->cancel, memory_order_relaxed); }

eg_status eg_timeline_begin(eg_session *s, int64_t rows, eg_error *err)
{
    if (atomic_exchange(&s->cancel, false)) return cancelled(err);
    eg_status status = eg_call_begin(&s->call, s->model, s->priority, is_cancelled, s, rows, err);
    if (status == EG_CANCELLED) atomic_store(&s->cancel, false);
    return status;
}

eg_status eg_timeline_end(eg_session *s, eg_status status)
{
    if (s->call.ws) eg_call_count(&s->stats, eg_store_take_counts(s->model->store));
    eg_call_end(&s->call, s->model);
    if (status == EG_CANCELLED) atomic_store(&s->cancel, false);
    return status;
}

void eg_timeline_keep_evaluated(eg_session *s, int64_t old_length)
{
    s->length = s->evaluated > old_length ? s->evaluated : old_length;
    if (!s->has_logits) eg_timeline_forget_logits(s);   /* the failure has lost the state that they are made of */
}

void eg_timeline_forget_logits(eg_session *s)
{
    s->has_logits = false;
    if (s->evaluated == s->length && s->length && !s->last.valid && s->tokens[s->length - 1] >= 0) s->evaluated--;
}

eg_status eg_timeline_end_feed(eg_session *s, int64_t old_length, eg_status status)
{
    if (status) eg_timeline_keep_evaluated(s, old_length);
    return eg_timeline_end(s, status);
}

/* ---- evaluation -------------------------------------------------------------------------------------------------- */

/* The next n tokens that wait, of which the last `wanted` are to have logits. */
static eg_run next_run(eg_session *s, int64_t n, int64_t wanted)
{
    if (n) s->has_logits = false;
    if (s->evaluated + n > s->high) s->high = s->evaluated + n;   /* even when cancelled: the rings are written */
    return (eg_run){.cache = &s->cache,
                    .ids = s->tokens + s->evaluated,
                    .soft = s->waiting_soft,
                    .position = s->evaluated,
                    .n = n,
                    .wanted = wanted,
                    .last = &s->last};
}

static void count_evaluated(eg_session *s, int64_t n)
{
    s->evaluated += n;
    if (n) s->waiting_soft = NULL;   /* all of them were in the first block */
}

/* Evaluates the next n tokens that wait, at most EG_BLOCK. */
static bool evaluate(eg_session *s, int64_t n, int64_t wanted, float *logits, float *hidden, size_t hidden_stride)
{
    eg_run run = next_run(s, n, wanted);
    if (!eg_decoder_evaluate(s->call.ws, &run, 1, logits, hidden, hidden_stride)) return false;
    count_evaluated(s, n);
    return true;
}

static int64_t waiting(const eg_session *s) { return s->length - s->evaluated; }

/* Evaluates what waits but for `rest` tokens at most. */
static eg_status settle_all_but(eg_session *s, int64_t rest, eg_error *err)
{
    while (waiting(s) > rest)
        if (!evaluate(s, waiting(s) < EG_BLOCK ? waiting(s) : EG_BLOCK, 0, NULL, NULL, 0)) return ended(s->call.ws, err);
    return EG_OK;
}

eg_status eg_timeline_settle(eg_session *s, eg_error *err) { return settle_all_but(s, 0, err); }

eg_status eg_timeline_check_last(const eg_session *s, eg_error *err)
{
    if (s->has_logits || waiting(s) || s->last.valid) return EG_OK;
    return eg_fail(err, EG_ERROR_STATE,
                   s->length ? "the last token is soft and was rewound to: feed a token first."
                             : "there are no logits before the first token: feed something.");
}

eg_status eg_timeline_finish(eg_session *s, eg_error *err)
{
    if (s->has_logits) return EG_OK;
    eg_status status = settle_all_but(s, EG_BLOCK, err);
    if (status) return status;
    if (!evaluate(s, waiting(s), 1, s->logits, NULL, 0)) return ended(s->call.ws, err);
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
    if (n) s->has_logits = false;
    s->detokenizer = (eg_detokenizer){0};
}

eg_status eg_timeline_find_marker(const eg_session *s, const char *text, int32_t *id, eg_error *err)
{
    *id = eg_tokenizer_find(s->model->tokenizer, text, strlen(text));
    if (*id >= 0) return EG_OK;
    return eg_fail(err, EG_ERROR_FORMAT, "%s: the vocabulary has no token '%s'.", eg_gguf_name(s->model->file), text);
}

eg_status eg_timeline_append_soft(eg_session *s, const float *embeddings, size_t n, bool both_ways, eg_error *err)
{
    eg_status status = eg_timeline_settle(s, err);   /* these rows begin a block */
    if (status) return status;
    int64_t d = s->model->config.hidden, first = s->length;
    double start = eg_clock();
    for (size_t i = 0; i < n; i++) s->tokens[s->length++] = -1;
    s->detokenizer = (eg_detokenizer){0};
    while (!status && waiting(s)) {
        eg_run run = next_run(s, both_ways || waiting(s) < EG_BLOCK ? waiting(s) : EG_BLOCK, 0);
        run.soft = embeddings + (s->evaluated - first) * d;
        run.both_ways = both_ways;
        if (eg_decoder_evaluate(s->call.ws, &run, 1, NULL, NULL, 0)) count_evaluated(s, run.n);
        else status = ended(s->call.ws, err);
    }
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
        int64_t block = waiting(s) < EG_BLOCK ? waiting(s) : EG_BLOCK;
        if (evaluate(s, block, block, logits ? logits + done * vocab : NULL, hidden ? hidden + done * d : NULL, n * d))
            done += (size_t)block;
        else status = ended(s->call.ws, err);
    }
    s->stats.prefill_tokens += done;
    s->stats.prefill_seconds += eg_clock() - start;
    return status;
}

/* ---- drawing ----------------------------------------------------------------------------------------------------- */

/* Draws a token for *draw from logits[V]; history: the timeline so far. */
static eg_status draw_from(eg_workspace *ws, eg_draw *draw, const float *logits, eg_error *err)
{
    eg_session *s = draw->session;
    size_t n_suppressed;
    const int32_t *suppressed = eg_tokenizer_suppressed(s->model->tokenizer, &n_suppressed);
    draw->drawn = true;
    draw->random = s->random;
    draw->id = eg_sampler_draw(&ws->sampler, draw->options, logits, &draw->random, s->tokens, (size_t)s->length, suppressed,
                               n_suppressed);
    if (draw->id >= 0 && draw->options->check_token) {
        eg_sampling masked = *draw->options;
        masked.mask = masked.check_token(masked.check_context, draw->id);
        if (masked.mask)
            draw->id = eg_sampler_draw(&ws->sampler, &masked, logits, &draw->random, s->tokens, (size_t)s->length, suppressed,
                                       n_suppressed);
    }
    if (draw->id < 0) return eg_fail(err, EG_ERROR_STATE, "no token can be drawn: all are suppressed or masked.");
    if (!draw->options->logprobs) return EG_OK;
    double sum = eg_sampler_log_sum(ws->kernels, logits, ws->config->vocab);
    draw->logprob = (float)(logits[draw->id] - sum);
    draw->n_top = eg_sampler_best(&ws->sampler, logits, sum, draw->options->top_logprobs, s->top);
    return EG_OK;
}

/* Puts what is next of all timelines into one block. Returns the number of its runs; drawing[i] is the index of the timeline that
 * run i belongs to. */
static size_t fill_block(const eg_workspace *ws, const eg_draw *draws, size_t n, eg_run *runs, size_t *drawing)
{
    size_t n_runs = 0;
    int64_t filled = 0;
    for (size_t i = 0; i < n; i++) {
        eg_session *s = draws[i].session;
        bool draw = draws[i].options && !draws[i].drawn;
        int64_t left = waiting(s), room = ws->rows - filled, take = left < room ? left : room;
        if (left ? !take : !draw) continue;
        runs[n_runs] = next_run(s, take, draw && take == left);
        drawing[n_runs++] = i;
        filled += take;
    }
    return n_runs;
}

eg_status eg_timeline_draw(eg_workspace *ws, eg_draw *draws, size_t n, eg_run *runs, size_t *drawing, eg_error *err)
{
    eg_status status = EG_OK;
    for (size_t i = 0; !status && i < n; i++)
        if (draws[i].options && draws[i].session->has_logits) status = draw_from(ws, &draws[i], draws[i].session->logits, err);
    for (size_t n_runs; !status && (n_runs = fill_block(ws, draws, n, runs, drawing));) {
        if (!eg_decoder_evaluate(ws, runs, (int64_t)n_runs, ws->logits, NULL, 0)) return ended(ws, err);
        const float *logits = ws->logits;
        for (size_t i = 0; i < n_runs; i++) {
            eg_draw *draw = &draws[drawing[i]];
            count_evaluated(draw->session, runs[i].n);
            if (!runs[i].wanted || status) continue;
            status = draw_from(ws, draw, logits, err);
            logits += ws->config->vocab;
        }
    }
    return status;
}

size_t eg_timeline_accept(eg_session *s, int32_t id, uint32_t text_flags)
{
    const eg_tokenizer *tokenizer = s->model->tokenizer;
    size_t length = eg_tokenizer_stop_of(tokenizer, id)
                        ? eg_detokenizer_flush(&s->detokenizer, s->piece)
                        : eg_detokenizer_push(&s->detokenizer, tokenizer, id, text_flags, s->piece);
    s->tokens[s->length++] = id; /* evaluated with whatever comes next */
    s->has_logits = false;
    return length;
}

/* Keeps the first tokens of ids[n] that would be drawn, and appends them. rows[i] are the logits that follow ids[i - 1], and
 * rows[0] those that come before. Afterwards session->logits are those that follow the last kept token. */
static eg_status keep_drawn(eg_session *s, const int32_t *ids, size_t n, const eg_sampling *options, const float *const *rows,
                            float *logprobs, size_t *kept, eg_error *err)
{
    eg_draw draw = {.session = s, .options = options};
    eg_status status = EG_OK;
    size_t i = 0;
    for (; i < n; i++) {
        status = draw_from(s->call.ws, &draw, rows[i], err);
        if (status || draw.id != ids[i]) break;
        s->random = draw.random;
        if (logprobs)
            logprobs[i] = (float)(rows[i][ids[i]] - eg_sampler_log_sum(s->call.ws->kernels, rows[i], s->model->config.vocab));
        eg_timeline_accept(s, ids[i], options->text_flags);
    }
    if (rows[i] != s->logits) memcpy(s->logits, rows[i], (size_t)s->model->config.vocab * sizeof(float));
    s->has_logits = true;
    *kept += i;
    return status;
}

eg_status eg_timeline_verify(eg_session *s, const int32_t *ids, size_t n, const eg_sampling *options, float *logprobs,
                             size_t *kept, eg_error *err)
{
    const size_t vocab = (size_t)s->model->config.vocab;
    eg_status status = settle_all_but(s, EG_BLOCK - EG_VERIFY, err);
    /* A known token is evaluated once more together with the draft, which costs less than a pass of its own. */
    if (!status && !s->has_logits && !waiting(s)) {
        if (s->last.id >= 0) s->evaluated--;
        else status = eg_timeline_finish(s, err);
    }
    while (!status && *kept < n) {
        const float *rows[EG_VERIFY + 1], *logits = s->call.ws->logits;
        const size_t m = n - *kept < EG_VERIFY ? n - *kept : EG_VERIFY, before = *kept;
        const int64_t length = s->length;
        const bool known = s->has_logits;
        memcpy(s->tokens + length, ids + before, m * sizeof *ids);
        eg_run run = next_run(s, waiting(s) + (int64_t)m, (int64_t)m + !known);
        if (!eg_decoder_evaluate(s->call.ws, &run, 1, s->call.ws->logits, NULL, 0)) {
            s->has_logits = known;
            return ended(s->call.ws, err);
        }
        for (size_t i = 0; i <= m; i++) rows[i] = known ? i ? logits + (i - 1) * vocab : s->logits : logits + i * vocab;
        count_evaluated(s, length - s->evaluated);
        status = keep_drawn(s, ids + before, m, options, rows, logprobs ? logprobs + before : NULL, kept, err);
        s->evaluated = s->length;
        s->last.valid = *kept - before == m;
        if (!s->last.valid) break;
    }
    return status;
}

/* ---- going back -------------------------------------------------------------------------------------------------- */

eg_status eg_timeline_rewind_to(eg_session *s, int64_t position, eg_error *err)
{
    if (position < s->evaluated || (position < s->length && position == s->evaluated && !s->last.valid)) {
        /* The last kept token is evaluated again when logits are wanted, and leaves the same in the cache. A soft token
         * cannot be evaluated again, so something must be fed after it. */
        int64_t resume = position && s->tokens[position - 1] >= 0 ? position - 1 : position;
        if (!position || !eg_cache_can_resume(&s->cache, &s->model->config, resume, s->high)) {
            for (int64_t i = 0; i < position; i++)
                if (s->tokens[i] < 0)
                    return eg_fail(err, EG_ERROR_STATE,
                                   "going back by %lld tokens would evaluate the prompt again, but it "
                                   "holds soft tokens (audio or images): restore a snapshot or feed it anew.",
                                   (long long)(s->length - position));
            resume = s->high = 0;
        }
        s->evaluated = resume;
        s->last.valid = false;
    }
    if (position < s->length) s->has_logits = false;
    s->length = position;
    s->detokenizer = (eg_detokenizer){0};
    return EG_OK;
}
