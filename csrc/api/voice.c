/* The voice turn: sound to words to an answer, one small step at a time.
 *
 *     sound -> endpointer -> hearing session -> (at a pause, on a fork) transcript -> (when it is complete) answer of the chat
 *
 * Owns the order of these and what is dropped when a speaker goes on. Has no threads and reads no clock.
 */
#include "chat.h"

#include "../audio/endpointer.h"
#include "../base/checked.h"
#include "../base/grow.h"
#include "../base/structs.h"
#include "objects.h"

#define REQUEST \
    "Transcribe the following speech segment.\n\n\nFollow these specific instructions for formatting the answer:\n" \
    "*   Only output the transcription, with no newlines.\n*   When transcribing numbers, write the digits, i.e. write 1.7 and " \
    "not one point seven, and write 3 instead of three."

enum { RATE = 16000, TOKENS_PER_SECOND = 16, SPARE_TOKENS = 32, DRAFT = 8 };

/* Words that are being made of sound. */
typedef struct transcript {
    eg_session *session;       /* NULL: there is none */
    bool begun;                /* the sound was ended, and the answer follows */
    bool done;
    int32_t *ids;              /* [n] of [most] */
    size_t n, most;
    size_t drafted;            /* tokens of the draft that were looked at */
} transcript;

/* An event that waits, with its texts. */
typedef struct waiting waiting;
struct waiting {
    eg_voice_kind kind;
    double time;
    eg_reply_event answer;
    eg_string texts;
    size_t places[4];          /* of text, name, arguments, problem */
    waiting *next;
};
typedef struct queue {
    waiting *first, *last;
} queue;

struct eg_voice {
    atomic_int references;     /* callers who will close it */
    eg_model *model;
    eg_chat *chat;             /* kept; NULL: none */
    eg_endpointer *ends;
    eg_session *base;          /* has read the request; each utterance goes into a fork */
    eg_session *hearing;       /* the utterance, with its audio open; NULL between two */
    int32_t *closing;          /* [n_closing] between the sound and the words */
    size_t n_closing;
    float *sound;              /* [n_sound] the utterance */
    size_t n_sound, sound_capacity;
    size_t fed;                /* samples that the hearing session has */
    size_t kept;               /* samples that the transcript is about */
    int64_t total;             /* samples since the voice was opened */
    int64_t offset;            /* of them, those before the endpointer began anew */
    int64_t partial;           /* samples between two partial transcripts; 0: none */
    size_t partial_at;         /* samples of the utterance when the last one began */
    transcript guess;          /* a partial one */
    transcript words;          /* of a pause, or of the whole turn */
    int32_t *draft;            /* [n_draft] of the last one */
    size_t n_draft;
    bool paused;               /* the speaker is silent; what is pushed waits */
    bool decided;              /* the turn is over, so its events may be told */
    bool answering;            /* the chat's answer is in progress */
    size_t before;             /* messages of the chat before the turn */
    queue told, held;          /* events; and those of an answer that may be dropped */
    waiting *last;             /* whose texts the caller has */
    atomic_bool cancel;
};

static eg_status no_memory(eg_error *err) { return eg_fail(err, EG_ERROR_MEMORY, "no memory for the voice."); }

/* ---- events ------------------------------------------------------------------------------------------------------ */

static void free_event(waiting *w)
{
    if (w) eg_string_free(&w->texts);
    free(w);
}

static void clear(queue *q)
{
    while (q->first) {
        waiting *next = q->first->next;
        free_event(q->first);
        q->first = next;
    }
    q->last = NULL;
}

static void append(queue *q, waiting *first, waiting *last)
{
    if (!first) return;
    if (q->last) q->last->next = first;
    else q->first = first;
    q->last = last;
}

