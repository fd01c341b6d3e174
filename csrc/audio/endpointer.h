/* Endpointing: where an utterance begins and ends in sound that comes in.
 *
 * A detector rates blocks of 512 samples (32 ms) with the probability of speech. The endpointer makes events of that, in the order
 * start (audio | pause audio* resume)* [pause audio*] end. An utterance begins when `min_speech` seconds of speech lie within twice
 * that time, so a click does not begin one. The blocks just before may be a soft beginning, of which the detector is not sure: up to
 * a second of them, as long as their probability is a fifth of that of speech, belongs to it. An utterance is over after `silence`
 * seconds without speech; one that would become longer than `max_seconds` is cut at the quietest place in its last 8 s. The results
 * do not depend on how the sound is cut for push.
 */
#ifndef EG_AUDIO_ENDPOINTER_H
#define EG_AUDIO_ENDPOINTER_H

#include "../base/status.h"

enum { EG_DETECTOR_BLOCK = 512 };   /* samples that get one probability */

typedef enum eg_endpoint_kind {
    EG_ENDPOINT_START = 1,     /* samples: all of the utterance so far, from `pre_roll` before the speech on */
    EG_ENDPOINT_AUDIO = 2,     /* samples: the next ones, also during a pause */
    EG_ENDPOINT_PAUSE = 3,     /* the speaker has been silent for `pause` seconds */
    EG_ENDPOINT_RESUME = 4,    /* the speaker speaks again */
    EG_ENDPOINT_END = 5,       /* the utterance is the first `keep` samples of its events */
    EG_ENDPOINT_CUT = 6        /* an end because it became too long: what is behind `keep` may come again */
} eg_endpoint_kind;

typedef struct eg_endpoint {
    eg_endpoint_kind kind;
    int64_t time;              /* in samples from the beginning */
    size_t first, n;           /* its samples: eg_endpointer_samples + first */
    int64_t keep;
} eg_endpoint;

/* Seconds. Zero stands for the defaults in brackets. */
typedef struct eg_endpoint_times {
    float silence;             /* that ends an utterance (0.7) */
    float pause;               /* that makes a pause (0.25) */
    float pre_roll;            /* sound before the speech that belongs to it (0.3) */
    float min_speech;          /* the shortest speech that begins an utterance (0.1) */
    float max_seconds;         /* the longest utterance (28) */
    float tail;                /* silence behind the speech that belongs to it (as pause) */
} eg_endpoint_times;

typedef struct eg_endpointer eg_endpointer;

/* rate: the probability of speech in a block of 512 samples; NULL: a detector that compares the level with that of the noise.
 * EG_ERROR_ARGUMENT: times that do not fit together. */
eg_status eg_endpointer_open(const eg_endpoint_times *times, float (*rate)(void *context, const float *block), void *context,
                             eg_endpointer **out, eg_error *err);
void eg_endpointer_close(eg_endpointer *endpointer);
/* Takes samples[n], 16 kHz mono; the events of the call before are forgotten. False without memory. */
bool eg_endpointer_push(eg_endpointer *endpointer, const float *samples, size_t n);
/* Ends an open utterance, since the sound has ended, and starts anew. False without memory. */
bool eg_endpointer_finish(eg_endpointer *endpointer);
/* The events of the last call, [*n], and the samples that they point into. */
const eg_endpoint *eg_endpointer_events(const eg_endpointer *endpointer, size_t *n);
const float *eg_endpointer_samples(const eg_endpointer *endpointer);

#endif
