/* eg_session: the timeline of tokens over the decoder. */
#include <stdlib.h>
#include <string.h>

#include "../base/clock.h"
#include "objects.h"

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static void layout(eg_session *s, int64_t context, eg_kv_type kv, eg_arena *cache, eg_arena *work)
{
    const eg_config *c = &s->model->config;
    eg_decoder_layout(&s->decoder, context, kv, cache, work);
    eg_sampler_layout(&s->sampler, c->vocab, work);
    s->tokens = eg_arena_take(work, (size_t)context, sizeof *s->tokens);
    s->last_embedding = eg_arena_take(work, (size_t)c->hidden, sizeof(float));
    s->last_x = eg_arena_take(work, (size_t)c->hidden, sizeof(float));
    s->piece = eg_arena_take(work, eg_tokenizer_piece_capacity(s->model->tokenizer) + 12, 1);
}

static void attach(eg_session *s, eg_model *model)
{
    s->model = model;
    s->decoder.config = &model->config;
    s->decoder.weights = &model->weights;
    s->decoder.kernels = eg_kernels_get();
    s->decoder.pool = model->pool;
    s->decoder.cancel = &s->cancel;
}

static eg_status check_params(const eg_model *model, int64_t context, eg_kv_type kv, eg_error *err)
{
    if ((uint32_t)kv > EG_KV_Q8) return eg_fail(err, EG_ERROR_ARGUMENT, "unknown KV cache type %d.", (int)kv);
    if (context > model->config.context)
        return eg_fail(err, EG_ERROR_ARGUMENT, "a context of %lld tokens is more than the model's %d.", (long long)context,
                       model->config.context);
    return EG_OK;
}

static int64_t default_context(const eg_model *model, uint32_t context)
{
    if (context) return context;
    return model->config.context < 4096 ? model->config.context : 4096;
}

static eg_status measure(eg_session *s, int64_t context, eg_kv_type kv, eg_error *err)
{
    eg_arena cache = {NULL, 0}, work = {NULL, 0};
    layout(s, context, kv, &cache, &work);
    if (cache.used == SIZE_MAX || work.used == SIZE_MAX)
        return eg_fail(err, EG_ERROR_MEMORY, "a context of %lld tokens does not fit the address space.", (long long)context);
    s->cache_bytes = cache.used;
    s->work_bytes = work.used;
    return EG_OK;
}

eg_status eg_session_estimate(const eg_model *model, const eg_session_params *params, eg_memory *out, eg_error *err)
{
    if (!model || !params || params->struct_size != sizeof *params || !out || out->struct_size != sizeof *out)
        return eg_fail(err, EG_ERROR_ARGUMENT, "eg_session_estimate needs a model, and struct_size in both structs.");
    int64_t context = default_context(model, params->context);
    eg_status status = check_params(model, context, params->kv, err);
    if (status) return status;
    eg_session *s = calloc(1, sizeof *s);
    if (!s) return eg_fail(err, EG_ERROR_MEMORY, "out of memory");
    attach(s, (eg_model *)model);   /* only measured: nothing of it is written */
    status = measure(s, context, params->kv, err);
    if (!status) *out = (eg_memory){.struct_size = sizeof *out, .kv = s->cache_bytes, .scratch = s->work_bytes + sizeof *s};
    free(s);
    return status;
}

/* Cleared and aligned; the system gives clean pages only when they are touched. *block is what to free. */
static uint8_t *cleared(size_t bytes, void **block)
{
    uint8_t *p = *block = calloc(1, bytes + EG_ARENA_ALIGNMENT);
    return p ? p + (EG_ARENA_ALIGNMENT - (uintptr_t)p % EG_ARENA_ALIGNMENT) : NULL;
}

eg_status eg_session_create(eg_model *model, int64_t context, eg_kv_type kv, eg_session **out, eg_error *err)
{
    eg_status status = check_params(model, context, kv, err);
    if (status) return status;
    eg_session *s = calloc(1, sizeof *s);
    if (!s) return eg_fail(err, EG_ERROR_MEMORY, "out of memory");
    attach(s, model);
    status = measure(s, context, kv, err);
    if (!status) {
        eg_arena cache = {cleared(s->cache_bytes, &s->cache_memory), 0};
        eg_arena work = {cleared(s->work_bytes, &s->work_memory), 0};
        if (cache.base && work.base) layout(s, context, kv, &cache, &work);
        else
            status = eg_fail(err, EG_ERROR_MEMORY, "no memory for a context of %lld tokens (%zu MB); open a smaller one.",
                             (long long)context, (s->cache_bytes + s->work_bytes) >> 20);
    }
    if (status) {
        eg_session_close(s);
        return status;
    }
    eg_decoder_init(&s->decoder);
    s->context = context;
    s->stats.struct_size = sizeof s->stats;
    eg_session_seed(s, (uint64_t)(eg_clock() * 1e9) ^ (uintptr_t)s);
    *out = s;
    return EG_OK;
}

