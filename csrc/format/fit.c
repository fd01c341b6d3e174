/* Fits scales for groups of values; see fit.h. First tries scales around the one that maps the largest value to the last
 * level. Then alternates: the best scale for the current levels (least squares), and the nearest levels for that scale, while
 * the error falls. */
#include "fit.h"

#include <math.h>
#include <stddef.h>

enum { REFINEMENTS = 1 };

/* A loop over eight candidates, one for each lane of a vector. GCC would unroll it before its vectorizer runs, which then
 * finds nothing to vectorize. */
#if defined __GNUC__ && !defined __clang__
#define FOR_EACH_TRY(l) _Pragma("GCC unroll 1") for (int l = 0; l < EG_TRIES; l++)
#else
#define FOR_EACH_TRY(l) for (int l = 0; l < EG_TRIES; l++)
#endif

/* The codebook of IQ4 in ascending order: its first value, the differences, and the midpoints between neighbours. */
static const float iq4_first = -127.0f;
static const float iq4_step[15] = {23, 21, 18, 16, 14, 13, 12, 11, 12, 12, 13, 15, 16, 20, 24};
static const float iq4_middle[15] = {-115.5f, -93.5f, -74.0f, -57.0f, -42.0f, -28.5f, -16.0f, -4.5f,
                                     7.0f,    19.0f,  31.5f,  45.5f,  61.0f,  79.0f,  101.0f};

static inline float nearest_code(float t)
{
    float q = iq4_first;
    for (int k = 0; k < 15; k++) q += t > iq4_middle[k] ? iq4_step[k] : 0.0f;
    return q;
}

/* The nearest integer from low to high, ties to even: adding 1.5 * 2^23 rounds the fraction away. */
static inline float nearest_whole(float t, float low, float high)
{
    t = t < low ? low : t;
    t = t > high ? high : t;
    return (t + 12582912.0f) - 12582912.0f;
}

/* 1 / scale; 0 for a scale that is 0 or below the normal floats. */
static inline float inverse(float scale)
{
    float i = scale != 0.0f ? 1.0f / scale : 0.0f;
    return isfinite(i) ? i : 0.0f;
}

void eg_weigh(const float *x, int n, float *w)
{
    float sum = 0.0f;
    for (int i = 0; i < n; i++) sum += x[i] * x[i];
    float unit = inverse(2.0f * sum / (float)n);
    for (int i = 0; i < n; i++) w[i] = 1.0f + x[i] * x[i] * unit;
}

eg_sums eg_sum(eg_group g, eg_fit fit, eg_levels levels)
{
    eg_sums s = {0};
    float inv = inverse(fit.scale);
    for (int i = 0; i < g.n; i++) {
        float t = (g.x[i] + fit.min) * inv;
        float q = levels.iq4 ? nearest_code(t) : nearest_whole(t, levels.low, levels.high), wq = g.w[i] * q;
        s.w += g.w[i];
        s.q += wq;
        s.qq += wq * q;
        s.x += g.w[i] * g.x[i];
        s.xq += wq * g.x[i];
    }
    return s;
}

void eg_misfits(eg_group g, const eg_fits *fits, eg_levels levels, float *error)
{
    float inv[EG_TRIES], sum[EG_TRIES] = {0};
    FOR_EACH_TRY(l) inv[l] = inverse(fits->scale[l]);
    for (int i = 0; i < g.n; i++) {
        float x = g.x[i], w = g.w[i], off[EG_TRIES];
        if (levels.iq4)
            FOR_EACH_TRY(l) off[l] = x - fits->scale[l] * nearest_code(x * inv[l]);
        else
            FOR_EACH_TRY(l)
                off[l] = x -
                         (fits->scale[l] * nearest_whole((x + fits->min[l]) * inv[l], levels.low, levels.high) - fits->min[l]);
        FOR_EACH_TRY(l) sum[l] += w * off[l] * off[l];
    }
    FOR_EACH_TRY(l) error[l] = sum[l];
}

void eg_nearest(const float *x, int n, eg_fit fit, eg_levels levels, int8_t *q)
{
    float inv = inverse(fit.scale);
    for (int i = 0; i < n; i++) {
        float t = (x[i] + fit.min) * inv;
        int index = 0;
        if (levels.iq4)
            for (int k = 0; k < 15; k++) index += t > iq4_middle[k] ? 1 : 0;
        q[i] = (int8_t)(levels.iq4 ? index : (int)nearest_whole(t, levels.low, levels.high));
    }
}

/* A scale and its gain: the error is sum w x^2 - gain. */
typedef struct candidate {
    float scale, gain;
} candidate;

