/* The public functions of eg_session but for audio and snapshots: memory, argument checks, one call into the timeline each. */
#include <stdlib.h>
#include <string.h>

#include "../base/clock.h"
#include "../base/numbers.h"
#include "../base/structs.h"
#include "timeline.h"

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

/* The caller's params, with the context that 0 stands for. */
static eg_status read_params(const eg_model *model, const eg_session_params *params, eg_session_params *out, eg_error *err)
{
    if (!model) return eg_fail(err, EG_ERROR_ARGUMENT, "model is NULL.");
    eg_status status = eg_struct_read(params, out, sizeof *out, "eg_session_params", err);
    if (!status && !out->context) out->context = (uint32_t)eg_smaller(model->config.context, 4096);
    return status;
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
    eg_session_params p;
    eg_status status = read_params(model, params, &p, err);
    if (!status) status = eg_struct_check(out, "eg_memory", err);
    if (!status) status = check_params(model, p.context, p.kv, err);
    if (status) return status;
    eg_session *s = calloc(1, sizeof *s);
    if (!s) return eg_fail(err, EG_ERROR_MEMORY, "out of memory.");
    attach(s, (eg_model *)model);   /* the session is measured and freed: nothing writes to the model */
    status = measure(s, p.context, p.kv, err);
    if (!status) {
        eg_memory memory = {.kv = s->cache_bytes, .scratch = s->work_bytes + sizeof *s};
        eg_struct_write(out, &memory, sizeof memory);
    }
    free(s);
    return status;
}

/* Cleared and aligned memory, which takes no pages of the system before it is touched. *block is what to free. */
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
    if (!s) return eg_fail(err, EG_ERROR_MEMORY, "out of memory.");
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
    eg_session_seed(s, (uint64_t)(eg_clock() * 1e9) ^ (uintptr_t)s);
    *out = s;
    return EG_OK;
}

eg_status eg_session_open(eg_model *model, const eg_session_params *params, eg_session **out, eg_error *err)
{
    eg_session_params p;
    if (!out) return eg_fail(err, EG_ERROR_ARGUMENT, "out is NULL.");
    eg_status status = read_params(model, params, &p, err);
    return status ? status : eg_session_create(model, p.context, p.kv, out, err);
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

void eg_session_cancel(eg_session *s)
{
    if (s) atomic_store(&s->cancel, true);
}

/* ---- feeding ----------------------------------------------------------------------------------------------------- */

static eg_status check_ids(const eg_session *s, const int32_t *ids, size_t n, eg_error *err)
{
    if (n && !ids) return eg_fail(err, EG_ERROR_ARGUMENT, "ids is NULL.");
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= s->model->config.vocab)
            return eg_fail(err, EG_ERROR_ARGUMENT, "ids[%zu] is %d; the vocabulary has %d tokens.", i, ids[i],
                           s->model->config.vocab);
    eg_status status = eg_session_audio_check_closed(s, err);
    return status ? status : eg_timeline_check_room(s, n, err);
}

