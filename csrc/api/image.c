/* Pictures: the encoder alone, and pictures and frames of videos in a session's timeline. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/clock.h"
#include "../base/structs.h"
#include "../vision/resize.h"
#include "../vision/target.h"
#include "timeline.h"

struct eg_image_encoder {
    eg_model *model;
    atomic_bool cancel;        /* requested and not reported yet */
    atomic_int references;
};

/* ---- arguments --------------------------------------------------------------------------------------------------- */

/* A checked picture and what becomes of it. */
typedef struct plan {
    eg_picture from;
    int64_t width, height;     /* after resizing */
    size_t tokens;
    eg_progress progress;
    bool markers;
} plan;

static eg_status check_vision(const eg_model *model, eg_error *err)
{
    if (!model) return eg_fail(err, EG_ERROR_ARGUMENT, "model is NULL.");
    if (model->has_vision) return EG_OK;
    return eg_fail(err, EG_ERROR_UNSUPPORTED,
                   model->mmproj ? "%s: the file of encoders has none for pictures."
                                 : "%s: this model was opened without a vision encoder: "
                                   "open it together with the file of its encoders (mmproj).",
                   eg_gguf_name(model->mmproj ? model->mmproj : model->file));
}

/* Sets the size after resizing and the number of tokens. */
static eg_status plan_size(const eg_model *model, uint32_t width, uint32_t height, uint32_t budget, plan *out, eg_error *err)
{
    const eg_vision_config *c = &model->vision.config;
    if (!width || !height || width > EG_IMAGE_SIDE || height > EG_IMAGE_SIDE)
        return eg_fail(err, EG_ERROR_ARGUMENT, "the picture is %u x %u pixels; a side must have 1 to %d.", width, height,
                       EG_IMAGE_SIDE);
    if (!eg_image_is_budget(budget))
        return eg_fail(err, EG_ERROR_ARGUMENT, "max_tokens is %u; it can be 70, 140, 280, 560 or 1120.", budget);
    out->tokens = (size_t)eg_image_target(width, height, budget, eg_vision_cell(c), &out->width, &out->height);
    const int64_t longest = (out->width > out->height ? out->width : out->height) / c->patch;
    if (longest > c->positions)
        return eg_fail(
            err, EG_ERROR_ARGUMENT,
            "a picture of %u x %u pixels is too long: with max_tokens %u it is resized to %lld x %lld, which is %lld "
            "patches along a side, and the encoder has positions for %d.",
            width, height, budget, (long long)out->width, (long long)out->height, (long long)longest, c->positions);
    return EG_OK;
}

eg_status eg_image_tokens(const eg_model *model, uint32_t width, uint32_t height, uint32_t max_tokens, size_t *n, eg_error *err)
{
    plan p;
    eg_status status = check_vision(model, err);
    if (!status && !n) return eg_fail(err, EG_ERROR_ARGUMENT, "n is NULL.");
    if (!status) status = plan_size(model, width, height, max_tokens ? max_tokens : EG_IMAGE_TOKENS, &p, err);
    if (!status) *n = p.tokens;
    return status;
}

static eg_status read_image(const eg_model *model, const eg_image *image, uint32_t budget, plan *out, eg_error *err)
{
    eg_image in;
    eg_status status = eg_struct_read(image, &in, sizeof in, "eg_image", err);
    if (!status) status = check_vision(model, err);
    if (!status) status = plan_size(model, in.width, in.height, in.max_tokens ? in.max_tokens : budget, out, err);
    if (status) return status;
    const size_t row = 3 * (size_t)in.width, stride = in.stride ? in.stride : row;
    if (!in.rgb) return eg_fail(err, EG_ERROR_ARGUMENT, "rgb is NULL.");
    if (stride < row || stride > SIZE_MAX / in.height)
        return eg_fail(err, EG_ERROR_ARGUMENT, "stride is %zu; a row of %u pixels has %zu bytes.", stride, in.width, row);
    out->from = (eg_picture){in.rgb, stride, in.width, in.height};
    out->progress = (eg_progress){in.progress, in.progress_context};
    out->markers = !in.no_markers;
    return EG_OK;
}

