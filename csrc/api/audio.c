/* eg_audio_stream: makes soft tokens of samples while they come. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../base/structs.h"
#include "objects.h"

size_t eg_audio_token_count(const eg_model *model, size_t samples)
{
    size_t frames = samples ? (samples - 1) / EG_MEL_HOP : 0;
    if (model && model->has_audio && model->audio.config.unified && samples) frames++;
    return frames / EG_AUDIO_FRAMES + (frames % EG_AUDIO_FRAMES != 0);
}

eg_status eg_audio_check_samples(const float *samples, size_t n, eg_error *err)
{
    if (n && !samples) return eg_fail(err, EG_ERROR_ARGUMENT, "samples is NULL.");
    for (size_t i = 0; i < n; i++)
        if (!isfinite(samples[i])) return eg_fail(err, EG_ERROR_ARGUMENT, "samples[%zu] is not a finite number.", i);
    return EG_OK;
}

static void layout(eg_audio_stream *s, eg_arena *arena)
{
    const eg_audio_config *c = &s->model->audio.config;
    const int32_t features = c->features;
    eg_mel_layout(&s->mel, features, c->unified, arena);
    s->frames = eg_arena_take(arena, EG_AUDIO_BLOCK * EG_AUDIO_FRAMES, (size_t)features * sizeof *s->frames);
    eg_audio_layout(&s->encoder, arena);
}

size_t eg_audio_relative_bytes(const eg_model *model)
{
    const eg_audio_config *c = &model->audio.config;
    return (size_t)c->layers * EG_AUDIO_REACH * (size_t)c->width * sizeof(float);
}

/* A work space that no stream uses, or a new one; NULL without memory. */
static eg_audio_work *borrow(eg_model *model)
{
    eg_audio_work *work = eg_idle_take(&model->audio_idle, 0);
    if (work || !(work = eg_audio_work_open(&model->audio, model->pool))) return work;
    atomic_fetch_add(&model->workspace_bytes, work->bytes);
    return work;
}

static void drop(eg_model *model, eg_audio_work *work)
{
    atomic_fetch_sub(&model->workspace_bytes, work->bytes);
    eg_audio_work_close(work);
}

static void give_back(eg_model *model, eg_audio_work *work)
{
    if (!eg_idle_put(&model->audio_idle, work)) drop(model, work);
}

void eg_audio_trim(eg_model *model, int keep)
{
    for (eg_audio_work *work; (work = eg_idle_take(&model->audio_idle, keep));) drop(model, work);
}

/* The model's keys of relative positions. The first stream makes them; when several make them at once, one set is kept. */
static const float *relative_keys(eg_model *model)
{
    float *keys = atomic_load(&model->audio_relative);
    if (keys) return keys;
    float *made = malloc(eg_audio_relative_bytes(model) + 1);   /* not of size 0: a model may have no layers */
    eg_audio_work *work = made ? borrow(model) : NULL;
    if (!work) {
        free(made);
        return NULL;
    }
    eg_turn turn = {0};
    eg_pool_renew(model->pool);
    eg_pool_enter(model->pool, &turn);   /* which nothing stops */
    eg_audio_relative(work, made);
    eg_pool_leave(model->pool, &turn);
    give_back(model, work);
    if (atomic_compare_exchange_strong(&model->audio_relative, &keys, made)) return made;
    free(made);
    return keys;
}

eg_status eg_audio_stream_create(eg_model *model, uint32_t context, eg_audio_stream **out, eg_error *err)
{
    eg_audio_stream *s = calloc(1, sizeof *s);
    if (!s) return eg_fail(err, EG_ERROR_MEMORY, "out of memory.");
    atomic_store(&s->references, 1);
    s->model = model;
    s->encoder.weights = &model->audio;
    s->turn = &s->own_turn;
    s->encoder.context = (int32_t)context;
    eg_arena arena = {NULL, 0};
    layout(s, &arena);
    s->bytes = arena.used;
    arena = eg_arena_open(s->bytes, &s->memory);
    if (!arena.base) {
        free(s);
        return eg_fail(err, EG_ERROR_MEMORY, "no memory for the audio encoder.");
    }
    eg_model_retain(model);
    layout(s, &arena);
    s->encoder.relative = relative_keys(model);
    if (!s->encoder.relative) {
        eg_audio_stream_free(s);
        return eg_fail(err, EG_ERROR_MEMORY, "no memory for the audio encoder.");
    }
    eg_mel_init(&s->mel);
    eg_audio_reset(&s->encoder);
    *out = s;
    return EG_OK;
}

