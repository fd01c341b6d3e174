/* eg_model: opens the file, binds the weights, owns what sessions share. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/processors.h"
#include "../base/structs.h"
#include "../decoder/tables.h"
#include "../format/digest.h"
#include "../nn/keys.h"
#include "../nn/sidecar.h"
#include "objects.h"

const char *eg_version(void) { return EG_VERSION; }

const char *eg_isa(void) { return eg_kernels_get()->name; }

uint64_t eg_model_fingerprint(const eg_model *model) { return eg_gguf_digest(model->file, UINT64_MAX); }

/* Reads a byte of each page of data[bytes], as far as it lies within [from, to) of everything that *at counts; adds to *at. */
static void touch(const uint8_t *data, uint64_t bytes, uint64_t from, uint64_t to, uint64_t *at)
{
    enum { PAGE = 4096 };
    uint64_t begin = from > *at ? from - *at : 0, end = to > *at ? to - *at : 0;
    if (end > bytes) end = bytes;
    for (uint64_t i = begin; i < end; i += PAGE) (void)*(const volatile uint8_t *)(data + i);
    *at += bytes;
}

void eg_model_prefault(eg_model *model)
{
    enum { STEP = 64 << 20 };  /* takes some milliseconds when the file is in the page cache */
    const eg_config *c = &model->config;
    uint64_t from = atomic_load(&model->prefaulted), at = 0;
    if (from == UINT64_MAX || model->store) return; /* a store reads by itself */
    for (int32_t l = c->kv_layers - 1; l < c->layers; l++) {
        const eg_layer *layer = &model->weights.layer[l];
        const eg_matrix *all[] = {&layer->q, &layer->o, &layer->gate, &layer->up, &layer->down, &layer->inp_gate, &layer->proj};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            if (all[i]->data) touch(all[i]->data, (uint64_t)all[i]->rows * all[i]->row_bytes, from, from + STEP, &at);
    }
    const eg_weights *w = &model->weights;
    const eg_matrix *head = w->output_lean.data ? &w->output_lean : &w->output;
    touch(head->data, (uint64_t)head->rows * head->row_bytes, from, from + STEP, &at);
    atomic_store(&model->prefaulted, from + STEP < at ? from + STEP : UINT64_MAX);
}

static void read_name(eg_model *model)
{
    const eg_gguf_value *value = eg_gguf_find(model->file, "general.name");
    if (!value || value->is_array || value->type != EG_GGUF_STRING) return;
    const uint8_t *cursor = value->data;
    eg_span name = eg_gguf_next_string(value, &cursor);
    size_t n = name.length < sizeof model->name ? name.length : sizeof model->name - 1;
    while (n && n < name.length && ((uint8_t)name.data[n] & 0xc0) == 0x80) n--;   /* cut between characters */
    memcpy(model->name, name.data, n);
}

static eg_status check_encoders(const eg_gguf *file, eg_error *err)
{
    eg_span architecture = eg_keys_text(file, "general.architecture");
    if (eg_span_is(architecture, "clip")) return EG_OK;
    return eg_fail(err, EG_ERROR_FORMAT, "%s: not a file of encoders (mmproj): its architecture is '%.*s', not 'clip'.",
                   eg_gguf_name(file), (int)(architecture.length < 64 ? architecture.length : 64),
                   architecture.length ? architecture.data : "");
}

static void count_parameters(eg_model *model)
{
    for (uint64_t i = 0; i < eg_gguf_tensor_count(model->file); i++) {
        const eg_gguf_tensor *t = eg_gguf_tensor_at(model->file, i);
        model->parameters += (uint64_t)t->dims[0] * (uint64_t)t->dims[1] * (uint64_t)t->dims[2] * (uint64_t)t->dims[3];
    }
}

/* Opens the files and binds what they hold. */
static eg_status read_files(eg_model *model, const eg_model_params *params, eg_error *err)
{
    eg_status status = eg_gguf_open(params->path, params->fd, params->offset, params->length, !params->keep_sigbus,
                                    &model->file, err);
    if (!status) status = eg_config_read(model->file, &model->config, err);
    if (!status) count_parameters(model); /* before a sidecar adds to them */
    if (!status) status = eg_sidecar_attach(model->file, params, err);
    if (!status) status = eg_weights_bind(model->file, &model->config, &model->weights, err);
    if (!status) status = eg_tokenizer_create(model->file, &model->tokenizer, err);
    if (!status && eg_tokenizer_vocab_size(model->tokenizer) != (uint32_t)model->config.vocab)
        status = eg_fail(err, EG_ERROR_FORMAT,
                         "%s: 'tokenizer.ggml.tokens' has %u tokens, but 'token_embd.weight' has %d rows.",
                         eg_gguf_name(model->file), eg_tokenizer_vocab_size(model->tokenizer), model->config.vocab);
    if (!status && (params->mmproj || params->mmproj_length))
        status = eg_gguf_open(params->mmproj, params->mmproj_fd, params->mmproj_offset, params->mmproj_length,
                              !params->keep_sigbus, &model->mmproj, err);
    if (!status && model->mmproj) status = check_encoders(model->mmproj, err);
    if (!status && model->mmproj)
        status = eg_audio_bind(model->mmproj, model->config.hidden, &model->audio, &model->has_audio, err);
    if (!status && model->mmproj)
        status = eg_vision_bind(model->mmproj, model->config.hidden, &model->vision, &model->has_vision, err);
    return status;
}

