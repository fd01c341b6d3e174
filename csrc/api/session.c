/* The public functions of eg_session but for audio and snapshots: memory, argument checks, one call into the timeline each. */
#include <stdlib.h>
#include <string.h>

#include "../base/clock.h"
#include "../base/numbers.h"
#include "../base/structs.h"
#include "timeline.h"

/* ---- opening ----------------------------------------------------------------------------------------------------- */

/* Tokens of a block that the rings have room for. */
static int64_t block_of(const eg_session *s) { return eg_larger(EG_BLOCK, s->model->config.per_layer ? 0 : s->picture); }

static void layout(eg_session *s, eg_arena *cache, eg_arena *work)
{
    const eg_config *c = &s->model->config;
    eg_cache_layout(&s->cache, c, s->context, block_of(s), s->cache.format, cache);
    s->tokens = eg_arena_take(work, (size_t)s->context, sizeof *s->tokens);
    s->last.embedding = eg_arena_take(work, (size_t)c->hidden, sizeof(float));
    s->last.x = eg_arena_take(work, (size_t)c->hidden, sizeof(float));
    s->piece = eg_arena_take(work, eg_tokenizer_piece_capacity(s->model->tokenizer) + 12, 1);
    s->top = eg_arena_take(work, EG_TOP_LOGPROBS, sizeof *s->top);
    s->logits = eg_arena_take(work, (size_t)c->vocab, sizeof(float));
}

/* The caller's params, complete: with what 0 stands for. */
static eg_status read_params(const eg_model *model, const eg_session_params *params, eg_session_params *out, eg_error *err)
{
    if (!model) return eg_fail(err, EG_ERROR_ARGUMENT, "model is NULL.");
    eg_status status = eg_struct_read(params, out, sizeof *out, "eg_session_params", err);
    if (status) return status;
    if (!out->context) out->context = (uint32_t)eg_smaller(model->config.context, 4096);
    if (!out->picture) out->picture = EG_PICTURE;
    return EG_OK;
}

static eg_status check_params(const eg_model *model, const eg_session_params *p, eg_error *err)
{
    if ((uint32_t)p->kv > EG_KV_Q8) return eg_fail(err, EG_ERROR_ARGUMENT, "unknown KV cache type %d.", (int)p->kv);
    if (p->context > (uint32_t)model->config.context)
        return eg_fail(err, EG_ERROR_ARGUMENT, "a context of %u tokens is more than the model's %d.", (unsigned)p->context,
                       model->config.context);
    if (p->picture > EG_PICTURE)
        return eg_fail(err, EG_ERROR_ARGUMENT, "a picture of %u tokens is more than there can be, %d.", (unsigned)p->picture,
                       EG_PICTURE);
    return EG_OK;
}

/* Sets the session's parameters and sizes. */
static eg_status measure(eg_session *s, eg_model *model, const eg_session_params *p, eg_error *err)
{
    eg_arena cache = {NULL, 0}, work = {NULL, 0};
    s->model = model;
    s->context = p->context;
    s->picture = p->picture;
    s->cache.format = p->kv;
    layout(s, &cache, &work);
    if (cache.used == SIZE_MAX || work.used == SIZE_MAX)
        return eg_fail(err, EG_ERROR_MEMORY, "a context of %u tokens does not fit the address space.", (unsigned)p->context);
    s->cache_bytes = cache.used;
    s->work_bytes = work.used;
    return EG_OK;
}

eg_status eg_session_estimate(const eg_model *model, const eg_session_params *params, eg_memory *out, eg_error *err)
{
    eg_session_params p;
    eg_status status = read_params(model, params, &p, err);
    if (!status) status = eg_struct_check(out, "eg_memory", err);
    if (!status) status = check_params(model, &p, err);
    if (status) return status;
    eg_session *s = calloc(1, sizeof *s);
    if (!s) return eg_fail(err, EG_ERROR_MEMORY, "out of memory.");
    status = measure(s, (eg_model *)model, &p, err);   /* the session is measured and freed: nothing writes to the model */
    if (!status) {
        eg_memory memory = {.kv = s->cache_bytes,
                            .scratch = s->work_bytes + sizeof *s,
                            .workspace = eg_workspace_bytes(&model->config, &model->weights, model->pool, EG_BLOCK)};
        eg_struct_write(out, &memory, sizeof memory);
    }
    free(s);
    return status;
}

eg_session_params eg_session_params_of(const eg_session *s)
{
    return (eg_session_params){.struct_size = sizeof(eg_session_params),
                               .context = (uint32_t)s->context,
                               .kv = s->cache.format,
                               .picture = (uint32_t)s->picture};
}