eg_status eg_audio_read_params(const eg_model *model, const eg_audio_params *params, eg_audio_params *out, eg_error *err)
{
    static const eg_audio_params defaults = {.struct_size = sizeof defaults};
    eg_status status = eg_struct_read(params ? params : &defaults, out, sizeof *out, "eg_audio_params", err);
    if (status) return status;
    if (!model->has_audio)
        return eg_fail(err, EG_ERROR_UNSUPPORTED,
                       model->mmproj ? "%s: the file of encoders has none for audio."
                                     : "%s: this model was opened without an audio encoder: "
                                       "open it together with the file of its encoders (mmproj).",
                       eg_gguf_name(model->mmproj ? model->mmproj : model->file));
    if (!out->left_context) out->left_context = EG_AUDIO_CONTEXT;
    if (out->left_context != EG_AUDIO_CONTEXT && out->left_context != EG_AUDIO_REACH)
        return eg_fail(err, EG_ERROR_ARGUMENT, "left_context is %u; it can be %d or %d.", out->left_context, EG_AUDIO_CONTEXT,
                       EG_AUDIO_REACH);
    return EG_OK;
}

eg_status eg_audio_stream_open(eg_model *model, const eg_audio_params *params, eg_audio_stream **out, eg_error *err)
{
    if (!model || !out) return eg_fail(err, EG_ERROR_ARGUMENT, "model or out is NULL.");
    eg_audio_params p;
    eg_status status = eg_audio_read_params(model, params, &p, err);
    if (!status) status = eg_audio_stream_create(model, p.left_context, out, err);
    if (!status) eg_audio_enter(model);
    return status;
}

eg_status eg_audio_stream_copy(const eg_audio_stream *from, eg_audio_stream **out, eg_error *err)
{
    eg_audio_stream *copy;
    eg_status status = eg_audio_stream_create(from->model, (uint32_t)from->encoder.context, &copy, err);
    if (status) return status;
    memcpy(copy->mel.samples, from->mel.samples, (size_t)from->mel.filled * sizeof *copy->mel.samples);
    copy->mel.filled = from->mel.filled;
    memcpy(copy->frames, from->frames, (size_t)(from->n_frames * from->mel.features) * sizeof *copy->frames);
    copy->n_frames = from->n_frames;
    copy->broken = from->broken;
    eg_audio_copy(&copy->encoder, &from->encoder);
    *out = copy;
    return EG_OK;
}

void eg_audio_stream_retain(eg_audio_stream *s)
{
    if (s) atomic_fetch_add(&s->references, 1);
}

void eg_audio_stream_close(eg_audio_stream *s)
{
    if (!s || atomic_fetch_sub(&s->references, 1) != 1) return;
    eg_audio_leave(s->model);
    eg_audio_stream_free(s);
}

void eg_audio_stream_free(eg_audio_stream *s)
{
    if (!s) return;
    eg_model *model = s->model;
    eg_arena_close(s->memory);
    free(s);
    eg_model_release(model);
}

void eg_audio_stream_reset(eg_audio_stream *s)
{
    if (!s) return;
    eg_mel_reset(&s->mel);
    eg_audio_reset(&s->encoder);
    s->n_frames = 0;
    s->broken = false;
}

void eg_audio_stream_cancel(eg_audio_stream *s)
{
    if (s) atomic_store(&s->cancel, true);
}

size_t eg_audio_stream_token_count(const eg_audio_stream *s, size_t n)
{
    if (!s || n > INT64_MAX / 2) return 0;
    return (size_t)((s->n_frames + eg_mel_frames(&s->mel, (int64_t)n)) / EG_AUDIO_FRAMES);
}

/* Encodes the first n of the frames that wait. */
static eg_status encode(eg_audio_stream *s, int64_t n, float *embeddings, size_t *written, eg_error *err)
{
    int64_t features = s->mel.features;
    if (!n) return EG_OK;
    eg_audio_work *work = borrow(s->model);
    s->broken = true;
    if (!work) return eg_fail(err, EG_ERROR_MEMORY, "no memory for the audio encoder.");
    s->broken = !eg_audio_encode(&s->encoder, work, s->turn, s->frames, n,
                                 embeddings + *written * (size_t)s->model->config.hidden);
    give_back(s->model, work);
    if (s->broken) return eg_fail(err, EG_CANCELLED, "cancelled.");
    s->broken = eg_gguf_failed(s->model->mmproj);
    if (s->broken) return eg_gguf_check(s->model->mmproj, err);
    *written += (size_t)(n + EG_AUDIO_FRAMES - 1) / EG_AUDIO_FRAMES;
    s->n_frames -= n;
    memmove(s->frames, s->frames + n * features, (size_t)(s->n_frames * features) * sizeof *s->frames);
    return EG_OK;
}