eg_status eg_session_open(eg_model *model, const eg_session_params *params, eg_session **out, eg_error *err)
{
    if (!model || !params || params->struct_size != sizeof *params || !out)
        return eg_fail(err, EG_ERROR_ARGUMENT, "eg_session_open needs a model and struct_size = sizeof(eg_session_params).");
    return eg_session_create(model, default_context(model, params->context), params->kv, out, err);
}

void eg_session_close(eg_session *s)
{
    if (!s) return;
    eg_session_audio_free(s);
    free(s->cache_memory);
    free(s->work_memory);
    free(s);
}

void eg_session_seed(eg_session *s, uint64_t seed) { s->sampler.state = seed; }

/* ---- evaluation -------------------------------------------------------------------------------------------------- */

void eg_session_begin(eg_session *s)
{
    atomic_store(&s->cancel, false);
    atomic_store(&s->running, true);
}

eg_status eg_session_end(eg_session *s, eg_status status)
{
    atomic_store(&s->running, false);
    return status;
}

void eg_session_cancel(eg_session *s)
{
    if (s && atomic_load(&s->running)) atomic_store(&s->cancel, true);
}

static eg_status cancelled(eg_error *err) { return eg_fail(err, EG_CANCELLED, "cancelled"); }

/* Evaluates n tokens that wait (at most EG_BLOCK) as far as the cache needs it; all layers if logits or hidden are wanted
 * of all of them. hidden_stride is that of eg_decoder_run. */
static bool evaluate_block(eg_session *s, const float *soft, int64_t n, bool full, float *logits, float *hidden,
                           size_t hidden_stride)
{
    eg_decoder *y = &s->decoder;
    const eg_config *c = y->config;
    const int32_t *ids = s->tokens + s->evaluated;
    int32_t last = c->kv_layers - 1;   /* of this layer the cache needs K/V only */
    size_t row = (size_t)c->hidden, bytes = row * sizeof(float);

    s->has_last = s->has_logits = false;
    if (s->evaluated + n > s->high) s->high = s->evaluated + n;   /* even when cancelled: the rings are written */
    eg_decoder_embed(y, ids, soft, n);
    memcpy(s->last_embedding, y->x + (size_t)(n - 1) * row, bytes);
    if (hidden) memcpy(hidden, y->x, (size_t)n * bytes);
    eg_decoder_per_layer_inputs(y, ids, n, 0, full ? c->layers : last);
    if (last > 0 && !eg_decoder_run(y, n, s->evaluated, 0, last, EG_LAYER_FULL, EG_LAYER_FULL, hidden, hidden_stride))
        return false;
    memcpy(s->last_x, y->x + (size_t)(n - 1) * row, bytes);
    if (!eg_decoder_run(y, n, s->evaluated, last, full ? c->layers : last + 1, full ? EG_LAYER_FULL : EG_LAYER_KV_ONLY,
                        EG_LAYER_FULL, hidden, hidden_stride))
        return false;
    if (full) eg_decoder_head(y, n, logits, hidden ? hidden + (size_t)c->layers * hidden_stride : NULL);
    s->evaluated += n;
    s->has_last = true;
    return true;
}

static int64_t block_at(const eg_session *s)
{
    int64_t n = s->length - s->evaluated;
    return n < EG_BLOCK ? n : EG_BLOCK;
}

eg_status eg_session_settle(eg_session *s, eg_error *err)
{
    while (s->evaluated < s->length) {
        if (!evaluate_block(s, s->waiting_soft, block_at(s), false, NULL, NULL, 0)) return cancelled(err);
        s->waiting_soft = NULL;   /* all of them were in the first block */
    }
    return EG_OK;
}