eg_status eg_session_create(eg_model *model, const eg_session_params *p, eg_session **out, eg_error *err)
{
    eg_status status = check_params(model, p, err);
    if (!status) status = eg_model_prepare(model, err);
    if (status) return status;
    eg_session *s = calloc(1, sizeof *s);
    if (!s) return eg_fail(err, EG_ERROR_MEMORY, "out of memory.");
    atomic_store(&s->references, 1);
    eg_model_retain(model);
    atomic_fetch_add(&model->sessions, 1);
    status = measure(s, model, p, err);
    if (!status) {
        eg_arena cache = eg_arena_open(s->cache_bytes, &s->cache_memory), work = eg_arena_open(s->work_bytes, &s->work_memory);
        if (cache.base && work.base) layout(s, &cache, &work);
        else
            status = eg_fail(err, EG_ERROR_MEMORY, "no memory for a context of %lld tokens (%zu MB); open a smaller one.",
                             (long long)s->context, (s->cache_bytes + s->work_bytes) >> 20);
    }
    eg_model_count_session(model, 0, s->cache_bytes + s->work_bytes);
    if (status) {
        eg_session_close(s);
        return status;
    }
    eg_session_seed(s, (uint64_t)(eg_clock() * 1e9) ^ (uintptr_t)s);
    *out = s;
    return EG_OK;
}

eg_status eg_session_open(eg_model *model, const eg_session_params *params, eg_session **out, eg_error *err)
{
    eg_session_params p;
    if (!out) return eg_fail(err, EG_ERROR_ARGUMENT, "out is NULL.");
    eg_status status = read_params(model, params, &p, err);
    return status ? status : eg_session_create(model, &p, out, err);
}

void eg_session_retain(eg_session *s)
{
    if (s) atomic_fetch_add(&s->references, 1);
}

void eg_session_close(eg_session *s)
{
    if (!s || atomic_fetch_sub(&s->references, 1) != 1) return;
    eg_model *model = s->model;
    const int left = atomic_fetch_sub(&model->sessions, 1) - 1;
    eg_session_audio_free(s);
    eg_arena_close(s->cache_memory);
    eg_arena_close(s->work_memory);
    eg_model_count_session(model, s->cache_bytes + s->work_bytes, 0);
    free(s);
    eg_model_drop_idle(model, left > 0 ? left : 1);
    eg_model_release(model);
}

void eg_session_seed(eg_session *s, uint64_t seed) { s->random = seed; }

eg_status eg_session_set_priority(eg_session *s, int32_t priority, eg_error *err)
{
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    if (priority < -1000 || priority > 1000)
        return eg_fail(err, EG_ERROR_ARGUMENT, "priority is %d; it must be within -1000 and 1000.", (int)priority);
    s->priority = priority;
    return EG_OK;
}

void eg_session_cancel(eg_session *s)
{
    if (s) atomic_store(&s->cancel, true);
}

/* ---- feeding ----------------------------------------------------------------------------------------------------- */

static eg_status check_vocabulary(const eg_session *s, const int32_t *ids, size_t n, eg_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= s->model->config.vocab)
            return eg_fail(err, EG_ERROR_ARGUMENT, "ids[%zu] is %d; the vocabulary has %d tokens.", i, ids[i],
                           s->model->config.vocab);
    return EG_OK;
}

static eg_status check_ids(const eg_session *s, const int32_t *ids, size_t n, eg_error *err)
{
    if (n && !ids) return eg_fail(err, EG_ERROR_ARGUMENT, "ids is NULL.");
    eg_status status = check_vocabulary(s, ids, n, err);
    if (!status) status = eg_session_audio_check_closed(s, err);
    return status ? status : eg_timeline_check_room(s, n, err);
}

