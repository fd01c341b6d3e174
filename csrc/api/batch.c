/* Several sessions in one pass through the weights; eg_session_next is a batch of one. */
#include <stdlib.h>
#include <string.h>

#include "../base/clock.h"
#include "../base/structs.h"
#include "timeline.h"

/* A batch while it runs. */
typedef struct batch {
    eg_batch_item *items;      /* [n] */
    eg_sampling *options;      /* [n] */
    eg_draw *draws;            /* [n] */
    eg_run *runs;              /* [n] */
    size_t *drawing;           /* [n] */
    size_t n;
} batch;

/* Names the item in the sentence of an error, unless there is only one. */
static eg_status of_item(const batch *b, size_t i, eg_status status, eg_error *err)
{
    if (!status || b->n == 1 || !err) return status;
    eg_error inner = {.struct_size = sizeof inner};
    memcpy(&inner, err, err->struct_size < sizeof inner ? err->struct_size : sizeof inner - 1);
    const size_t length = strlen(inner.message);   /* the sentence has a full stop already */
    return eg_fail(err, status, "item %zu: %.*s.", i, length ? (int)length - 1 : 0, inner.message);
}

static eg_status check_item(const batch *b, size_t i, eg_error *err)
{
    const eg_batch_item *item = &b->items[i];
    const eg_session *s = item->session;
    if (!s || (item->n && !item->ids) || (item->draw && !item->token))
        return eg_fail(err, EG_ERROR_ARGUMENT, "session, ids or token is NULL.");
    for (size_t j = 0; j < i; j++)
        if (b->items[j].session == s)
            return eg_fail(err, EG_ERROR_ARGUMENT, "the session is that of item %zu too: it can have one part in a batch.", j);
    if (s->model != b->items[0].session->model)
        return eg_fail(err, EG_ERROR_ARGUMENT, "the session belongs to another model than the first one.");
    const int32_t vocab = s->model->config.vocab;
    for (size_t j = 0; j < item->n; j++)
        if (item->ids[j] < 0 || item->ids[j] >= vocab)
            return eg_fail(err, EG_ERROR_ARGUMENT, "ids[%zu] is %d; the vocabulary has %d tokens.", j, item->ids[j], vocab);
    eg_status status = eg_session_audio_check_closed(s, err);
    if (!status) status = eg_timeline_check_room(s, item->n + item->draw, err);
    if (status || !item->draw) return status;
    status = eg_struct_check(item->token, "eg_token", err);
    if (!status) status = eg_sampling_read(item->sampling, vocab, &b->options[i], err);
    return status || item->n ? status : eg_timeline_check_last(s, err);
}

/* Whether a request to cancel is pending; marks the items. */
static bool mark_cancelled(const batch *b)
{
    bool any = false;
    for (size_t i = 0; i < b->n; i++) any |= b->items[i].cancelled = atomic_exchange(&b->items[i].session->cancel, false);
    return any;
}

static bool is_cancelled(void *context)
{
    const batch *b = context;
    for (size_t i = 0; i < b->n; i++)
        if (atomic_load_explicit(&b->items[i].session->cancel, memory_order_relaxed)) return true;
    return false;
}

static void write_token(eg_draw *draw, const eg_batch_item *item)
{
    eg_session *s = draw->session;
    s->random = draw->random;
    eg_token token = {.id = draw->id,
                      .stop = eg_tokenizer_stop_of(s->model->tokenizer, draw->id),
                      .text = s->piece,
                      .logprob = draw->logprob,
                      .top_logprobs = draw->n_top ? s->top : NULL,
                      .n_top_logprobs = draw->n_top};
    token.text_length = eg_timeline_accept(s, draw->id, draw->options->text_flags);
    eg_struct_write(item->token, &token, sizeof token);
}

/* The part between the begin and the end of the call. */
static eg_status evaluate(const batch *b, const eg_call *call, eg_error *err)
{
    int64_t drawn = 0;
    for (size_t i = 0; i < b->n; i++) drawn += b->items[i].draw;
    eg_status status = eg_call_reserve_logits(call, b->items[0].session->model, drawn, err);
    if (status) return status;
    const double start = eg_clock();
    for (size_t i = 0; i < b->n; i++) {
        eg_session *s = b->items[i].session;
        b->draws[i] = (eg_draw){.session = s, .options = b->items[i].draw ? &b->options[i] : NULL};
        if (b->items[i].draw) eg_session_audio_draw(s);
        if (b->items[i].n) eg_timeline_append(s, b->items[i].ids, b->items[i].n);
    }
    status = eg_timeline_draw(call->ws, b->draws, b->n, b->runs, b->drawing, err);
    const double seconds = eg_clock() - start;
    for (size_t i = 0; i < b->n; i++) {
        const eg_batch_item *item = &b->items[i];
        eg_session *s = item->session;
        if (status) {
            eg_timeline_keep_evaluated(s, s->length - (int64_t)item->n);
            continue;
        }
        if (item->draw) write_token(&b->draws[i], item);
        s->stats.prefill_tokens += item->n;
        s->stats.decode_tokens += item->draw;
        *(item->draw ? &s->stats.decode_seconds : &s->stats.prefill_seconds) += seconds;
    }
    return status;
}