eg_status eg_audio_stream_run(eg_audio_stream *s, const float *samples, size_t n, bool last, float *embeddings, size_t *written,
                              eg_error *err)
{
    enum { ROOM = EG_AUDIO_BLOCK * EG_AUDIO_FRAMES };
    int64_t left = (int64_t)n;
    bool end;
    *written = 0;
    do {
        s->n_frames += eg_mel_push(&s->mel, &samples, &left, s->frames + s->n_frames * s->mel.features, ROOM - s->n_frames);
        end = last && !left && s->n_frames < ROOM;
        if (end) s->n_frames += eg_mel_finish(&s->mel, s->frames + s->n_frames * s->mel.features);
        const int64_t ready = end ? s->n_frames : s->n_frames / EG_AUDIO_FRAMES * EG_AUDIO_FRAMES;
        eg_status status = encode(s, ready, embeddings, written, err);
        if (status) return status;
    } while (left || (last && !end));
    if (last) eg_audio_stream_reset(s);
    return EG_OK;
}

size_t eg_audio_stream_all_tokens(const eg_audio_stream *s, size_t n)
{
    return (size_t)((s->n_frames + eg_mel_all_frames(&s->mel, (int64_t)n) + EG_AUDIO_FRAMES - 1) / EG_AUDIO_FRAMES);
}

static bool is_cancelled(void *stream)
{
    return atomic_load_explicit(&((eg_audio_stream *)stream)->cancel, memory_order_relaxed);
}

/* Runs unless a request to cancel is pending; the call that reports the request uses it up. */
static eg_status run(eg_audio_stream *s, const float *samples, size_t n, bool last, float *embeddings, size_t *written,
                     eg_error *err)
{
    size_t count = 0;
    *s->turn = (eg_turn){.stopped = is_cancelled, .context = s};
    eg_pool_renew(s->model->pool);
    eg_status status = EG_OK;
    if (is_cancelled(s) || !eg_pool_enter(s->model->pool, s->turn)) {
        s->broken = true;
        status = eg_fail(err, EG_CANCELLED, "cancelled.");
    }
    if (!status) status = eg_audio_stream_run(s, samples, n, last, embeddings, &count, err);
    eg_pool_leave(s->model->pool, s->turn);
    if (status == EG_CANCELLED) atomic_store(&s->cancel, false);
    if (!status) *written = count;
    return status;
}

void eg_audio_enter(eg_model *model) { atomic_fetch_add(&model->recordings, 1); }

void eg_audio_leave(eg_model *model)
{
    if (atomic_fetch_sub(&model->recordings, 1) == 1) eg_audio_release_pages(&model->audio);
}

static eg_status check(const eg_audio_stream *s, const void *embeddings, size_t tokens, size_t capacity, eg_error *err)
{
    if (s->broken) return eg_fail(err, EG_ERROR_STATE, "the stream was cancelled: reset it first.");
    if (tokens > capacity || (tokens && !embeddings))
        return eg_fail(err, EG_ERROR_ARGUMENT, "there is room for %zu tokens, but %zu are ready.", embeddings ? capacity : 0,
                       tokens);
    return EG_OK;
}

eg_status eg_audio_stream_push(eg_audio_stream *s, const float *samples, size_t n, float *embeddings, size_t capacity,
                               size_t *written, eg_error *err)
{
    if (!s || !written) return eg_fail(err, EG_ERROR_ARGUMENT, "stream or written is NULL.");
    if (n > INT64_MAX / 2) return eg_fail(err, EG_ERROR_ARGUMENT, "n is too large.");
    eg_status status = eg_audio_check_samples(samples, n, err);
    if (!status) status = check(s, embeddings, eg_audio_stream_token_count(s, n), capacity, err);
    return status ? status : run(s, samples, n, false, embeddings, written, err);
}

eg_status eg_audio_stream_finish(eg_audio_stream *s, float *embeddings, size_t capacity, size_t *written, eg_error *err)
{
    if (!s || !written) return eg_fail(err, EG_ERROR_ARGUMENT, "stream or written is NULL.");
    eg_status status = check(s, embeddings, eg_audio_stream_all_tokens(s, 0), capacity, err);
    return status ? status : run(s, NULL, 0, true, embeddings, written, err);
}