/* Logits of the last token, if they are not there yet. */
static eg_status finish(eg_session *s, eg_error *err)
{
    eg_decoder *y = &s->decoder;
    const eg_config *c = y->config;
    eg_status status = eg_session_settle(s, err);
    if (status || s->has_logits) return status;
    if (!s->has_last)
        return eg_fail(err, EG_ERROR_STATE,
                       s->length ? "the last token is soft and was rewound to: feed a token first."
                                 : "there are no logits before the first token: feed something.");
    int32_t first = c->kv_layers - 1;
    memcpy(y->x, s->last_embedding, (size_t)c->hidden * sizeof(float));
    eg_decoder_per_layer_inputs(y, s->tokens + s->evaluated - 1, 1, first, c->layers);
    memcpy(y->x, s->last_x, (size_t)c->hidden * sizeof(float));
    if (!eg_decoder_run(y, 1, s->evaluated - 1, first, c->layers, EG_LAYER_NO_KV, EG_LAYER_FULL, NULL, 0))
        return cancelled(err);
    eg_decoder_head(y, 1, y->logits, NULL);
    s->has_logits = true;
    return EG_OK;
}

eg_status eg_session_check_room(const eg_session *s, size_t n, eg_error *err)
{
    if (n <= (size_t)(s->context - s->length)) return EG_OK;
    return eg_fail(err, EG_ERROR_CONTEXT,
                   "%zu more tokens do not fit: %lld of the session's %lld are in use. Open a session with a larger context, "
                   "rewind, or start a new one.",
                   n, (long long)s->length, (long long)s->context);
}

static eg_status check_ids(const eg_session *s, const int32_t *ids, size_t n, eg_error *err)
{
    if (n && !ids) return eg_fail(err, EG_ERROR_ARGUMENT, "ids is NULL.");
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= s->model->config.vocab)
            return eg_fail(err, EG_ERROR_ARGUMENT, "ids[%zu] is %d; the vocabulary has %d tokens.", i, ids[i],
                           s->model->config.vocab);
    eg_status status = eg_session_audio_check_closed(s, err);
    return status ? status : eg_session_check_room(s, n, err);
}

/* Of what stays the last token waits, for its logits are lost. */
eg_status eg_session_end_feed(eg_session *s, int64_t old_length, eg_status status)
{
    if (status) {
        s->length = s->evaluated > old_length ? s->evaluated : old_length;
        if (s->evaluated == s->length && s->length && !s->has_last && s->tokens[s->length - 1] >= 0) s->evaluated--;
    }
    return eg_session_end(s, status);
}

void eg_session_append(eg_session *s, const int32_t *ids, size_t n)
{
    memcpy(s->tokens + s->length, ids, n * sizeof *ids);
    s->length += (int64_t)n;
    s->detokenizer = (eg_detokenizer){0};
}

eg_status eg_session_feed_tokens(eg_session *s, const int32_t *ids, size_t n, eg_error *err)
{
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    eg_status status = check_ids(s, ids, n, err);
    if (status || !n) return status;
    int64_t old_length = s->length, old_evaluated = s->evaluated;
    double start = eg_clock();
    eg_session_begin(s);
    eg_session_append(s, ids, n);
    status = eg_session_settle(s, err);
    s->stats.prefill_tokens += (uint64_t)(s->evaluated - old_evaluated);
    s->stats.prefill_seconds += eg_clock() - start;
    return eg_session_end_feed(s, old_length, status);
}

eg_status eg_session_feed_text(eg_session *s, const char *text, size_t length, uint32_t flags, eg_error *err)
{
    if (!s || (!text && length)) return eg_fail(err, EG_ERROR_ARGUMENT, "session or text is NULL.");
    if (length == SIZE_MAX) length = strlen(text);
    const eg_tokenizer *tokenizer = s->model->tokenizer;
    size_t capacity = length + 1, n = 0;   /* no more tokens than bytes, and <bos> */
    if (capacity > SIZE_MAX / sizeof(int32_t)) return eg_fail(err, EG_ERROR_MEMORY, "the text is too long.");
    int32_t *ids = malloc(capacity * sizeof *ids);
    if (!ids) return eg_fail(err, EG_ERROR_MEMORY, "no memory for a text of %zu bytes.", length);
    eg_status status = eg_tokenizer_encode(tokenizer, text, length, flags, ids, capacity, &n, err);
    if (!status) status = eg_session_feed_tokens(s, ids, n, err);
    free(ids);
    return status;
}