/* ---- encoding ---------------------------------------------------------------------------------------------------- */

/* Resizes and encodes to out[plan->tokens, hidden]; the turn is held. EG_CANCELLED, EG_ERROR_MEMORY, EG_ERROR_FILE. */
static eg_status encode(const eg_model *model, eg_turn *turn, const plan *p, float *out, eg_error *err)
{
    uint8_t *rgb = malloc(3 * (size_t)(p->width * p->height));
    if (!rgb)
        return eg_fail(err, EG_ERROR_MEMORY, "no memory for a picture of %lld x %lld pixels.", (long long)p->width,
                       (long long)p->height);
    eg_status status = eg_image_resize(model->pool, &p->from, p->width, p->height, rgb, err);
    if (!status) status = eg_vision_encode(&model->vision, model->pool, turn, rgb, p->width, p->height, &p->progress, out, err);
    free(rgb);
    return status ? status : eg_gguf_check(model->mmproj, err);
}

eg_status eg_image_encoder_open(eg_model *model, eg_image_encoder **out, eg_error *err)
{
    if (!out) return eg_fail(err, EG_ERROR_ARGUMENT, "out is NULL.");
    eg_status status = check_vision(model, err);
    if (status) return status;
    eg_image_encoder *encoder = calloc(1, sizeof *encoder);
    if (!encoder) return eg_fail(err, EG_ERROR_MEMORY, "out of memory.");
    eg_model_retain(model);
    encoder->model = model;
    atomic_store(&encoder->references, 1);
    *out = encoder;
    return EG_OK;
}

void eg_image_encoder_retain(eg_image_encoder *encoder)
{
    if (encoder) atomic_fetch_add(&encoder->references, 1);
}

void eg_image_encoder_close(eg_image_encoder *encoder)
{
    if (!encoder || atomic_fetch_sub(&encoder->references, 1) != 1) return;
    eg_model *model = encoder->model;
    free(encoder);
    eg_model_release(model);
}

void eg_image_encoder_cancel(eg_image_encoder *encoder)
{
    if (encoder) atomic_store(&encoder->cancel, true);
}

static bool is_cancelled(void *encoder)
{
    return atomic_load_explicit(&((eg_image_encoder *)encoder)->cancel, memory_order_relaxed);
}

eg_status eg_image_encoder_run(eg_image_encoder *encoder, const eg_image *image, float *embeddings, size_t capacity,
                               size_t *written, eg_error *err)
{
    if (!encoder || !written) return eg_fail(err, EG_ERROR_ARGUMENT, "encoder or written is NULL.");
    plan p;
    eg_model *model = encoder->model;
    eg_status status = read_image(model, image, EG_IMAGE_TOKENS, &p, err);
    if (status) return status;
    if (!embeddings || capacity < p.tokens)
        return eg_fail(err, EG_ERROR_ARGUMENT, "there is room for %zu tokens, but the picture has %zu.",
                       embeddings ? capacity : 0, p.tokens);
    eg_turn turn = {.stopped = is_cancelled, .context = encoder};
    eg_pool_renew(model->pool);
    if (is_cancelled(encoder) || !eg_pool_enter(model->pool, &turn)) status = eg_fail(err, EG_CANCELLED, "cancelled.");
    if (!status) status = encode(model, &turn, &p, embeddings, err);
    eg_pool_leave(model->pool, &turn);
    if (status == EG_CANCELLED) atomic_store(&encoder->cancel, false);
    if (!status) *written = p.tokens;
    return status;
}

/* ---- sessions ---------------------------------------------------------------------------------------------------- */

enum { TIME_TOKENS = 24 };     /* most tokens, which are no more than bytes, of the time of a frame */