eg_status eg_session_feed_tokens(eg_session *s, const int32_t *ids, size_t n, eg_error *err)
{
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    eg_status status = check_ids(s, ids, n, err);
    if (!status) status = eg_timeline_begin(s, err);
    if (status || !n) return status;
    int64_t old_length = s->length, old_evaluated = s->evaluated;
    double start = eg_clock();
    eg_timeline_append(s, ids, n);
    status = eg_timeline_settle(s, err);
    s->stats.prefill_tokens += (uint64_t)(s->evaluated - old_evaluated);
    s->stats.prefill_seconds += eg_clock() - start;
    return eg_timeline_end_feed(s, old_length, status);
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

eg_status eg_session_feed_embeddings(eg_session *s, const float *embeddings, size_t n, eg_error *err)
{
    if (!s || (!embeddings && n)) return eg_fail(err, EG_ERROR_ARGUMENT, "session or embeddings is NULL.");
    eg_status status = eg_session_audio_check_closed(s, err);
    if (!status) status = eg_timeline_check_room(s, n, err);
    if (!status) status = eg_timeline_begin(s, err);
    if (status || !n) return status;
    int64_t old_length = s->length;
    return eg_timeline_end_feed(s, old_length, eg_timeline_append_soft(s, embeddings, n, err));
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

eg_status eg_session_forward(eg_session *s, const int32_t *ids, size_t n, float *logits, float *hidden, eg_error *err)
{
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    eg_status status = check_ids(s, ids, n, err);
    if (!status) status = eg_timeline_begin(s, err);
    if (status || !n) return status;
    int64_t old_length = s->length;
    return eg_timeline_end_feed(s, old_length, eg_timeline_forward(s, ids, n, logits, hidden, err));
}

eg_status eg_session_logits(eg_session *s, float *logits, eg_error *err)
{
    if (!s || !logits) return eg_fail(err, EG_ERROR_ARGUMENT, "session or logits is NULL.");
    eg_status status = eg_timeline_begin(s, err);
    if (status) return status;
    double start = eg_clock();
    status = eg_timeline_finish(s, err);
    if (!status) memcpy(logits, s->decoder.logits, (size_t)s->model->config.vocab * sizeof *logits);
    s->stats.prefill_seconds += eg_clock() - start;
    return eg_timeline_end(s, status);
}

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
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    eg_sampling options;
    eg_status status = eg_struct_check(out, "eg_token", err);
    if (!status) status = eg_sampling_read(sampling, s->model->config.vocab, &options, err);
    if (!status) status = eg_session_audio_check_closed(s, err);
    if (!status) status = eg_timeline_check_room(s, 1, err);
    if (!status) status = eg_timeline_begin(s, err);
    if (status) return status;
    double start = eg_clock();
    eg_session_audio_draw(s);
    status = eg_timeline_finish(s, err);
    if (status) return eg_timeline_end(s, status);

    const eg_tokenizer *tokenizer = s->model->tokenizer;
    size_t n_suppressed;
    const int32_t *suppressed = eg_tokenizer_suppressed(tokenizer, &n_suppressed);
    int32_t id = eg_sampler_draw(&s->sampler, &options, s->decoder.logits, s->tokens, (size_t)s->length, suppressed,
                                 n_suppressed);
    eg_stop stop = stop_of(tokenizer, id);
    size_t length = stop ? eg_detokenizer_flush(&s->detokenizer, s->piece)
                         : eg_detokenizer_push(&s->detokenizer, tokenizer, id, options.text_flags, s->piece);
    s->tokens[s->length++] = id;   /* evaluated with whatever comes next */
    eg_token token = {.id = id, .stop = stop, .text = s->piece, .text_length = length};
    eg_struct_write(out, &token, sizeof token);
    s->stats.decode_tokens++;
    s->stats.decode_seconds += eg_clock() - start;
    return eg_timeline_end(s, EG_OK);
}

/* ---- timeline ---------------------------------------------------------------------------------------------------- */

size_t eg_session_position(const eg_session *s) { return s ? (size_t)s->length : 0; }

size_t eg_session_context(const eg_session *s) { return s ? (size_t)s->context : 0; }

size_t eg_session_get_tokens(const eg_session *s, size_t first, int32_t *ids, size_t n)
{
    if (!s || !ids || first >= (size_t)s->length) return 0;
    if (n > (size_t)s->length - first) n = (size_t)s->length - first;
    memcpy(ids, s->tokens + first, n * sizeof *ids);
    return n;
}

eg_status eg_session_rewind_to(eg_session *s, size_t position, eg_error *err)
{
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    if (position > (size_t)s->length)
        return eg_fail(err, EG_ERROR_ARGUMENT, "position is %zu, but the session has %lld tokens.", position,
                       (long long)s->length);
    eg_status status = eg_session_audio_check_closed(s, err);
    return status ? status : eg_timeline_rewind_to(s, (int64_t)position, err);
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
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    eg_status status = eg_struct_check(out, "eg_stats", err);
    if (!status) eg_struct_write(out, &s->stats, sizeof s->stats);
    return status;
}

eg_status eg_session_get_memory(const eg_session *s, eg_memory *out, eg_error *err)
{
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    eg_status status = eg_struct_check(out, "eg_memory", err);
    if (status) return status;
    eg_memory memory = eg_model_measure(s->model);
    memory.kv = s->cache_bytes;
    memory.scratch = s->work_bytes + eg_session_audio_bytes(s) + sizeof *s;
    eg_struct_write(out, &memory, sizeof memory);
    return EG_OK;
}