/* Tells the application's log what was chosen. */
static void tell(const eg_model *model, const eg_model_params *p)
{
    char line[400];
    if (!p->log) return;
    snprintf(line, sizeof line, "opened %.80s: %s kernels, %u threads%s%s%s",
             model->name[0] ? model->name : "a model without a name", eg_isa(), eg_pool_threads(model->pool),
             eg_gguf_is_joined(model->file) ? ", with a sidecar" : "", model->has_audio ? ", hears" : "",
             model->has_vision ? ", sees" : "");
    p->log(p->log_context, line);
    if (!model->store) return;
    snprintf(line, sizeof line,
             "the weights do not fit the memory limit: %llu MB of them are kept in memory, the rest is read when needed",
             (unsigned long long)(eg_store_budget(model->store) >> 20));
    p->log(p->log_context, line);
}

eg_status eg_model_open(const eg_model_params *params, eg_model **out, eg_error *err)
{
    eg_model_params p;
    if (!out) return eg_fail(err, EG_ERROR_ARGUMENT, "out is NULL.");
    eg_status status = eg_struct_read(params, &p, sizeof p, "eg_model_params", err);
    if (status) return status;
    if (p.threads > 1024) return eg_fail(err, EG_ERROR_ARGUMENT, "threads is %u; it can be at most 1024.", p.threads);
    eg_model *model = calloc(1, sizeof *model);
    if (!model) return eg_fail(err, EG_ERROR_MEMORY, "out of memory.");
    atomic_store(&model->references, 1);
    status = read_files(model, &p, err);
    if (!status) {
        model->pool = eg_pool_create(p.threads ? p.threads : eg_processors_fast());
        if (!model->pool) status = eg_fail(err, EG_ERROR_MEMORY, "could not start the threads.");
    }
    if (!status) status = eg_model_limit_memory(model, p.memory_limit, err);
    if (status) {
        eg_model_close(model);
        return status;
    }
    eg_tables_advise(&model->weights);
    if (!p.keep_sigbus) {
        eg_gguf_guard(model->file);
        if (model->mmproj) eg_gguf_guard(model->mmproj);
    }
    read_name(model);
    tell(model, &p);
    *out = model;
    return EG_OK;
}

eg_status eg_model_set_threads(eg_model *model, uint32_t threads, eg_error *err)
{
    if (!model) return eg_fail(err, EG_ERROR_ARGUMENT, "model is NULL.");
    const uint32_t most = eg_pool_threads(model->pool);
    if (threads > most)
        return eg_fail(err, EG_ERROR_ARGUMENT, "threads is %u, but the model was opened with %u.", (unsigned)threads,
                       (unsigned)most);
    eg_pool_set_limit(model->pool, threads ? threads : most);
    return EG_OK;
}

void eg_model_retain(eg_model *model)
{
    if (model) atomic_fetch_add(&model->references, 1);
}

void eg_model_release(eg_model *model)
{
    if (atomic_fetch_sub(&model->references, 1) != 1) return;
    for (eg_workspace *ws; (ws = eg_idle_take(&model->idle, 0));) eg_workspace_close(ws);
    for (eg_audio_work *work; (work = eg_idle_take(&model->audio_idle, 0));) eg_audio_work_close(work);
    eg_pool_destroy(model->pool);
    eg_store_close(model->store);
    eg_tokenizer_close(model->tokenizer);
    free(atomic_load(&model->audio_relative));
    eg_audio_free(&model->audio);
    eg_vision_free(&model->vision);
    eg_weights_free(&model->weights);
    eg_gguf_close(model->mmproj);
    eg_gguf_close(model->file);
    free(model);
}

void eg_model_close(eg_model *model)
{
    if (model) eg_model_release(model);
}

eg_status eg_model_get_info(const eg_model *model, eg_model_info *out, eg_error *err)
{
    if (!model) return eg_fail(err, EG_ERROR_ARGUMENT, "model is NULL.");
    eg_status status = eg_struct_check(out, "eg_model_info", err);
    if (status) return status;
    const eg_config *c = &model->config;
    eg_model_info info = {
        .layers = (uint32_t)c->layers,
        .kv_layers = (uint32_t)c->kv_layers,
        .hidden_size = (uint32_t)c->hidden,
        .vocab_size = (uint32_t)c->vocab,
        .context_length = (uint32_t)c->context,
        .heads = (uint32_t)c->layer[0].heads,
        .sliding_window = (uint32_t)c->window,
        .per_layer_input = (uint32_t)c->per_layer,
        .experts = (uint32_t)c->experts,
        .experts_used = (uint32_t)c->experts_used,
        .threads = eg_pool_limit(model->pool),
        .audio = model->has_audio,
        .vision = model->has_vision,
        .sidecar = eg_gguf_is_joined(model->file),
        .parameters = model->parameters,
        .decode_bytes = eg_weights_decode_bytes(&model->weights, c),
        .weight_budget = eg_store_budget(model->store),
        .weight_least = eg_store_least(&model->weights, c),
    };
    memcpy(info.name, model->name, sizeof info.name);
    eg_struct_write(out, &info, sizeof info);
    return EG_OK;
}

const eg_tokenizer *eg_model_tokenizer(const eg_model *model) { return model ? model->tokenizer : NULL; }