static eg_status run(batch *b, eg_error *err)
{
    eg_status status = EG_OK;
    int32_t priority = INT32_MIN;
    for (size_t i = 0; !status && i < b->n; i++) status = of_item(b, i, check_item(b, i, err), err);
    if (status) return status;
    for (size_t i = 0; i < b->n; i++)
        if (b->items[i].session->priority > priority) priority = b->items[i].session->priority;
    if (mark_cancelled(b)) return eg_fail(err, EG_CANCELLED, "cancelled.");
    eg_call call;
    eg_model *model = b->items[0].session->model;
    status = eg_call_begin(&call, model, priority, is_cancelled, b, 0, err);
    if (!status) {
        status = evaluate(b, &call, err);
        const eg_store_counts counts = eg_store_take_counts(model->store);
        for (size_t i = 0; i < b->n; i++) eg_call_count(&b->items[i].session->stats, counts);
        eg_call_end(&call, model);
    }
    if (status == EG_CANCELLED) mark_cancelled(b);
    return status;
}

eg_status eg_session_next(eg_session *s, const eg_sampling *sampling, eg_token *out, eg_error *err)
{
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    eg_batch_item item = {.session = s, .draw = true, .sampling = sampling, .token = out};
    eg_sampling options;
    eg_draw draw;
    eg_run one;
    size_t drawing;
    return run(&(batch){&item, &options, &draw, &one, &drawing, 1}, err);
}

/* Runs items that are complete. */
static eg_status run_items(eg_batch_item *items, size_t n, eg_error *err)
{
    if (n > EG_BLOCK) return eg_fail(err, EG_ERROR_ARGUMENT, "%zu sessions are too many: %d can have one pass.", n, EG_BLOCK);
    if (!n) return EG_OK;
    batch b = {.items = items, .n = n};
    const size_t each = sizeof *b.options + sizeof *b.draws + sizeof *b.runs + sizeof *b.drawing;
    void *memory = malloc(n * each);
    if (!memory) return eg_fail(err, EG_ERROR_MEMORY, "out of memory.");
    b.options = memory;        /* all four have members of eight bytes, so each begins aligned */
    b.draws = (eg_draw *)(void *)(b.options + n);
    b.runs = (eg_run *)(void *)(b.draws + n);
    b.drawing = (size_t *)(void *)(b.runs + n);
    eg_status status = run(&b, err);
    free(memory);
    return status;
}

eg_status eg_batch_run(eg_batch_item *items, size_t n, eg_error *err)
{
    if (n && !items) return eg_fail(err, EG_ERROR_ARGUMENT, "items is NULL.");
    if (n > EG_BLOCK) return run_items(items, n, err);
    eg_batch_item *copies = malloc((n ? n : 1) * sizeof *copies);
    if (!copies) return eg_fail(err, EG_ERROR_MEMORY, "out of memory.");
    eg_status status = EG_OK;
    const size_t stride = n ? eg_struct_size(items) : 0;
    for (size_t i = 0; !status && i < n; i++)
        status = eg_struct_read((const uint8_t *)items + i * stride, &copies[i], sizeof *copies, "eg_batch_item", err);
    if (!status) status = run_items(copies, n, err);
    for (size_t i = 0; status == EG_CANCELLED && i < n; i++)
        eg_struct_write((uint8_t *)items + i * stride, &copies[i], sizeof *copies);
    free(copies);
    return status;
}

eg_status eg_batch_next(eg_session *const *sessions, size_t n, const eg_sampling *const *sampling, eg_token *tokens,
                        eg_error *err)
{
    if (n && (!sessions || !tokens)) return eg_fail(err, EG_ERROR_ARGUMENT, "sessions or tokens is NULL.");
    if (n > EG_BLOCK) return run_items(NULL, n, err);
    eg_batch_item *items = calloc(n ? n : 1, sizeof *items);
    if (!items) return eg_fail(err, EG_ERROR_MEMORY, "out of memory.");
    const size_t stride = n ? eg_struct_size(tokens) : 0;
    for (size_t i = 0; i < n; i++)
        items[i] = (eg_batch_item){.struct_size = sizeof *items,
                                   .session = sessions[i],
                                   .draw = true,
                                   .sampling = sampling ? sampling[i] : NULL,
                                   .token = (eg_token *)(void *)((uint8_t *)tokens + i * stride)};
    eg_status status = run_items(items, n, err);
    free(items);
    return status;
}