/* What is appended: tokens before the picture (a time, the begin marker), its soft tokens, and the end marker. */
typedef struct feeding {
    plan p;
    int32_t before[TIME_TOKENS + 1], after;
    size_t n_before, n_after;
} feeding;

static eg_status add_markers(const eg_session *s, feeding *f, eg_error *err)
{
    if (!f->p.markers) return EG_OK;
    eg_status status = eg_timeline_find_marker(s, "<|image>", &f->before[f->n_before], err);
    if (!status) status = eg_timeline_find_marker(s, "<image|>", &f->after, err);
    f->n_before++;
    f->n_after = 1;
    return status;
}

static eg_status check_fits(const eg_session *s, const feeding *f, eg_error *err)
{
    if (!s->model->config.per_layer && f->p.tokens > (size_t)s->picture)
        return eg_fail(err, EG_ERROR_ARGUMENT, "a picture of %zu tokens does not fit: the session was opened for %lld at most.",
                       f->p.tokens, (long long)s->picture);
    eg_status status = eg_session_audio_check_closed(s, err);
    return status ? status : eg_timeline_check_room(s, f->n_before + f->p.tokens + f->n_after, err);
}

/* Encodes and appends within a call that has begun. */
static eg_status append(eg_session *s, const feeding *f, float *embeddings, eg_error *err)
{
    const double start = eg_clock();
    eg_status status = encode(s->model, &s->call.turn, &f->p, embeddings, err);
    if (status) return status;
    s->stats.image_tokens += f->p.tokens;
    s->stats.image_seconds += eg_clock() - start;
    eg_timeline_append(s, f->before, f->n_before);
    status = eg_timeline_append_soft(s, embeddings, f->p.tokens, !s->model->config.per_layer, err);
    if (!status && f->n_after) eg_timeline_append(s, &f->after, 1);   /* it waits for what is fed next */
    return status;
}

/* Feeds a picture whose plan and tokens before it are made. */
static eg_status feed(eg_session *s, feeding *f, eg_error *err)
{
    eg_status status = add_markers(s, f, err);
    if (!status) status = check_fits(s, f, err);
    if (status) return status;
    float *embeddings = malloc(f->p.tokens * (size_t)s->model->config.hidden * sizeof *embeddings);
    if (!embeddings) return eg_fail(err, EG_ERROR_MEMORY, "no memory for a picture of %zu tokens.", f->p.tokens);
    status = eg_timeline_begin(s, s->model->config.per_layer ? 0 : (int64_t)f->p.tokens, err);
    if (!status) {
        const int64_t old_length = s->length;
        status = append(s, f, embeddings, err);
        status = eg_timeline_end_feed(s, old_length, status);
    }
    free(embeddings);
    return status;
}

eg_status eg_session_feed_image(eg_session *s, const eg_image *image, eg_error *err)
{
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    feeding f = {0};
    eg_status status = read_image(s->model, image, EG_IMAGE_TOKENS, &f.p, err);
    return status ? status : feed(s, &f, err);
}

eg_status eg_session_feed_frame(eg_session *s, const eg_image *frame, double seconds, bool follows, eg_error *err)
{
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    if (!(seconds >= 0 && seconds < 1e9))
        return eg_fail(err, EG_ERROR_ARGUMENT, "seconds is %g; the time of a frame is from 0 to 1e9.", seconds);
    feeding f = {0};
    eg_status status = read_image(s->model, frame, EG_FRAME_TOKENS, &f.p, err);
    if (status) return status;
    char text[TIME_TOKENS + 1];
    const unsigned whole = (unsigned)seconds;
    const int length = snprintf(text, sizeof text, "%s%02u:%02u ", follows ? " " : "", whole / 60, whole % 60);
    status = eg_tokenizer_encode(s->model->tokenizer, text, (size_t)length, 0, f.before, TIME_TOKENS, &f.n_before, err);
    return status ? status : feed(s, &f, err);
}