/* answer: of EG_VOICE_ANSWER; else NULL. */
static eg_status tell(queue *q, eg_voice_kind kind, double time, const char *text, const eg_reply_event *answer, eg_error *err)
{
    waiting *w = calloc(1, sizeof *w);
    if (!w) return no_memory(err);
    w->kind = kind;
    w->time = time;
    if (answer) w->answer = *answer;
    w->answer.struct_size = sizeof w->answer;
    if (!answer) {
        w->answer.text = text;
        w->answer.text_length = text ? strlen(text) : 0;
    }
    const char *const texts[] = {w->answer.text, w->answer.name, w->answer.arguments, w->answer.problem};
    for (size_t i = 0; i < 4; i++) {
        w->places[i] = w->texts.length;
        if (!i) eg_string_add(&w->texts, texts[0], w->answer.text_length); /* of a model, so it may have zeros */
        else if (texts[i]) eg_string_put(&w->texts, texts[i]);
        eg_string_add(&w->texts, "", 1);
    }
    if (w->texts.failed) {
        free_event(w);
        return no_memory(err);
    }
    append(q, w, w);
    return EG_OK;
}

static double seconds(const eg_voice *v) { return (double)v->total / RATE; }

static eg_status tell_kind(eg_voice *v, eg_voice_kind kind, double time, const char *text, eg_error *err)
{
    return tell(&v->told, kind, time, text, NULL, err);
}

static eg_status tell_cancelled(eg_voice *v, eg_error *err)
{
    const eg_reply_event done = {.kind = EG_EVENT_DONE, .stop = EG_CHAT_STOP_CANCELLED, .arguments = "{}"};
    return tell(&v->told, EG_VOICE_ANSWER, seconds(v), NULL, &done, err);
}

