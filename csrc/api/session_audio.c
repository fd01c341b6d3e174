/* Audio into a session's timeline: samples gather, are encoded together, and prefilled at once.
 *
 * How many samples gather changes the speed and nothing else. Every batch reads the encoder and half of the decoder from memory,
 * so a slow device must gather more. The time that a batch takes, compared with the audio in it, tells how many.
 */
#include <stdlib.h>
#include <string.h>

#include "../base/clock.h"
#include "timeline.h"

enum {
    FEWEST = 4,                /* tokens to gather: 160 ms */
    MOST = 12                  /* 480 ms */
};

eg_status eg_session_audio_check_closed(const eg_session *s, eg_error *err)
{
    if (!s->audio.open) return EG_OK;
    return eg_fail(err, EG_ERROR_STATE, "audio is open: end it or abort it first.");
}

enum { GATHERED = EG_AUDIO_BLOCK * EG_TOKEN_SAMPLES };   /* samples that are encoded together, at most */

static const char *least(const eg_model *model) { return model->audio.config.unified ? "1 sample" : "161 samples (10 ms)"; }

static size_t embeddings_size(const eg_session *s) { return (EG_AUDIO_BLOCK + 1) * (size_t)s->model->config.hidden; }

static eg_status allocate(eg_session *s, eg_error *err)
{
    eg_session_audio *a = &s->audio;
    if (a->memory) return EG_OK;
    a->memory = malloc((GATHERED + embeddings_size(s)) * sizeof(float));
    if (!a->memory) return eg_fail(err, EG_ERROR_MEMORY, "out of memory.");
    a->samples = a->memory;
    a->embeddings = a->samples + GATHERED;
    return EG_OK;
}

/* Counts this session as one that records, for `draws` tokens after the end of the audio; 0: no longer. */
static void count_recording(eg_session *s, int draws)
{
    if (draws && !s->audio.recording) eg_audio_enter(s->model);
    if (!draws && s->audio.recording) eg_audio_leave(s->model);
    s->audio.recording = draws;
}

void eg_session_audio_draw(eg_session *s)
{
    if (s->audio.recording) count_recording(s, s->audio.recording - 1);
}

/* Audio is over at once, without what has gathered and without end marker. */
static void drop(eg_session *s)
{
    count_recording(s, 0);
    s->audio.open = false;
}

void eg_session_audio_free(eg_session *s)
{
    count_recording(s, 0);
    eg_audio_stream_free(s->audio.stream);
    free(s->audio.memory);
    s->audio = (eg_session_audio){0};
}

size_t eg_session_audio_bytes(const eg_session *s)
{
    const eg_session_audio *a = &s->audio;
    return (a->stream ? a->stream->bytes + sizeof *a->stream : 0) +
           (a->memory ? (GATHERED + embeddings_size(s)) * sizeof(float) : 0);
}

eg_status eg_session_audio_fork(const eg_session *from, eg_session *to, eg_error *err)
{
    const eg_session_audio *a = &from->audio;
    if (!a->open && !from->waiting_soft) return EG_OK;
    eg_status status = allocate(to, err);
    if (status) return status;
    if (from->waiting_soft) {
        memcpy(to->audio.embeddings, a->embeddings, embeddings_size(from) * sizeof *a->embeddings);
        to->waiting_soft = to->audio.embeddings;
    }
    if (!a->open) return EG_OK;
    status = eg_audio_stream_copy(a->stream, &to->audio.stream, err);
    if (status) return status;
    to->audio.stream->turn = &to->call.turn;
    count_recording(to, 2);
    to->audio.open = true;
    to->audio.markers = a->markers;
    to->audio.start = a->start;
    to->audio.gather = a->gather;
    to->audio.n_samples = a->n_samples;
    memcpy(to->audio.samples, a->samples, (size_t)a->n_samples * sizeof *a->samples);
    return EG_OK;
}

/* <|audio> or <audio|> */
static eg_status append_marker(eg_session *s, const char *text, eg_error *err)
{
    int32_t id;
    eg_status status = eg_timeline_find_marker(s, text, &id, err);
    if (!status) eg_timeline_append(s, &id, 1);
    return status;
}

/* Gives the session a stream with that context, at the beginning of a recording. */
static eg_status prepare_stream(eg_session *s, uint32_t context, eg_error *err)
{
    eg_session_audio *a = &s->audio;
    if (a->stream && a->stream->encoder.context == (int32_t)context) {
        eg_audio_stream_reset(a->stream);
        return EG_OK;
    }
    eg_audio_stream_free(a->stream);
    a->stream = NULL;
    eg_status status = eg_audio_stream_create(s->model, context, &a->stream, err);
    if (!status) a->stream->turn = &s->call.turn;
    return status;
}

eg_status eg_session_audio_begin(eg_session *s, const eg_audio_params *params, eg_error *err)
{
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    eg_session_audio *a = &s->audio;
    eg_audio_params p;
    eg_status status = eg_audio_read_params(s->model, params, &p, err);
    if (!status) status = eg_session_audio_check_closed(s, err);
    if (!status) status = eg_timeline_check_room(s, p.no_markers ? 1 : 3, err);
    if (!status) status = allocate(s, err);
    if (!status) status = prepare_stream(s, p.left_context, err);
    if (!status) status = eg_timeline_begin(s, 0, err);
    if (status) return status;
    int64_t old_length = s->length;
    if (!p.no_markers) status = append_marker(s, "<|audio>", err);
    if (!status) status = eg_timeline_settle(s, err);   /* now, while nobody waits */
    if (!status) {
        count_recording(s, 2);
        a->open = true;
        a->markers = !p.no_markers;
        a->start = old_length;
        a->n_samples = 0;
        if (!a->gather) a->gather = FEWEST;
        eg_model_prefault(s->model);
    }
    return eg_timeline_end_feed(s, old_length, status);
}

