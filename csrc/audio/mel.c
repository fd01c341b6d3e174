/* Log-mel frames of samples; the formula is in mel.h. Computed in doubles: single precision loses bins 100 dB below the
 * loudest one, and the logarithm makes that visible. The cost is small compared with the encoder's. */
#include "mel.h"

#include <math.h>
#include <string.h>

enum { HALF = EG_MEL_FFT / 2, BINS = HALF + 1 };

static const double PI = 3.14159265358979323846;

void eg_mel_layout(eg_mel *m, int32_t features, bool raw, eg_arena *arena)
{
    m->features = features;
    m->raw = raw;
    m->window = eg_arena_take(arena, EG_MEL_FRAME, sizeof *m->window);
    m->cos = eg_arena_take(arena, HALF, sizeof *m->cos);
    m->sin = eg_arena_take(arena, HALF, sizeof *m->sin);
    m->weight = eg_arena_take(arena, 2 * BINS, sizeof *m->weight);
    m->first = eg_arena_take(arena, (size_t)features, sizeof *m->first);
    m->count = eg_arena_take(arena, (size_t)features, sizeof *m->count);
    m->work = eg_arena_take(arena, EG_MEL_FFT, sizeof *m->work);
    m->samples = eg_arena_take(arena, EG_MEL_FRAME + EG_MEL_HOP, sizeof *m->samples);
}

/* Frequency in Hz of triangle edge j, 0 .. features + 1. */
static double edge(int32_t j, int32_t features)
{
    double top = 2595 * log10(1 + 8000.0 / 700);
    return 700 * (pow(10, j * top / (features + 1) / 2595) - 1);
}

void eg_mel_init(eg_mel *m)
{
    if (m->raw) {
        eg_mel_reset(m);
        return;
    }
    for (int i = 0; i < EG_MEL_FRAME; i++) m->window[i] = 0.5 - 0.5 * cos(2 * PI * i / EG_MEL_FRAME);
    for (int k = 0; k < HALF; k++) {
        m->cos[k] = cos(2 * PI * k / EG_MEL_FFT);
        m->sin[k] = sin(2 * PI * k / EG_MEL_FFT);
    }
    double *weight = m->weight;
    for (int32_t f = 0; f < m->features; f++) {
        double low = edge(f, m->features), middle = edge(f + 1, m->features), high = edge(f + 2, m->features);
        m->first[f] = m->count[f] = 0;
        for (int k = 0; k < BINS; k++) {
            double hz = (double)EG_SAMPLE_RATE / EG_MEL_FFT * k;
            double rise = (hz - low) / (middle - low), fall = (high - hz) / (high - middle);
            double value = rise < fall ? rise : fall;
            if (value <= 0) continue;
            if (!m->count[f]++) m->first[f] = k;
            *weight++ = value;
        }
    }
    eg_mel_reset(m);
}

void eg_mel_reset(eg_mel *m)
{
    m->filled = m->raw ? 0 : EG_MEL_FRAME / 2;
    memset(m->samples, 0, (size_t)m->filled * sizeof *m->samples);
}

/* z[n] := sum over j of z[j] e^(-2 pi i j n / HALF), in place; z holds HALF complex numbers as (re, im) pairs. */
static void fft(const eg_mel *m, double *z)
{
    for (int i = 1, j = 0; i < HALF; i++) {            /* into bit-reversed order */
        int bit = HALF >> 1;
        for (; j & bit; bit >>= 1) j ^= bit;
        j ^= bit;
        if (i >= j) continue;
        double re = z[2 * i], im = z[2 * i + 1];
        z[2 * i] = z[2 * j];
        z[2 * i + 1] = z[2 * j + 1];
        z[2 * j] = re;
        z[2 * j + 1] = im;
    }
    for (int size = 2; size <= HALF; size *= 2)
        for (int begin = 0; begin < HALF; begin += size)
            for (int k = 0; k < size / 2; k++) {
                double c = m->cos[k * (EG_MEL_FFT / size)], s = -m->sin[k * (EG_MEL_FFT / size)];
                double *a = z + 2 * (begin + k), *b = a + size;
                double re = b[0] * c - b[1] * s, im = b[0] * s + b[1] * c;
                b[0] = a[0] - re;
                b[1] = a[1] - im;
                a[0] += re;
                a[1] += im;
            }
}

/* |X[k]| of a real signal, where z is the transform of (even samples) + i (odd samples): X = E + w^k O. */
static double magnitude(const eg_mel *m, const double *z, int k)
{
    const double *a = z + 2 * (k % HALF), *b = z + 2 * ((HALF - k) % HALF);
    double even_re = (a[0] + b[0]) / 2, even_im = (a[1] - b[1]) / 2;
    double odd_re = (a[1] + b[1]) / 2, odd_im = (b[0] - a[0]) / 2;
    double c = k < HALF ? m->cos[k] : -1, s = k < HALF ? m->sin[k] : 0;
    double re = even_re + c * odd_re + s * odd_im, im = even_im + c * odd_im - s * odd_re;
    return sqrt(re * re + im * im);
}

static void frame(eg_mel *m, float *out)
{
    double size[BINS];
    for (int i = 0; i < EG_MEL_FRAME; i++) m->work[i] = m->samples[i] * m->window[i];
    memset(m->work + EG_MEL_FRAME, 0, (EG_MEL_FFT - EG_MEL_FRAME) * sizeof *m->work);
    fft(m, m->work);
    for (int k = 0; k < BINS; k++) size[k] = magnitude(m, m->work, k);
    const double *weight = m->weight;
    for (int32_t f = 0; f < m->features; f++) {
        double sum = 0;
        for (int32_t k = 0; k < m->count[f]; k++) sum += size[m->first[f] + k] * *weight++;
        out[f] = (float)log(sum + 0.001);
    }
}

/* Samples that complete a frame. */
static int32_t needed(const eg_mel *m) { return m->raw ? EG_MEL_HOP : EG_MEL_FRAME + 1; }

int64_t eg_mel_push(eg_mel *m, const float **samples, int64_t *n, float *frames, int64_t room)
{
    int64_t written = 0;
    while (*n > 0 && written < room) {
        int64_t copied = needed(m) - m->filled;   /* no more than completes the frame */
        if (copied > *n) copied = *n;
        memcpy(m->samples + m->filled, *samples, (size_t)copied * sizeof **samples);
        m->filled += (int32_t)copied;
        *samples += copied;
        *n -= copied;
        if (m->filled < needed(m)) continue;
        if (m->raw) memcpy(frames + written * m->features, m->samples, EG_MEL_HOP * sizeof *frames);
        else frame(m, frames + written * m->features);
        written++;
        m->filled -= EG_MEL_HOP;
        memmove(m->samples, m->samples + EG_MEL_HOP, (size_t)m->filled * sizeof *m->samples);
    }
    return written;
}

int64_t eg_mel_frames(const eg_mel *m, int64_t n)
{
    int64_t past = n + m->filled - needed(m);
    return past < 0 ? 0 : past / EG_MEL_HOP + 1;
}

int64_t eg_mel_finish(eg_mel *m, float *frame)
{
    if (!m->raw || !m->filled) return 0;
    memcpy(frame, m->samples, (size_t)m->filled * sizeof *frame);
    memset(frame + m->filled, 0, (size_t)(EG_MEL_HOP - m->filled) * sizeof *frame);
    m->filled = 0;
    return 1;
}

int64_t eg_mel_all_frames(const eg_mel *m, int64_t n)
{
    return m->raw ? (m->filled + n + EG_MEL_HOP - 1) / EG_MEL_HOP : eg_mel_frames(m, n);
}
