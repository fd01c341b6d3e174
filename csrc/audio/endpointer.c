/* The endpointer, and the detector that it has without another. */
#include "endpointer.h"

#include "../base/checked.h"
#include "../base/grow.h"
#include "../base/numbers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    BLOCK = EG_DETECTOR_BLOCK,
    RATE = 16000,
    SOFT_TOKEN = 640,          /* samples of one: an utterance that is too long is cut at a multiple of this */
    QUIET_BLOCKS = 5, /* blocks over which the level is averaged for a cut: longer than the silent part of a consonant */
    SOFT_GAP = 3,              /* less probable blocks that may lie between those of a soft beginning */
    LEVELS = 8 * RATE / BLOCK /* blocks that tell the level of the noise */
};
static const float ON = 0.5f, OFF = 0.35f; /* speech begins at the one probability and ends below the other */
static const float SOFT = 0.1f;            /* blocks of this probability just before may be its soft beginning */

/* Samples that grow. */
typedef struct sound {
    float *samples; /* [n] */
    size_t n, capacity;
} sound;

struct eg_endpointer {
    float (*rate)(void *context, const float *block);
    void *context;
    int64_t silence, pause, need, window, search, reach; /* in blocks */
    int64_t tail, pre_roll, limit; /* in samples */
    double levels[LEVELS]; /* dB, a ring */
    int64_t n_levels;
    float waiting[BLOCK]; /* samples until their block is complete */
    size_t n_waiting;
    bool *speech; /* [window], a ring: whether the last blocks, since the last pause, are speech */
    int64_t n_speech;
    float *recent, *ratings; /* [kept, BLOCK] and [kept], rings: the last blocks, and their probabilities */
    int64_t kept, n_recent;
    int64_t now, spare; /* in samples: where the sound ends; before `spare` it belongs to an earlier utterance */
    bool open, paused;
    int64_t began, spoke, quiet;
    sound fresh; /* of the open utterance, not handed out */
    sound given; /* of the events */
    eg_endpoint *events;
    size_t n_events, event_capacity;
    bool failed;
};

