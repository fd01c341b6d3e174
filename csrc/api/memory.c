/* What a model takes, the limit that it keeps, and what it gives back. */
#include "../base/memory.h"
#include "../base/structs.h"
#include "objects.h"

eg_memory eg_model_measure(const eg_model *model)
{
    eg_memory memory = {
        .mapped = eg_gguf_mapped_bytes(model->file),
        .resident = eg_gguf_resident_bytes(model->file),
        .tables = sizeof *model + model->weights.heap_bytes + model->weights.owned.bytes + eg_gguf_heap_bytes(model->file) +
                  eg_tokenizer_heap_bytes(model->tokenizer),
        .workspace = atomic_load(&model->workspace_bytes),
    };
    if (!model->mmproj) return memory;
    memory.mapped += eg_gguf_mapped_bytes(model->mmproj);
    memory.resident += eg_gguf_resident_bytes(model->mmproj);
    memory.tables += eg_gguf_heap_bytes(model->mmproj) + model->audio.heap_bytes + model->audio.owned.bytes +
                     model->vision.heap_bytes + model->vision.owned.bytes +
                     (atomic_load(&model->audio_relative) ? eg_audio_relative_bytes(model) : 0);
    return memory;
}

eg_status eg_model_get_memory(const eg_model *model, eg_memory *out, eg_error *err)
{
    if (!model) return eg_fail(err, EG_ERROR_ARGUMENT, "model is NULL.");
    eg_status status = eg_struct_check(out, "eg_memory", err);
    if (status) return status;
    eg_memory memory = eg_model_measure(model);
    eg_struct_write(out, &memory, sizeof memory);
    return EG_OK;
}

/* ---- a limit ----------------------------------------------------------------------------------------------------- */

/* What the process holds beside the weights: itself, work spaces, sessions, and a little for page tables and the like. */
static uint64_t beside_weights(const eg_model *model)
{
    enum { SPARE = 48 << 20, SHARE = 24 };
    const uint64_t one = eg_workspace_bytes(&model->config, &model->weights, model->pool, EG_BLOCK);
    const uint64_t workspaces = atomic_load(&model->workspace_bytes);
    return model->process_bytes + (workspaces > one ? workspaces : one) + atomic_load(&model->session_bytes) + SPARE +
           model->memory_limit / SHARE;
}

static uint64_t budget_of(const eg_model *model)
{
    const uint64_t beside = beside_weights(model);
    return model->memory_limit > beside ? model->memory_limit - beside : 0;
}

eg_status eg_model_limit_memory(eg_model *model, uint64_t limit, eg_error *err)
{
    const uint64_t allowed = eg_memory_allowed("");
    model->memory_limit = limit && (!allowed || limit < allowed) ? limit : allowed;
    model->process_bytes = eg_memory_resident();
    /* A dense model that is too large by a little does better with what the system evicts by itself: every token reads all of it. */
    const uint64_t room = model->config.experts ? budget_of(model) : model->memory_limit;
    if (!model->memory_limit || eg_store_bytes(&model->weights, &model->config) <= room) return EG_OK;
    const bool drop = allowed && eg_gguf_mapped_bytes(model->file) > allowed;
    return eg_store_open(model->file, &model->weights, &model->config, budget_of(model), drop, &model->store, err);
}

void eg_model_count_session(eg_model *model, size_t before, size_t after)
{
    atomic_fetch_add(&model->session_bytes, after);
    atomic_fetch_sub(&model->session_bytes, before);
    if (model->store) eg_store_set_budget(model->store, budget_of(model));
}

/* ---- giving back ------------------------------------------------------------------------------------------------- */

static bool at_once(void *context)
{
    (void)context;
    return true;
}

eg_status eg_model_trim(eg_model *model, eg_error *err)
{
    if (!model) return eg_fail(err, EG_ERROR_ARGUMENT, "model is NULL.");
    eg_model_drop_idle(model, 0);
    eg_turn turn = {.priority = INT32_MIN, .stopped = at_once};
    eg_pool_renew(model->pool);
    eg_store_renew(model->store);
    const bool idle = eg_pool_enter(model->pool, &turn); /* without waiting */
    eg_store_trim(model->store, idle);
    eg_gguf_release(model->file, NULL, 0, false);
    if (model->mmproj) eg_gguf_release(model->mmproj, NULL, 0, false);
    eg_pool_leave(model->pool, &turn);
    atomic_store(&model->prefaulted, 0);
    eg_memory_trim();
    return EG_OK;
}