eg_status eg_session_append_soft(eg_session *s, const float *embeddings, size_t n, eg_error *err)
{
    eg_status status = eg_session_settle(s, err);   /* a block holds either tokens or rows of embeddings */
    if (status) return status;
    int64_t d = s->model->config.hidden, first = s->length;
    double start = eg_clock();
    for (size_t i = 0; i < n; i++) s->tokens[s->length++] = -1;
    s->detokenizer = (eg_detokenizer){0};
    while (!status && s->evaluated < s->length)
        if (!evaluate_block(s, embeddings + (s->evaluated - first) * d, block_at(s), false, NULL, NULL, 0))
            status = cancelled(err);
    s->stats.prefill_tokens += (uint64_t)(s->evaluated - first);
    s->stats.prefill_seconds += eg_clock() - start;
    return status;
}

eg_status eg_session_feed_embeddings(eg_session *s, const float *embeddings, size_t n, eg_error *err)
{
    if (!s || (!embeddings && n)) return eg_fail(err, EG_ERROR_ARGUMENT, "session or embeddings is NULL.");
    eg_status status = eg_session_audio_check_closed(s, err);
    if (!status) status = eg_session_check_room(s, n, err);
    if (status || !n) return status;
    int64_t old_length = s->length;
    eg_session_begin(s);
    status = eg_session_append_soft(s, embeddings, n, err);
    return eg_session_end_feed(s, old_length, status);
}

eg_status eg_session_forward(eg_session *s, const int32_t *ids, size_t n, float *logits, float *hidden, eg_error *err)
{
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    eg_status status = check_ids(s, ids, n, err);
    if (status || !n) return status;
    const eg_config *c = &s->model->config;
    size_t d = (size_t)c->hidden, done = 0;
    int64_t old_length = s->length;
    double start = eg_clock();
    eg_session_begin(s);
    status = eg_session_settle(s, err);
    if (!status) eg_session_append(s, ids, n);
    while (!status && done < n) {
        int64_t block = block_at(s);
        if (evaluate_block(s, NULL, block, true, logits ? logits + done * (size_t)c->vocab : NULL,
                           hidden ? hidden + done * d : NULL, n * d))
            done += (size_t)block;
        else status = cancelled(err);
    }
    s->stats.prefill_tokens += done;
    s->stats.prefill_seconds += eg_clock() - start;
    return eg_session_end_feed(s, old_length, status);
}

eg_status eg_session_logits(eg_session *s, float *logits, eg_error *err)
{
    if (!s || !logits) return eg_fail(err, EG_ERROR_ARGUMENT, "session or logits is NULL.");
    double start = eg_clock();
    eg_session_begin(s);
    eg_status status = finish(s, err);
    if (!status) memcpy(logits, s->decoder.logits, (size_t)s->model->config.vocab * sizeof *logits);
    s->stats.prefill_seconds += eg_clock() - start;
    return eg_session_end(s, status);
}

/* ---- decoding ---------------------------------------------------------------------------------------------------- */

static eg_stop stop_of(const eg_tokenizer *tokenizer, int32_t id)
{
    eg_stop_ids stops = eg_tokenizer_stop_ids(tokenizer);
    return id == stops.eos             ? EG_STOP_EOS
           : id == stops.turn          ? EG_STOP_TURN
           : id == stops.tool_response ? EG_STOP_TOOL_RESPONSE
                                       : EG_STOP_NONE;
}

eg_status eg_session_next(eg_session *s, const eg_sampling *sampling, eg_token *out, eg_error *err)
{
    if (!s || !out) return eg_fail(err, EG_ERROR_ARGUMENT, "session or out is NULL.");
    eg_status status = eg_sampling_check(sampling, s->model->config.vocab, err);
    if (!status) status = eg_session_audio_check_closed(s, err);
    if (!status) status = eg_session_check_room(s, 1, err);
    if (status) return status;
    double start = eg_clock();
    eg_session_begin(s);
    eg_session_audio_draw(s);
    status = finish(s, err);
    if (status) return eg_session_end(s, status);

    const eg_tokenizer *tokenizer = s->model->tokenizer;
    size_t n_suppressed;
    const int32_t *suppressed = eg_tokenizer_suppressed(tokenizer, &n_suppressed);
    int32_t id = eg_sampler_draw(&s->sampler, sampling, s->decoder.logits, s->tokens, (size_t)s->length, suppressed,
                                 n_suppressed);
    eg_stop stop = stop_of(tokenizer, id);
    uint32_t flags = sampling ? sampling->text_flags : 0;
    size_t length = stop ? eg_detokenizer_flush(&s->detokenizer, s->piece)
                         : eg_detokenizer_push(&s->detokenizer, tokenizer, id, flags, s->piece);
    s->tokens[s->length++] = id;   /* evaluated with whatever comes next */
    *out = (eg_token){id, stop, s->piece, length};
    s->stats.decode_tokens++;
    s->stats.decode_seconds += eg_clock() - start;
    return eg_session_end(s, EG_OK);
}