eg_status eg_session_feed_tokens(eg_session *s, const int32_t *ids, size_t n, eg_error *err)
{
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    eg_status status = check_ids(s, ids, n, err);
    if (!status) status = eg_timeline_begin(s, 0, err);
    if (status || !n) return eg_timeline_end(s, status);
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

eg_status eg_session_feed_embeddings(eg_session *s, const float *embeddings, size_t n, uint32_t flags, eg_error *err)
{
    if (!s || (!embeddings && n)) return eg_fail(err, EG_ERROR_ARGUMENT, "session or embeddings is NULL.");
    if (flags & ~(uint32_t)EG_EMBEDDINGS_PICTURE)
        return eg_fail(err, EG_ERROR_ARGUMENT, "flags is %#x; it can be 0 or EG_EMBEDDINGS_PICTURE.", (unsigned)flags);
    const bool both_ways = flags & EG_EMBEDDINGS_PICTURE && !s->model->config.per_layer;
    if (both_ways && n > (size_t)s->picture)
        return eg_fail(err, EG_ERROR_ARGUMENT, "a picture of %zu tokens does not fit: the session was opened for %lld at most.",
                       n, (long long)s->picture);
    eg_status status = eg_session_audio_check_closed(s, err);
    if (!status) status = eg_timeline_check_room(s, n, err);
    if (!status) status = eg_timeline_begin(s, both_ways ? (int64_t)n : 0, err);
    if (status || !n) return eg_timeline_end(s, status);
    int64_t old_length = s->length;
    return eg_timeline_end_feed(s, old_length, eg_timeline_append_soft(s, embeddings, n, both_ways, err));
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

eg_status eg_session_forward(eg_session *s, const int32_t *ids, size_t n, float *logits, float *hidden, eg_error *err)
{
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    eg_status status = check_ids(s, ids, n, err);
    if (!status) status = eg_timeline_begin(s, 0, err);
    if (status || !n) return eg_timeline_end(s, status);
    int64_t old_length = s->length;
    return eg_timeline_end_feed(s, old_length, eg_timeline_forward(s, ids, n, logits, hidden, err));
}

eg_status eg_session_logits(eg_session *s, float *logits, eg_error *err)
{
    if (!s || !logits) return eg_fail(err, EG_ERROR_ARGUMENT, "session or logits is NULL.");
    eg_status status = eg_timeline_check_last(s, err);
    if (!status) status = eg_timeline_begin(s, 0, err);
    if (status) return status;
    double start = eg_clock();
    status = eg_timeline_finish(s, err);
    if (!status) memcpy(logits, s->logits, (size_t)s->model->config.vocab * sizeof *logits);
    s->stats.prefill_seconds += eg_clock() - start;
    return eg_timeline_end(s, status);
}

eg_status eg_session_verify(eg_session *s, const int32_t *ids, size_t n, const eg_sampling *sampling, float *logprobs,
                            size_t *kept, eg_error *err)
{
    if (!s || (n && !ids)) return eg_fail(err, EG_ERROR_ARGUMENT, "session or ids is NULL.");
    eg_sampling options;
    eg_status status = eg_sampling_read(sampling, s->model->config.vocab, &options, err);
    if (!status && options.check_token)
        status = eg_fail(err, EG_ERROR_ARGUMENT, "check_token is set: a draft is checked without a grammar.");
    if (!status) status = check_vocabulary(s, ids, n, err);
    if (!status) status = eg_session_audio_check_closed(s, err);
    if (!status) status = eg_timeline_check_last(s, err);
    if (!status) status = eg_timeline_begin(s, 0, err);
    if (status) return status;
    double start = eg_clock();
    size_t count = 0;
    status = eg_call_reserve_logits(&s->call, s->model, EG_VERIFY + 1, err);
    if (n > (size_t)(s->context - s->length)) n = (size_t)(s->context - s->length);
    if (!status) status = eg_timeline_verify(s, ids, n, &options, logprobs, &count, err);
    if (kept && (!status || status == EG_CANCELLED)) *kept = count;
    s->stats.decode_tokens += count;
    s->stats.decode_seconds += eg_clock() - start;
    return eg_timeline_end(s, status);
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

eg_status eg_session_sync(eg_session *s, const int32_t *ids, size_t n, size_t *kept, eg_error *err)
{
    if (!s || (n && !ids)) return eg_fail(err, EG_ERROR_ARGUMENT, "session or ids is NULL.");
    size_t same = 0;
    while (same < n && same < (size_t)s->length && ids[same] == s->tokens[same]) same++;
    if (n > (size_t)s->context)
        return eg_fail(err, EG_ERROR_CONTEXT, "%zu tokens do not fit the session's %lld.", n, (long long)s->context);
    eg_status status = check_vocabulary(s, ids + same, n - same, err);
    if (!status) status = eg_session_audio_check_closed(s, err);
    if (!status) status = eg_timeline_rewind_to(s, (int64_t)same, err);
    if (status) return status;
    if (kept) *kept = (size_t)eg_smaller(s->evaluated, (int64_t)same);
    return eg_session_feed_tokens(s, ids + same, n - same, err);
}

eg_status eg_session_fork(const eg_session *s, eg_session **out, eg_error *err)
{
    if (!s || !out) return eg_fail(err, EG_ERROR_ARGUMENT, "session or out is NULL.");
    eg_session *copy;
    const eg_session_params params = eg_session_params_of(s);
    eg_status status = eg_session_create(s->model, &params, &copy, err);
    if (status) return status;
    const eg_config *c = &s->model->config;
    for (int32_t l = 0; l < c->kv_layers; l++) {
        const eg_layer_cache *from = &s->cache.layer[l], *to = &copy->cache.layer[l];
        const size_t bytes = (size_t)eg_smaller(s->high, from->capacity) * from->slot_bytes;
        memcpy(to->k, from->k, bytes);
        memcpy(to->v, from->v, bytes);
    }
    memcpy(copy->tokens, s->tokens, (size_t)s->length * sizeof *s->tokens);
    memcpy(copy->last.embedding, s->last.embedding, (size_t)c->hidden * sizeof(float));
    memcpy(copy->last.x, s->last.x, (size_t)c->hidden * sizeof(float));
    if (s->has_logits) memcpy(copy->logits, s->logits, (size_t)c->vocab * sizeof(float));
    copy->last.valid = s->last.valid;
    copy->last.id = s->last.id;
    copy->last.position = s->last.position;
    copy->length = s->length;
    copy->evaluated = s->evaluated;
    copy->high = s->high;
    copy->has_logits = s->has_logits;
    copy->detokenizer = s->detokenizer;
    copy->random = s->random;
    copy->priority = s->priority;
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