/* ---- the detector ------------------------------------------------------------------------------------------------ */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The level beside that of the noise, which is what the quietest tenth of the last 8 s has. */
static float rate_level(eg_endpointer *e, const float *block)
{
    double sum = 0, squares = 0;
    for (int i = 0; i < BLOCK; i++) sum += block[i];
    const double mean = sum / BLOCK;
    for (int i = 0; i < BLOCK; i++) squares += (block[i] - mean) * (block[i] - mean);
    const double level = 10 * log10(squares / BLOCK + 1e-12);
    if (level < -70) return 0; /* digital silence does not count for the noise */
    e->levels[e->n_levels++ % LEVELS] = level;
    const int64_t n = eg_smaller(e->n_levels, LEVELS);
    double sorted[LEVELS];
    memcpy(sorted, e->levels, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    const double most = n * BLOCK < 3 * RATE ? -35 : -20;
    const double noise = sorted[n / 10] < most ? sorted[n / 10] : most, away = (noise + 7 - level) / 1.5;
    return (float)(1 / (1 + exp(away < 50 ? away : 50)));
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

/* A time in blocks, rounded up; at least one. */
static int64_t in_blocks(float seconds)
{
    const int64_t blocks = (int64_t)ceil((double)seconds * RATE / BLOCK - 1e-6);
    return blocks > 1 ? blocks : 1;
}

static int64_t in_samples(float seconds) { return (int64_t)floor((double)seconds * RATE + 0.5); }

static void reset(eg_endpointer *e)
{
    e->n_levels = e->n_speech = e->n_recent = 0;
    e->n_waiting = e->fresh.n = 0;
    e->now = e->spare = 0;
    e->open = e->paused = false;
}

eg_status eg_endpointer_open(const eg_endpoint_times *given, float (*rate)(void *context, const float *block), void *context,
                             eg_endpointer **out, eg_error *err)
{
    eg_endpoint_times t = *given;
    float *const times[] = {&t.silence, &t.pause, &t.pre_roll, &t.min_speech, &t.max_seconds};
    static const float defaults[] = {0.7f, 0.25f, 0.3f, 0.1f, 28};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        if (*times[i] == 0) *times[i] = defaults[i];
        if (!(*times[i] > 0 && *times[i] <= 3600))
            return eg_fail(err, EG_ERROR_ARGUMENT, "a time of the endpointing is out of range.");
    }
    if (t.tail == 0) t.tail = t.pause;
    if (!(t.tail > 0 && t.tail <= t.silence && t.pause <= t.silence))
        return eg_fail(err, EG_ERROR_ARGUMENT, "pause and tail must not be longer than the silence of %g s.",
                       (double)t.silence);
    eg_endpointer *e = calloc(1, sizeof *e);
    if (!e) return eg_fail(err, EG_ERROR_MEMORY, "out of memory.");
    e->rate = rate;
    e->context = context;
    e->silence = in_blocks(t.silence);
    e->pause = in_blocks(t.pause);
    e->need = in_blocks(t.min_speech);
    e->window = 2 * e->need;
    e->tail = t.tail == t.pause ? e->pause * BLOCK : in_samples(t.tail);
    e->pre_roll = in_samples(t.pre_roll);
    e->limit = in_samples(t.max_seconds);
    e->search = (int64_t)((t.max_seconds / 2 < 8 ? t.max_seconds / 2 : 8) * RATE) / BLOCK;
    e->reach = (int64_t)((t.max_seconds / 4 < 1 ? t.max_seconds / 4 : 1) * RATE) / BLOCK;
    e->kept = eg_larger(e->search, e->window + e->reach + (e->pre_roll + BLOCK - 1) / BLOCK);
    if (t.max_seconds < 1 || e->limit < 2 * (e->pre_roll + e->window * BLOCK)) {
        free(e);
        return eg_fail(err, EG_ERROR_ARGUMENT, "max_seconds is %g, too short for this pre_roll and min_speech.",
                       (double)t.max_seconds);
    }
    e->speech = calloc((size_t)e->window, sizeof *e->speech);
    e->recent = calloc((size_t)e->kept * BLOCK, sizeof(float));
    e->ratings = calloc((size_t)e->kept, sizeof(float));
    if (!e->speech || !e->recent || !e->ratings) {
        eg_endpointer_close(e);
        return eg_fail(err, EG_ERROR_MEMORY, "out of memory.");
    }
    reset(e);
    *out = e;
    return EG_OK;
}

void eg_endpointer_close(eg_endpointer *e)
{
    if (!e) return;
    free(e->speech);
    free(e->recent);
    free(e->ratings);
    free(e->fresh.samples);
    free(e->given.samples);
    free(e->events);
    free(e);
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

static void add_sound(eg_endpointer *e, sound *to, const float *samples, size_t n)
{
    size_t needed;
    if (!n) return;
    float *grown = eg_add_size(to->n, n, &needed) ? eg_grow(to->samples, &to->capacity, needed, sizeof *grown) : NULL;
    if (!grown) {
        e->failed = true;
        return;
    }
    to->samples = grown;
    memcpy(to->samples + to->n, samples, n * sizeof(float));
    to->n += n;
}

static void tell(eg_endpointer *e, eg_endpoint_kind kind, int64_t time, size_t n, int64_t keep)
{
    eg_endpoint *grown = eg_grow(e->events, &e->event_capacity, e->n_events + 1, sizeof *grown);
    if (!grown) {
        e->failed = true;
        return;
    }
    e->events = grown;
    e->events[e->n_events++] = (eg_endpoint){kind, time, e->given.n - n, n, keep};
}

/* Tells the samples that no event has handed out yet. */
static void hand_out(eg_endpointer *e)
{
    if (!e->fresh.n) return;
    add_sound(e, &e->given, e->fresh.samples, e->fresh.n);
    if (!e->failed) tell(e, EG_ENDPOINT_AUDIO, e->now - (int64_t)e->fresh.n, e->fresh.n, 0);
    e->fresh.n = 0;
}

static const float *recent_block(const eg_endpointer *e, int64_t i) { return e->recent + i % e->kept * BLOCK; }

/* Opens an utterance that began at sample `began`, which the recent blocks still contain. */
static void start(eg_endpointer *e, int64_t began)
{
    e->open = true;
    e->paused = false;
    e->began = began;
    e->spoke = e->now;
    e->quiet = 0;
    const int64_t n = e->now - began, blocks = (n + BLOCK - 1) / BLOCK;
    for (int64_t i = e->n_recent - blocks; i < e->n_recent; i++) {
        const int64_t skipped = i == e->n_recent - blocks ? blocks * BLOCK - n : 0;
        add_sound(e, &e->given, recent_block(e, i) + skipped, (size_t)(BLOCK - skipped));
    }
    if (!e->failed) tell(e, EG_ENDPOINT_START, began, (size_t)n, 0);
}

static void end(eg_endpointer *e, int64_t at, eg_endpoint_kind kind)
{
    hand_out(e);
    tell(e, kind, at, 0, at - e->began);
    e->open = false;
    e->spare = at;
}

/* The quietest place in the last seconds of the open utterance: the middle of five blocks with the lowest sum of the probability of
 * speech and the level; of several the last. */
static int64_t quietest(const eg_endpointer *e)
{
    const int64_t count = eg_smaller(e->search, (e->now - e->began) / BLOCK), first = e->n_recent - count;
    double best = INFINITY;
    int64_t place = 0;
    for (int64_t i = 0; i + QUIET_BLOCKS <= count; i++) {
        double sum = 0;
        for (int64_t k = i; k < i + QUIET_BLOCKS; k++) {
            const float *block = recent_block(e, first + k);
            double power = 0;
            for (int s = 0; s < BLOCK; s++) power += (double)block[s] * block[s];
            sum += e->ratings[(first + k) % e->kept] + log10(power / BLOCK + 1e-10) / 4;
        }
        if (sum > best) continue;
        best = sum;
        place = i;
    }
    return e->now - (2 * (count - place) - QUIET_BLOCKS) * BLOCK / 2;
}

/* Ends an utterance that has no room for another block. Opens the next one if speech lies behind the cut. */
static void cut(eg_endpointer *e)
{
    const int64_t quiet = e->quiet, spoke = e->spoke, length = e->now - e->began;
    int64_t keep; /* in soft tokens */
    if (e->paused) keep = (spoke + e->tail - e->began + SOFT_TOKEN - 1) / SOFT_TOKEN; /* the pause itself is the best place */
    else keep = (int64_t)rint((double)(quietest(e) - e->began) / SOFT_TOKEN);
    const int64_t at = e->began + eg_smaller(keep, length / SOFT_TOKEN) * SOFT_TOKEN;
    end(e, at, EG_ENDPOINT_CUT);
    if (e->paused) return;
    e->n_speech = 0;
    if (spoke - at <= BLOCK) return;
    start(e, at);
    e->quiet = quiet;
    e->spoke = spoke;
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

/* Whether there is enough speech in the last blocks, and where it begins. */
static bool is_sure(const eg_endpointer *e, int64_t *first)
{
    const int64_t n = eg_smaller(e->n_speech, e->window);
    int64_t found = 0;
    for (int64_t i = e->n_speech - 1; i >= e->n_speech - n; i--) {
        if (!e->speech[i % e->window]) continue;
        found++;
        *first = e->now - (e->n_speech - i) * BLOCK;
    }
    return found >= e->need;
}

/* Where the speech begins softly whose first clear block begins at sample `first`. */
static int64_t softly_from(const eg_endpointer *e, int64_t first)
{
    const int64_t clear = e->n_recent - (e->now - first) / BLOCK, oldest = eg_larger(clear - e->reach, 0);
    int64_t found = clear;
    for (int64_t i = clear - 1; i >= oldest && found - i <= SOFT_GAP + 1; i--)
        if (e->ratings[i % e->kept] >= SOFT) found = i;
    return first - (clear - found) * BLOCK;
}

/* Whether the block, of that probability, belongs to speech or ends a pause; otherwise it is quiet. */
static bool goes_on(eg_endpointer *e, float p, bool sure, int64_t first)
{
    if (e->paused) {
        if (!sure) return false;
        hand_out(e);
        tell(e, EG_ENDPOINT_RESUME, first, 0, 0);
        e->paused = false;
    } else if (p < ON && (p < OFF || e->quiet)) {
        return false;
    }
    e->quiet = 0;
    e->spoke = e->now;
    return true;
}

static void advance(eg_endpointer *e, const float *block, float p)
{
    int64_t first = 0;
    if (e->open && e->now + BLOCK - e->began > e->limit) cut(e);
    memcpy(e->recent + e->n_recent % e->kept * BLOCK, block, BLOCK * sizeof(float));
    e->ratings[e->n_recent++ % e->kept] = p;
    e->now += BLOCK;
    e->speech[e->n_speech++ % e->window] = p >= ON;
    const bool sure = is_sure(e, &first);
    if (!e->open) {
        if (sure) start(e, eg_larger(softly_from(e, first) - e->pre_roll, e->spare));
        return;
    }
    add_sound(e, &e->fresh, block, BLOCK);
    if (goes_on(e, p, sure, first)) return;
    e->quiet++;
    if (!e->paused && e->quiet >= e->pause) {
        hand_out(e);
        tell(e, EG_ENDPOINT_PAUSE, e->spoke, 0, 0);
        e->paused = true;
        e->n_speech = 0;
    }
    if (e->quiet >= e->silence) end(e, eg_smaller(e->now, e->spoke + e->tail), EG_ENDPOINT_END);
}

bool eg_endpointer_push(eg_endpointer *e, const float *samples, size_t n)
{
    e->n_events = e->given.n = 0;
    while (n && !e->failed) {
        const size_t part = n < BLOCK - e->n_waiting ? n : BLOCK - e->n_waiting;
        memcpy(e->waiting + e->n_waiting, samples, part * sizeof(float));
        e->n_waiting += part;
        samples += part;
        n -= part;
        if (e->n_waiting < BLOCK) break;
        e->n_waiting = 0;
        advance(e, e->waiting, e->rate ? e->rate(e->context, e->waiting) : rate_level(e, e->waiting));
    }
    hand_out(e);
    return !e->failed;
}

bool eg_endpointer_finish(eg_endpointer *e)
{
    e->n_events = e->given.n = 0;
    if (e->open && e->now + (int64_t)e->n_waiting - e->began > e->limit) cut(e);
    if (e->open) {
        add_sound(e, &e->fresh, e->waiting, e->n_waiting);
        e->now += (int64_t)e->n_waiting;
        end(e, e->quiet ? eg_smaller(e->now, e->spoke + e->tail) : e->now, EG_ENDPOINT_END);
    }
    reset(e);
    return !e->failed;
}

const eg_endpoint *eg_endpointer_events(const eg_endpointer *e, size_t *n)
{
    *n = e->n_events;
    return e->events;
}

const float *eg_endpointer_samples(const eg_endpointer *e) { return e->given.samples; }