/* ---- timeline ---------------------------------------------------------------------------------------------------- */

size_t eg_session_position(const eg_session *s) { return s ? (size_t)s->length : 0; }

size_t eg_session_context(const eg_session *s) { return s ? (size_t)s->context : 0; }

size_t eg_session_tokens(const eg_session *s, size_t first, int32_t *ids, size_t n)
{
    if (!s || !ids || first >= (size_t)s->length) return 0;
    if (n > (size_t)s->length - first) n = (size_t)s->length - first;
    memcpy(ids, s->tokens + first, n * sizeof *ids);
    return n;
}

eg_status eg_session_rewind(eg_session *s, size_t n, eg_error *err)
{
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    if (n > (size_t)s->length)
        return eg_fail(err, EG_ERROR_ARGUMENT, "cannot go back by %zu tokens: the session has %lld.", n, (long long)s->length);
    int64_t target = s->length - (int64_t)n;
    if (target < s->evaluated) {
        /* The last kept token is evaluated again when logits are wanted (what it leaves in the cache is the same); a
         * soft one cannot be, so something must be fed after it. */
        int64_t resume = target && s->tokens[target - 1] >= 0 ? target - 1 : target;
        if (!target || !eg_cache_can_resume(&s->decoder.cache, &s->model->config, resume, s->high)) {
            for (int64_t i = 0; i < target; i++)
                if (s->tokens[i] < 0)
                    return eg_fail(err, EG_ERROR_STATE,
                                   "going back by %zu tokens would evaluate the prompt again, but it "
                                   "holds soft tokens (audio or images): restore a snapshot or feed it anew.",
                                   n);
            resume = s->high = 0;
        }
        s->evaluated = resume;
        s->has_last = s->has_logits = false;
    }
    s->length = target;
    s->detokenizer = (eg_detokenizer){0};
    eg_session_audio_abandon(s);
    return EG_OK;
}

eg_status eg_session_fork(const eg_session *s, eg_session **out, eg_error *err)
{
    if (!s || !out) return eg_fail(err, EG_ERROR_ARGUMENT, "session or out is NULL.");
    eg_session *copy;
    eg_status status = eg_session_create(s->model, s->context, s->decoder.cache.format, &copy, err);
    if (status) return status;
    const eg_config *c = &s->model->config;
    for (int32_t l = 0; l < c->kv_layers; l++) {
        const eg_layer_cache *from = &s->decoder.cache.layer[l], *to = &copy->decoder.cache.layer[l];
        int64_t slots = s->high < from->capacity ? s->high : from->capacity;
        memcpy(to->k, from->k, (size_t)slots * from->slot_bytes);
        memcpy(to->v, from->v, (size_t)slots * from->slot_bytes);
    }
    memcpy(copy->tokens, s->tokens, (size_t)s->length * sizeof *s->tokens);
    memcpy(copy->last_embedding, s->last_embedding, (size_t)c->hidden * sizeof(float));
    memcpy(copy->last_x, s->last_x, (size_t)c->hidden * sizeof(float));
    memcpy(copy->decoder.logits, s->decoder.logits, (size_t)c->vocab * sizeof(float));
    copy->length = s->length;
    copy->evaluated = s->evaluated;
    copy->high = s->high;
    copy->has_last = s->has_last;
    copy->has_logits = s->has_logits;
    copy->detokenizer = s->detokenizer;
    copy->sampler.state = s->sampler.state;
    status = eg_session_audio_fork(s, copy, err);
    if (status) {
        eg_session_close(copy);
        return status;
    }
    *out = copy;
    return EG_OK;
}

eg_status eg_session_get_stats(const eg_session *s, eg_stats *out, eg_error *err)
{
    if (!s || !out || out->struct_size != sizeof *out)
        return eg_fail(err, EG_ERROR_ARGUMENT, "eg_session_get_stats needs struct_size = sizeof(eg_stats).");
    *out = s->stats;
    return EG_OK;
}

eg_status eg_session_get_memory(const eg_session *s, eg_memory *out, eg_error *err)
{
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    eg_status status = eg_model_get_memory(s->model, out, err);
    if (status) return status;
    out->kv = s->cache_bytes;
    out->scratch = s->work_bytes + eg_session_audio_bytes(s) + sizeof *s;
    return EG_OK;
}