/* Tries eight scales, given as inverses, each improved by least squares; keeps the best one if it is better than *best. */
static void scan(eg_group g, const float *inv, eg_levels levels, candidate *best)
{
    float xq[EG_TRIES] = {0}, qq[EG_TRIES] = {0};
    for (int i = 0; i < g.n; i++) {
        float x = g.x[i], w = g.w[i], q[EG_TRIES];
        if (levels.iq4)
            FOR_EACH_TRY(l) q[l] = nearest_code(x * inv[l]);
        else
            FOR_EACH_TRY(l) q[l] = nearest_whole(x * inv[l], levels.low, levels.high);
        FOR_EACH_TRY(l) {
            float wq = w * q[l];
            xq[l] += wq * x;
            qq[l] += wq * q[l];
        }
    }
    FOR_EACH_TRY(l)
        if (qq[l] > 0.0f && xq[l] * xq[l] > best->gain * qq[l]) *best = (candidate){xq[l] / qq[l], xq[l] * xq[l] / qq[l]};
}

float eg_fit_scale(eg_group g, eg_levels levels)
{
    float peak = 0.0f, inv[EG_TRIES];
    for (int i = 0; i < g.n; i++) peak = fabsf(g.x[i]) > fabsf(peak) ? g.x[i] : peak;
    if (inverse(peak) == 0.0f) return 0.0f;
    candidate best = {0.0f, 0.0f};
    for (int side = 0; side < 2; side++) {   /* the largest value at either end of the levels, or slightly beyond */
        float edge = side ? levels.high : levels.low;
        FOR_EACH_TRY(l) inv[l] = edge * (1.0f + (float)(l - 5) / 16.0f) / peak;
        scan(g, inv, levels, &best);
    }
    FOR_EACH_TRY(l)   /* smaller steps around the best */
        inv[l] = inverse(best.scale) * (1.0f + ((float)l - 3.5f) / 96.0f);
    scan(g, inv, levels, &best);
    for (int round = 0; round < REFINEMENTS; round++) {
        eg_sums s = eg_sum(g, (eg_fit){best.scale, 0.0f}, levels);
        if (!(s.qq > 0.0f) || s.xq * s.xq <= best.gain * s.qq) break;
        best = (candidate){s.xq / s.qq, s.xq * s.xq / s.qq};
    }
    return best.scale;
}

/* The least-squares solution for given sums; *gain: how much less the error is than for scale 0 and min 0. */
static eg_fit solve(eg_sums s, bool positive, float *gain)
{
    float d = s.w * s.qq - s.q * s.q;
    eg_fit fit = {0.0f, 0.0f};
    if (d > 0.0f) {
        fit.scale = (s.w * s.xq - s.q * s.x) / d;
        fit.min = (s.q * s.xq - s.qq * s.x) / d;
    }
    if (d <= 0.0f || (positive && fit.min < 0.0f)) {
        fit.scale = s.qq > 0.0f ? s.xq / s.qq : 0.0f;
        fit.min = 0.0f;
    }
    *gain = 2.0f * (fit.scale * s.xq - fit.min * s.x) -
            (fit.scale * fit.scale * s.qq - 2.0f * fit.scale * fit.min * s.q + fit.min * fit.min * s.w);
    return fit;
}

/* The same for eight pairs of an inverse scale and a min; *gain is that of *best. */
static void scan_affine(eg_group g, const float *inv, const float *min, float high, bool positive, eg_fit *best, float *gain)
{
    float q[EG_TRIES] = {0}, qq[EG_TRIES] = {0}, xq[EG_TRIES] = {0}, sw = 0.0f, sx = 0.0f;
    for (int i = 0; i < g.n; i++) {
        float x = g.x[i], w = g.w[i];
        sw += w;
        sx += w * x;
        FOR_EACH_TRY(l) {
            float level = nearest_whole((x + min[l]) * inv[l], 0.0f, high), wq = w * level;
            q[l] += wq;
            qq[l] += wq * level;
            xq[l] += wq * x;
        }
    }
    FOR_EACH_TRY(l) {
        float found;
        eg_fit fit = solve((eg_sums){sw, q[l], qq[l], sx, xq[l]}, positive, &found);
        if (found > *gain && fit.scale >= 0.0f) {
            *gain = found;
            *best = fit;
        }
    }
}

eg_fit eg_fit_affine(eg_group g, float high, bool positive)
{
    float low = g.x[0], top = g.x[0];
    for (int i = 1; i < g.n; i++) {
        low = g.x[i] < low ? g.x[i] : low;
        top = g.x[i] > top ? g.x[i] : top;
    }
    low = positive && low > 0.0f ? 0.0f : low;
    if (top <= low || inverse(top - low) == 0.0f) return (eg_fit){0.0f, -low};
    eg_fit best = {(top - low) / high, -low};
    float gain = -HUGE_VALF, inv[EG_TRIES], min[EG_TRIES];
    for (int shift = -1; shift <= 1; shift++) {   /* the smallest value at the first level, or a third of a level off */
        FOR_EACH_TRY(l) {
            inv[l] = (high + (float)(l - 6) / 4.0f) / (top - low);
            min[l] = -low - (float)shift / (3.0f * inv[l]);
        }
        scan_affine(g, inv, min, high, positive, &best, &gain);
    }
    for (int round = 0; round < REFINEMENTS; round++) {
        float found;
        eg_fit fit = solve(eg_sum(g, best, (eg_levels){0.0f, high, false}), positive, &found);
        if (!(found > gain) || fit.scale < 0.0f) break;
        gain = found;
        best = fit;
    }
    return best;
}