/* Hands out the next event that may be told. */
static bool take(eg_voice *v, eg_voice_event *out)
{
    free_event(v->last);
    v->last = v->told.first;
    if (!v->last) return false;
    v->told.first = v->last->next;
    if (!v->told.first) v->told.last = NULL;
    waiting *w = v->last;
    const char *texts = w->texts.bytes;
    w->answer.text = texts + w->places[0];
    w->answer.name = texts + w->places[1];
    w->answer.arguments = texts + w->places[2];
    w->answer.problem = texts + w->places[3];
    *out = (eg_voice_event){.kind = w->kind, .time = w->time, .text = w->answer.text, .text_length = w->answer.text_length};
    if (w->kind == EG_VOICE_ANSWER) out->answer = &w->answer;
    return true;
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static eg_status read_request(eg_voice *v, const char *request, uint32_t context, eg_error *err)
{
    const eg_session_params params = {.struct_size = sizeof params, .context = context ? context : 1536};
    static const char closing[] = "<turn|>\n<|turn>model\n";
    v->closing = malloc(sizeof closing * sizeof *v->closing);
    if (!v->closing) return no_memory(err);
    eg_status status = eg_session_open(v->model, &params, &v->base, err);
    if (!status) status = eg_session_feed_text(v->base, "<bos><|turn>user\n", SIZE_MAX, EG_TEXT_SPECIAL, err);
    if (!status) status = eg_session_feed_text(v->base, request, SIZE_MAX, 0, err);
    if (!status)
        status = eg_tokenizer_encode(v->model->tokenizer, closing, sizeof closing - 1, EG_TEXT_SPECIAL, v->closing,
                                     sizeof closing, &v->n_closing, err);
    return status;
}

eg_status eg_voice_open(eg_model *model, const eg_voice_params *params, eg_voice **out, eg_error *err)
{
    eg_voice_params p = {.struct_size = sizeof p};
    if (!model || !out) return eg_fail(err, EG_ERROR_ARGUMENT, "model or out is NULL.");
    eg_status status = params ? eg_struct_read(params, &p, sizeof p, "eg_voice_params", err) : EG_OK;
    if (status) return status;
    if (!model->has_audio) return eg_fail(err, EG_ERROR_UNSUPPORTED, "the model has no audio encoder.");
    if (!(p.partial <= 3600)) return eg_fail(err, EG_ERROR_ARGUMENT, "partial is %g s; that is too long.", (double)p.partial);
    eg_voice *v = calloc(1, sizeof *v);
    if (!v) return no_memory(err);
    atomic_store(&v->references, 1);
    eg_chat_retain(p.chat);
    v->model = model;
    v->chat = p.chat;
    v->partial = p.partial < 0 ? 0 : (int64_t)((p.partial == 0 ? 0.5f : p.partial) * RATE);
    const eg_endpoint_times times = {p.silence, p.pause, 0, p.min_speech, p.max_seconds, 0};
    status = eg_endpointer_open(&times, p.detect, p.detect_context, &v->ends, err);
    if (!status) status = read_request(v, p.request ? p.request : REQUEST, p.context, err);
    if (status) {
        eg_voice_close(v);
        return status;
    }
    *out = v;
    return EG_OK;
}

static void drop(transcript *t)
{
    eg_session_close(t->session);
    free(t->ids);
    *t = (transcript){0};
}

void eg_voice_retain(eg_voice *v)
{
    if (v) atomic_fetch_add(&v->references, 1);
}

void eg_voice_close(eg_voice *v)
{
    if (!v || atomic_fetch_sub(&v->references, 1) != 1) return;
    drop(&v->guess);
    drop(&v->words);
    clear(&v->told);
    clear(&v->held);
    free_event(v->last);
    eg_session_close(v->hearing);
    eg_session_close(v->base);
    eg_endpointer_close(v->ends);
    eg_chat_close(v->chat);
    free(v->closing);
    free(v->sound);
    free(v->draft);
    free(v);
}

void eg_voice_cancel(eg_voice *v)
{
    if (!v) return;
    eg_chat_cancel(v->chat); /* first: whoever sees the request below uses this one up, too */
    atomic_store(&v->cancel, true);
}

/* ---- transcripts ------------------------------------------------------------------------------------------------- */

/* Begins a transcript in a session, which belongs to it from now on, of so many samples. */
static eg_status begin_words(transcript *t, eg_session *session, size_t samples, eg_error *err)
{
    drop(t);
    t->session = session;
    t->most = SPARE_TOKENS + samples / RATE * TOKENS_PER_SECOND;
    t->ids = malloc(t->most * sizeof *t->ids);
    return t->ids ? EG_OK : no_memory(err);
}

/* The next tokens of a transcript: one is drawn, or a part of the draft is verified. */
static eg_status step_words(eg_voice *v, transcript *t, eg_error *err)
{
    const eg_sampling greedy = {.struct_size = sizeof greedy};
    eg_status status = EG_OK;
    if (!t->begun) {
        t->begun = true;
        status = eg_session_audio_is_open(t->session) ? eg_session_audio_end(t->session, err) : EG_OK;
        if (status == EG_ERROR_ARGUMENT) {   /* too little sound for a token */
            t->done = true;
            return EG_OK;
        }
        return status ? status : eg_session_feed_tokens(t->session, v->closing, v->n_closing, err);
    }
    const size_t left = v->n_draft > t->drafted ? v->n_draft - t->drafted : 0;
    if (left) {
        size_t n = left < DRAFT ? left : DRAFT, kept = 0;
        if (n > t->most - t->n) n = t->most - t->n;
        status = n ? eg_session_verify(t->session, v->draft + t->drafted, n, &greedy, NULL, &kept, err) : EG_OK;
        if (status) return status;
        memcpy(t->ids + t->n, v->draft + t->drafted, kept * sizeof *t->ids);
        t->n += kept;
        t->drafted = kept == n && n ? t->drafted + kept : v->n_draft;
        if (kept) return EG_OK;
    }
    if (t->n >= t->most) {
        t->done = true;
        return EG_OK;
    }
    eg_token token = {.struct_size = sizeof token};
    status = eg_session_next(t->session, &greedy, &token, err);
    if (status) return status;
    if (token.stop) t->done = true;
    else t->ids[t->n++] = token.id;
    return EG_OK;
}

/* The words of a transcript as one line, trimmed. */
static bool words_of(const eg_voice *v, const transcript *t, eg_string *out)
{
    size_t length = 0;
    const eg_tokenizer *tokenizer = v->model->tokenizer;
    if (eg_tokenizer_decode(tokenizer, t->ids, t->n, 0, NULL, 0, &length, NULL)) return false;
    char *text = malloc(length + 1);
    if (!text || eg_tokenizer_decode(tokenizer, t->ids, t->n, 0, text, length, &length, NULL)) {
        free(text);
        return false;
    }
    for (size_t i = 0; i < length; i++) {
        const bool space = text[i] == ' ' || (text[i] >= '\t' && text[i] <= '\r');
        const bool after = out->length && out->bytes[out->length - 1] == ' ';
        if (!space) eg_string_add(out, text + i, 1);
        else if (out->length && !after) eg_string_put(out, " ");
    }
    while (out->length && out->bytes[out->length - 1] == ' ') out->bytes[--out->length] = '\0';
    free(text);
    return !out->failed;
}

/* The tokens of a transcript become the draft of the next. */
static void learn_draft(eg_voice *v, transcript *t)
{
    if (t->session && t->n >= v->n_draft) {
        free(v->draft);
        v->draft = t->ids;
        v->n_draft = t->n;
        t->ids = NULL;
    }
    drop(t);
}

/* ---- the turn ---------------------------------------------------------------------------------------------------- */

/* Whether the conversation has words of a pause, which may not be the end of the turn. */
static bool is_early(const eg_voice *v) { return v->chat && !v->decided && v->words.session && v->words.done; }

/* Drops an answer that a pause has begun. */
static eg_status drop_early(eg_voice *v, eg_error *err)
{
    eg_status status = EG_OK;
    clear(&v->held);
    if (is_early(v)) status = eg_chat_truncate(v->chat, v->before, err);
    v->answering = false;
    learn_draft(v, &v->words);
    return status;
}

/* Forgets the utterance. */
static void end_hearing(eg_voice *v)
{
    eg_session_close(v->hearing);
    v->hearing = NULL;
    v->n_sound = v->fed = v->n_draft = v->partial_at = 0;
    v->paused = false;
    drop(&v->guess);
}

static eg_status add_samples(eg_voice *v, const float *samples, size_t n, eg_error *err)
{
    if (n) {
        size_t needed;
        float *grown = eg_add_size(v->n_sound, n, &needed) ? eg_grow(v->sound, &v->sound_capacity, needed, sizeof *grown)
                                                           : NULL;
        if (!grown) return no_memory(err);
        v->sound = grown;
        memcpy(v->sound + v->n_sound, samples, n * sizeof(float));
        v->n_sound = needed;
    }
    if (v->paused) return EG_OK;   /* encoding the silence of a pause can wait; the answer cannot */
    const size_t from = v->fed;
    v->fed = v->n_sound;
    return eg_session_audio_push(v->hearing, v->sound + from, v->n_sound - from, err);
}

/* Somebody speaks before the words of the turn before are complete: they are completed, and stand in the history unanswered. */
static eg_status finish_words(eg_voice *v, eg_error *err)
{
    eg_string text = {0};
    eg_status status = EG_OK;
    if (!v->decided || !v->words.session || v->words.done) return EG_OK;
    while (!status && !v->words.done) status = step_words(v, &v->words, err);
    if (!status && !words_of(v, &v->words, &text)) status = no_memory(err);
    if (!status) status = tell_kind(v, EG_VOICE_WORDS, seconds(v), eg_string_text(&text), err);
    if (!status && v->chat && text.length) status = eg_chat_add_text(v->chat, "user", eg_string_text(&text), err);
    eg_string_free(&text);
    return status;
}

static eg_status on_start(eg_voice *v, const eg_endpoint *e, const float *samples, eg_error *err)
{
    eg_status status = finish_words(v, err);
    end_hearing(v);
    if (!status && v->answering) { /* the speaker interrupts: what was told of the answer stays in the history */
        status = eg_chat_end_answer(v->chat, err);
        if (!status) status = tell_cancelled(v, err);
        v->answering = false;
    }
    drop(&v->words);
    v->decided = false;
    if (!status) status = tell_kind(v, EG_VOICE_SPEECH, (double)(e->time + v->offset) / RATE, NULL, err);
    if (!status) status = eg_session_fork(v->base, &v->hearing, err);
    if (!status) status = eg_session_audio_begin(v->hearing, NULL, err);
    return status ? status : add_samples(v, samples, e->n, err);
}

static eg_status on_pause(eg_voice *v, const eg_endpoint *e, eg_error *err)
{
    eg_session *fork;
    eg_status status = tell_kind(v, EG_VOICE_PAUSE, (double)(e->time + v->offset) / RATE, NULL, err);
    learn_draft(v, &v->guess);
    if (!status) status = eg_session_fork(v->hearing, &fork, err);
    if (status) return status;
    v->paused = true;
    v->kept = v->n_sound;
    return begin_words(&v->words, fork, v->n_sound, err);
}

static eg_status on_resume(eg_voice *v, const eg_endpoint *e, eg_error *err)
{
    eg_status status = tell_kind(v, EG_VOICE_RESUME, (double)(e->time + v->offset) / RATE, NULL, err);
    if (!status) status = drop_early(v, err);
    v->paused = false;
    return status ? status : add_samples(v, NULL, 0, err);
}

/* The turn is over. The transcript that a pause has begun is that of the turn, unless it has heard what does not belong to it. */
static eg_status on_end(eg_voice *v, const eg_endpoint *e, eg_error *err)
{
    eg_status status = EG_OK;
    const size_t keep = (size_t)e->keep < v->n_sound ? (size_t)e->keep : v->n_sound;
    if (!v->words.session || v->kept > keep) {
        eg_session *whole = NULL;
        status = drop_early(v, err);
        learn_draft(v, &v->guess);
        if (keep == v->fed) {
            whole = v->hearing;
            v->hearing = NULL;
        } else { /* what is behind the cut was heard already: the rest is heard again */
            if (!status) status = eg_session_fork(v->base, &whole, err);
            if (!status) status = eg_session_audio_begin(whole, NULL, err);
            if (!status) status = eg_session_audio_push(whole, v->sound, keep, err);
        }
        if (!status) status = begin_words(&v->words, whole, keep, err);
        else eg_session_close(whole);
    }
    v->decided = true;
    eg_session_close(v->hearing);
    v->hearing = NULL;
    v->paused = false;
    if (!status && v->words.done) {
        eg_string text = {0};
        status = words_of(v, &v->words, &text) ? tell_kind(v, EG_VOICE_WORDS, seconds(v), eg_string_text(&text), err)
                                               : no_memory(err);
        append(&v->told, v->held.first, v->held.last);
        v->held = (queue){0};
        eg_string_free(&text);
        drop(&v->words);
    }
    return status;
}

/* Drops the turn and the answer. Of one that was begun too early nothing stays in the history. */
static void give_up(eg_voice *v)
{
    if (is_early(v)) eg_chat_truncate(v->chat, v->before, NULL);
    else if (v->chat) eg_chat_end_answer(v->chat, NULL);
    v->answering = false;
    end_hearing(v);
    drop(&v->words);
    clear(&v->held);
}

static eg_status take_endpoints(eg_voice *v, eg_error *err)
{
    size_t n;
    eg_status status = EG_OK;
    const eg_endpoint *events = eg_endpointer_events(v->ends, &n);
    for (size_t i = 0; i < n && !status; i++) {
        const eg_endpoint *e = &events[i];
        const float *samples = e->n ? eg_endpointer_samples(v->ends) + e->first : NULL;
        if (e->kind == EG_ENDPOINT_START) status = on_start(v, e, samples, err);
        else if (!v->hearing) continue; /* of a turn that was cancelled */
        else if (e->kind == EG_ENDPOINT_AUDIO) status = add_samples(v, samples, e->n, err);
        else if (e->kind == EG_ENDPOINT_PAUSE) status = on_pause(v, e, err);
        else if (e->kind == EG_ENDPOINT_RESUME) status = on_resume(v, e, err);
        else status = on_end(v, e, err);
    }
    if (status) give_up(v);
    return status;
}

eg_status eg_voice_push(eg_voice *v, const float *samples, size_t n, eg_error *err)
{
    if (!v || (!samples && n)) return eg_fail(err, EG_ERROR_ARGUMENT, "voice or samples is NULL.");
    eg_status status = eg_audio_check_samples(samples, n, err);
    if (status) return status;
    v->total += (int64_t)n;
    return eg_endpointer_push(v->ends, samples, n) ? take_endpoints(v, err) : no_memory(err);
}

eg_status eg_voice_finish(eg_voice *v, eg_error *err)
{
    if (!v) return eg_fail(err, EG_ERROR_ARGUMENT, "voice is NULL.");
    eg_status status = eg_endpointer_finish(v->ends) ? take_endpoints(v, err) : no_memory(err);
    v->offset = v->total;
    return status;
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

/* The transcript is complete: it is told if the turn is over, and answered. */
static eg_status end_words(eg_voice *v, eg_error *err)
{
    eg_string text = {0};
    eg_status status = words_of(v, &v->words, &text) ? EG_OK : no_memory(err);
    if (!status && v->decided) status = tell_kind(v, EG_VOICE_WORDS, seconds(v), eg_string_text(&text), err);
    if (v->chat) v->before = eg_chat_count(v->chat);
    if (!status && v->chat && text.length) {
        status = eg_chat_add_text(v->chat, "user", eg_string_text(&text), err);
        if (!status) status = eg_chat_begin(v->chat, err);
        v->answering = !status;
    }
    eg_string_free(&text);
    if (v->decided) drop(&v->words);
    return status;
}

static eg_status step_answer(eg_voice *v, const eg_sampling *sampling, eg_error *err)
{
    eg_reply_event event = {.struct_size = sizeof event};
    eg_status status = eg_chat_next(v->chat, sampling, &event, err);
    if (status) return status;
    if (event.kind == EG_EVENT_DONE) v->answering = false;
    return tell(v->decided ? &v->told : &v->held, EG_VOICE_ANSWER, seconds(v), NULL, &event, err);
}

static eg_status step_guess(eg_voice *v, eg_error *err)
{
    if (!v->guess.session) {
        eg_session *fork;
        v->partial_at = v->n_sound;
        eg_status status = eg_session_fork(v->hearing, &fork, err);
        return status ? status : begin_words(&v->guess, fork, v->n_sound, err);
    }
    eg_status status = step_words(v, &v->guess, err);
    if (status || !v->guess.done) return status;
    eg_string text = {0};
    status = words_of(v, &v->guess, &text) ? EG_OK : no_memory(err);
    if (!status && text.length) status = tell_kind(v, EG_VOICE_PARTIAL, seconds(v), eg_string_text(&text), err);
    eg_string_free(&text);
    v->n_draft = 0; /* the newest one is the best draft */
    learn_draft(v, &v->guess);
    return status;
}

/* A piece of work; false if there is none. */
static bool work(eg_voice *v, const eg_sampling *sampling, eg_status *status, eg_error *err)
{
    const bool due = v->hearing && v->partial && !v->paused && (int64_t)(v->n_sound - v->partial_at) >= v->partial;
    if (v->words.session && !v->words.done) {
        *status = step_words(v, &v->words, err);
        if (!*status && v->words.done) *status = end_words(v, err);
    } else if (v->answering) {
        *status = step_answer(v, sampling, err);
    } else if (v->guess.session || due) {
        *status = step_guess(v, err);
    } else {
        return false;
    }
    return true;
}

/* Ends everything; an answer that was being told is told to be cancelled. */
static eg_status cancelled(eg_voice *v, eg_error *err)
{
    eg_status status = EG_OK;
    const bool telling = v->decided && v->answering;
    give_up(v);
    if (v->chat) eg_session_feed_tokens(eg_chat_session(v->chat), NULL, 0, NULL); /* uses up the request to cancel */
    if (telling) status = tell_cancelled(v, err);
    return status;
}

eg_status eg_voice_step(eg_voice *v, const eg_sampling *sampling, eg_voice_event *out, eg_error *err)
{
    if (!v) return eg_fail(err, EG_ERROR_ARGUMENT, "voice is NULL.");
    eg_status status = eg_struct_check(out, "eg_voice_event", err);
    if (status) return status;
    eg_voice_event event = {.kind = EG_VOICE_IDLE, .time = seconds(v), .text = ""};
    if (atomic_exchange(&v->cancel, false)) status = cancelled(v, err);
    if (!status && !take(v, &event)) {
        const bool worked = work(v, sampling, &status, err);
        if (status == EG_CANCELLED) { /* by the conversation's request, which may be seen before the voice's */
            atomic_store(&v->cancel, false);
            status = cancelled(v, err);
        }
        if (status) give_up(v);
        else if (!take(v, &event) && worked) event.kind = EG_VOICE_BUSY;
    }
    if (!status) eg_struct_write(out, &event, sizeof event);
    return status;
}

eg_status eg_voice_answer(eg_voice *v, eg_error *err)
{
    if (!v) return eg_fail(err, EG_ERROR_ARGUMENT, "voice is NULL.");
    if (!v->chat || v->answering)
        return eg_fail(err, EG_ERROR_STATE, "the voice has no conversation, or its answer is in progress.");
    eg_status status = eg_chat_begin(v->chat, err);
    v->answering = !status;
    v->decided = true;
    return status;
}