/* Encodes what has gathered into *n soft tokens. */
static eg_status encode(eg_session *s, bool last, size_t *n, eg_error *err)
{
    eg_session_audio *a = &s->audio;
    double start = eg_clock();
    eg_status status = eg_audio_stream_run(a->stream, a->samples, (size_t)a->n_samples, last, a->embeddings, n, err);
    if (status) return status;
    a->n_samples = 0;
    s->stats.audio_tokens += *n;
    s->stats.audio_seconds += eg_clock() - start;
    return EG_OK;
}

/* Encodes and prefills what has gathered, and adapts how much gathers from now on. */
static eg_status process(eg_session *s, eg_error *err)
{
    eg_session_audio *a = &s->audio;
    double start = eg_clock(), seconds = (double)a->n_samples / EG_SAMPLE_RATE;
    size_t n;
    eg_status status = encode(s, false, &n, err);
    if (!status && n) status = eg_timeline_append_soft(s, a->embeddings, n, false, err);
    if (status) return status;
    eg_model_prefault(s->model);
    double load = (eg_clock() - start) / seconds;
    if (load > 0.6 && a->gather < MOST) a->gather++;
    if (load < 0.3 && a->gather > FEWEST) a->gather--;
    return EG_OK;
}

eg_status eg_session_audio_push(eg_session *s, const float *samples, size_t n, eg_error *err)
{
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    eg_session_audio *a = &s->audio;
    if (!a->open) return eg_fail(err, EG_ERROR_STATE, "no audio is open: begin it first.");
    eg_status status = eg_audio_check_samples(samples, n, err);
    if (!status && n > INT64_MAX / 2) status = eg_fail(err, EG_ERROR_ARGUMENT, "n is too large.");
    if (!status)   /* room for the end of the recording as well */
        status = eg_timeline_check_room(s, eg_audio_stream_all_tokens(a->stream, (size_t)a->n_samples + n) + a->markers, err);
    if (status) return status;
    int64_t old_length = s->length;
    status = eg_timeline_begin(s, 0, err);
    while (!status && a->n_samples + (int64_t)n >= a->gather * EG_TOKEN_SAMPLES) {
        size_t take = GATHERED - (size_t)a->n_samples;
        if (take > n) take = n;
        memcpy(a->samples + a->n_samples, samples, take * sizeof *samples);
        a->n_samples += (int64_t)take;
        samples += take;
        n -= take;
        status = process(s, err);
    }
    if (status) {
        drop(s);
    } else if (n) {
        memcpy(a->samples + a->n_samples, samples, n * sizeof *samples);
        a->n_samples += (int64_t)n;
    }
    return eg_timeline_end_feed(s, old_length, status);
}

eg_status eg_session_audio_end(eg_session *s, eg_error *err)
{
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    eg_session_audio *a = &s->audio;
    if (!a->open) return eg_fail(err, EG_ERROR_STATE, "no audio is open: begin it first.");
    int64_t old_length = s->length;
    size_t n = 0;
    eg_status status = eg_timeline_begin(s, 0, err);
    if (!status) status = eg_timeline_settle(s, err);   /* normally nothing waits */
    if (!status) status = encode(s, true, &n, err);
    a->open = false;
    if (!status && !n && s->length == a->start + a->markers) {
        eg_timeline_end(s, EG_OK);
        eg_timeline_rewind_to(s, a->start, NULL);
        count_recording(s, 0);
        return eg_fail(err, EG_ERROR_ARGUMENT, "the recording is too short: it takes %s at least.", least(s->model));
    }
    if (status) {
        count_recording(s, 0);
        return eg_timeline_end_feed(s, old_length, status);
    }
    /* These tokens and the marker wait: evaluated together with what closes the turn, they cost little more. */
    for (size_t i = 0; i < n; i++) s->tokens[s->length++] = -1;
    if (n) {
        s->waiting_soft = a->embeddings;
        s->has_logits = false;
    }
    if (a->markers) status = append_marker(s, "<audio|>", err);
    return eg_timeline_end_feed(s, old_length, status);
}

eg_status eg_session_audio_abort(eg_session *s, eg_error *err)
{
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    if (!s->audio.open) return eg_fail(err, EG_ERROR_STATE, "no audio is open: there is nothing to abort.");
    drop(s);
    return eg_timeline_rewind_to(s, s->audio.start, err);
}

bool eg_session_audio_is_open(const eg_session *s) { return s && s->audio.open; }

eg_status eg_session_feed_audio(eg_session *s, const float *samples, size_t n, const eg_audio_params *params, eg_error *err)
{
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    eg_audio_params p;
    eg_status status = eg_audio_read_params(s->model, params, &p, err);
    if (!status) status = eg_audio_check_samples(samples, n, err);
    if (!status && !eg_audio_token_count(s->model, n))
        status = eg_fail(err, EG_ERROR_ARGUMENT, "the recording has %zu samples: it takes %s at least.", n, least(s->model));
    if (!status) status = eg_timeline_check_room(s, eg_audio_token_count(s->model, n) + (p.no_markers ? 0 : 2), err);
    if (!status) status = eg_session_audio_begin(s, params, err);
    if (!status) status = eg_session_audio_push(s, samples, n, err);
    return status ? status : eg_session_audio_end(s, err);
}
