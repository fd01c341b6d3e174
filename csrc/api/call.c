/* Calls that compute: their turns on the pool, and the model's work spaces. */
#include "objects.h"

static eg_status borrow(eg_model *model, int64_t rows, eg_workspace **out, eg_error *err)
{
    if (rows <= EG_BLOCK && (*out = eg_idle_take(&model->idle, 0))) return EG_OK;
    eg_status status = eg_workspace_open(&model->config, &model->weights, model->pool, rows, out, err);
    if (!status) atomic_fetch_add(&model->workspace_bytes, (*out)->bytes);
    return status;
}

static void drop(eg_model *model, eg_workspace *ws)
{
    atomic_fetch_sub(&model->workspace_bytes, ws->bytes);
    eg_workspace_close(ws);
}

/* A work space for a large picture is needed too rarely to be kept. */
static void give_back(eg_model *model, eg_workspace *ws)
{
    ws->turn = NULL;
    if (ws->rows > EG_BLOCK || !eg_idle_put(&model->idle, ws)) drop(model, ws);
}

eg_status eg_call_begin(eg_call *call, eg_model *model, int32_t priority, bool (*stopped)(void *context), void *context,
                        int64_t rows, eg_error *err)
{
    call->turn = (eg_turn){.priority = priority, .stopped = stopped, .context = context};
    call->ws = NULL;
    eg_status status = eg_gguf_check(model->file, err);
    if (status) return status;
    eg_pool_renew(model->pool);
    eg_store_renew(model->store);
    if (!eg_pool_enter(model->pool, &call->turn)) return eg_fail(err, EG_CANCELLED, "cancelled.");
    status = borrow(model, rows < EG_BLOCK ? EG_BLOCK : rows, &call->ws, err);
    if (status) {
        eg_pool_leave(model->pool, &call->turn);
        return status;
    }
    call->ws->turn = &call->turn;
    call->ws->file = model->file;
    call->ws->store = model->store;
    return EG_OK;
}

eg_status eg_call_reserve_logits(const eg_call *call, eg_model *model, int64_t n, eg_error *err)
{
    const size_t before = call->ws->bytes;
    eg_status status = eg_workspace_reserve_logits(call->ws, n, err);
    atomic_fetch_add(&model->workspace_bytes, call->ws->bytes - before);
    return status;
}

void eg_call_count(eg_stats *stats, eg_store_counts counts)
{
    stats->expert_hits += counts.hits;
    stats->expert_misses += counts.misses;
    stats->weight_bytes += counts.bytes;
}

void eg_call_end(eg_call *call, eg_model *model)
{
    if (call->ws) give_back(model, call->ws);
    call->ws = NULL;
    eg_pool_leave(model->pool, &call->turn);
}

eg_status eg_model_prepare(eg_model *model, eg_error *err)
{
    if (atomic_load(&model->sessions)) return EG_OK;   /* the first one has seen to it */
    eg_workspace *ws;
    eg_status status = borrow(model, EG_BLOCK, &ws, err);
    if (!status) give_back(model, ws);
    return status;
}

void eg_model_drop_idle(eg_model *model, int keep)
{
    for (eg_workspace *ws; (ws = eg_idle_take(&model->idle, keep));) drop(model, ws);
    eg_audio_trim(model, keep);
}
