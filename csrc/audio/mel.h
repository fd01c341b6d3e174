/* Log-mel front end of the audio encoder: samples to features, streaming.
 *
 *   frame i: samples 160 i - 160 .. 160 i + 159 (zeros before the first), times a periodic Hann window, right-padded to 512
 *   X = FFT(frame); y[m] = ln(sum over k of |X[k]| B[k, m] + 0.001), B triangles evenly spaced in HTK mels, 0 to 8000 Hz
 * Frame i is complete once sample 160 i + 160 has been pushed. Input is 16 kHz mono in [-1, 1]. The state is the samples that
 * later frames still need. Owns its tables (in the owner's arena).
 *
 * A `raw` front end, for models without an audio encoder, has frames of 160 samples as they are; the last one is filled up with
 * zeros at the end.
 */
#ifndef EG_AUDIO_MEL_H
#define EG_AUDIO_MEL_H

#include <stdbool.h>

#include "../base/arena.h"

enum { EG_SAMPLE_RATE = 16000, EG_MEL_FRAME = 320, EG_MEL_HOP = 160, EG_MEL_FFT = 512 };

typedef struct eg_mel {
    int32_t features;          /* 128 in all released models; 160 if raw */
    bool raw;
    double *window;            /* [FRAME] */
    double *cos, *sin;         /* [FFT / 2]: of 2 pi k / FFT */
    double *weight;            /* [2 * (FFT / 2 + 1)]: triangles one after another; a bin is in two at most */
    int32_t *first, *count;    /* [features]: first bin and number of bins of each triangle */
    double *work;              /* [FFT] */
    float *samples;            /* [FRAME + HOP]: the beginning of the next frame */
    int32_t filled;
} eg_mel;

void eg_mel_layout(eg_mel *mel, int32_t features, bool raw, eg_arena *arena);
/* Fills the tables and begins a recording. Call once, after the arena has its memory. */
void eg_mel_init(eg_mel *mel);
void eg_mel_reset(eg_mel *mel);

/* Consumes the *n samples at *samples until there are none left or `room` frames are written; advances *samples and reduces
 * *n. Writes frames[.., features] and returns their number. */
int64_t eg_mel_push(eg_mel *mel, const float **samples, int64_t *n, float *frames, int64_t room);

/* The number of frames that n further samples would complete. */
int64_t eg_mel_frames(const eg_mel *mel, int64_t n);

/* Ends the recording: the last frame, if there is one that only the end completes. Returns the number of frames, 0 or 1. */
int64_t eg_mel_finish(eg_mel *mel, float *frame);

/* Frames that n further samples and the end would give. */
int64_t eg_mel_all_frames(const eg_mel *mel, int64_t n);

#endif
