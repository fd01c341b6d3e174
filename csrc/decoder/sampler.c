/* Draws a token: biases and suppression, penalties, temperature, top-k, softmax, top-p, min-p, draw, in this order. */
#include "sampler.h"

#include "../base/structs.h"

#include <math.h>
#include <string.h>

void eg_sampler_layout(eg_sampler *s, int32_t vocab, eg_arena *arena)
{
    s->vocab = vocab;
    s->logits = eg_arena_take(arena, (size_t)vocab, sizeof *s->logits);
    s->candidates = eg_arena_take(arena, (size_t)vocab, sizeof *s->candidates);
    s->counts = eg_arena_take(arena, (size_t)vocab, sizeof *s->counts);
}

/* What Gemma 4 is recommended with. */
static const eg_sampling recommended = {.struct_size = sizeof recommended,
                                        .temperature = 1,
                                        .top_k = 64,
                                        .top_p = 0.95f,
                                        .repetition_penalty = 1,
                                        .penalty_window = 64};

void eg_sampling_default(eg_sampling *sampling)
{
    if (!eg_struct_check(sampling, "eg_sampling", NULL)) eg_struct_write(sampling, &recommended, sizeof recommended);
}

static size_t mask_words(int32_t vocab) { return ((size_t)vocab + 31) / 32; }

static eg_status check(const eg_sampling *o, int32_t vocab, eg_error *err)
{
    if (!(o->temperature >= 0 && o->temperature <= 1e6f))
        return eg_fail(err, EG_ERROR_ARGUMENT, "temperature must be within 0 (greedy) and 1e6.");
    if (!(o->top_p >= 0 && o->top_p <= 1)) return eg_fail(err, EG_ERROR_ARGUMENT, "top_p must be within 0 and 1.");
    if (!(o->min_p >= 0 && o->min_p <= 1)) return eg_fail(err, EG_ERROR_ARGUMENT, "min_p must be within 0 and 1.");
    if (!(o->repetition_penalty >= 0 && o->repetition_penalty <= 1e6f))
        return eg_fail(err, EG_ERROR_ARGUMENT, "repetition_penalty must be within 0 (off) and 1e6.");
    if (!isfinite(o->presence_penalty) || !isfinite(o->frequency_penalty))
        return eg_fail(err, EG_ERROR_ARGUMENT, "presence_penalty and frequency_penalty must be finite.");
    if (o->text_flags & ~(uint32_t)EG_TEXT_SPECIAL)
        return eg_fail(err, EG_ERROR_ARGUMENT, "text_flags is %#x; it can be 0 or EG_TEXT_SPECIAL.", (unsigned)o->text_flags);
    if ((o->n_biases && !o->biases) || (o->n_suppress && !o->suppress))
        return eg_fail(err, EG_ERROR_ARGUMENT, "biases or suppress is NULL although its count is not zero.");
    for (size_t i = 0; i < o->n_biases; i++)
        if (o->biases[i].id < 0 || o->biases[i].id >= vocab || isnan(o->biases[i].bias))
            return eg_fail(err, EG_ERROR_ARGUMENT, "biases[%zu] has id %d; ids are below %d, and a bias is a number.", i,
                           o->biases[i].id, vocab);
    for (size_t i = 0; i < o->n_suppress; i++)
        if (o->suppress[i] < 0 || o->suppress[i] >= vocab)
            return eg_fail(err, EG_ERROR_ARGUMENT, "suppress[%zu] is %d; ids are below %d.", i, o->suppress[i], vocab);
    if (o->mask && o->n_mask < mask_words(vocab))
        return eg_fail(err, EG_ERROR_ARGUMENT, "mask has %zu words of 32 bits; %d tokens take %zu.", o->n_mask, vocab,
                       mask_words(vocab));
    if (o->top_logprobs > EG_TOP_LOGPROBS)
        return eg_fail(err, EG_ERROR_ARGUMENT, "top_logprobs is %u; it can be %d at most.", (unsigned)o->top_logprobs,
                       EG_TOP_LOGPROBS);
    return EG_OK;
}

eg_status eg_sampling_read(const eg_sampling *given, int32_t vocab, eg_sampling *options, eg_error *err)
{
    eg_status status = eg_struct_read(given ? given : &recommended, options, sizeof *options, "eg_sampling", err);
    return status ? status : check(options, vocab, err);
}

/* e^x for x <= 0: 2^k times a series in the remainder r, |r| <= ln(2) / 2, with an error below 1e-15. Made of plain
 * multiplications and additions in a fixed order, which every machine rounds alike. */
static double exponential(double x)
{
    static const double factor[] = {
                                       /* 1 / n! */
        1,
        1,
        1.0 / 2,
        1.0 / 6,
        1.0 / 24,
        1.0 / 120,
        1.0 / 720,
        1.0 / 5040,
        1.0 / 40320,
        1.0 / 362880,
        1.0 / 3628800,
        1.0 / 39916800,
        1.0 / 479001600,
        1.0 / 6227020800,
        1.0 / 87178291200,
    };
    if (!(x > -700)) return 0;
    int k = (int)(x * 1.4426950408889634 - 0.5);
    double r = (x - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10, sum = 0, power;
    for (int i = 15; i-- > 0;) sum = sum * r + factor[i];
    uint64_t bits = (uint64_t)(k + 1023) << 52;
    memcpy(&power, &bits, sizeof power);
    return sum * power;
}

/* splitmix64, as a number in [0, 1) */
static double uniform(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static bool before(eg_candidate a, eg_candidate b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

/* Sifts down from `at`; the root of the heap is the worst candidate. */
static void sift(eg_candidate *heap, size_t n, size_t at)
{
    eg_candidate moved = heap[at];
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(heap[child], heap[child + 1])) child++;
        if (!before(moved, heap[child])) break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

enum { RUN = 32 };         /* logits that are compared together: nearly all runs have none of the best */

static bool any_above(const float *logits, int32_t n, float least)
{
    int32_t above = 0;
    for (int32_t i = 0; i < n; i++) above |= logits[i] > least;
    return above;
}

/* The k best of logits[n] into candidates, in no particular order. Returns their number; logits of -infinity and NaN are left
 * out. */
static size_t gather(const float *logits, int32_t n, size_t k, eg_candidate *candidates)
{
    size_t count = 0;
    for (int32_t first = 0, end; first < n; first = end) {
        end = n - first < RUN ? n : first + RUN;
        if (count == k && !any_above(logits + first, end - first, candidates[0].logit)) continue;
        for (int32_t id = first; id < end; id++) {
            eg_candidate c = {logits[id], id};
            if (!(c.logit > -INFINITY)) continue;
            if (count < k) {
                candidates[count++] = c;
                if (count == k && k < (size_t)n)
                    for (size_t i = k / 2; i-- > 0;) sift(candidates, k, i);
            } else if (before(c, candidates[0])) {
                candidates[0] = c;
                sift(candidates, k, 0);
            }
        }
    }
    return count;
}

/* The weight of a candidate is e^((logit - highest) / temperature). */
typedef struct scale {
    float highest;
    double temperature;
} scale;

/* The weight of the highest logit is 1, also if it is infinite. */
static double weight(scale by, eg_candidate c)
{
    return c.logit < by.highest ? exponential((c.logit - by.highest) / by.temperature) : 1;
}

static double weight_of_all(scale by, const eg_candidate *c, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += weight(by, c[i]);
    return sum;
}

static void swap(eg_candidate *a, eg_candidate *b)
{
    eg_candidate c = *a;
    *a = *b;
    *b = c;
}

/* Top-p: moves the fewest best candidates whose weights add up to `goal` to the front; returns their number, at least one.
 * Finds the last of them by quickselect: it is in [begin, end), and the candidates before begin weigh `kept`. */
static size_t move_heaviest(scale by, eg_candidate *c, size_t n, double goal)
{
    size_t begin = 0, end = n;
    double kept = 0;
    while (begin < end && (kept < goal || !begin)) {
        size_t cut = begin, last = end - 1;
        double sum = 0;
        swap(&c[begin + (end - begin) / 2], &c[last]);
        for (size_t i = begin; i < last; i++)
            if (before(c[i], c[last])) {
                sum += weight(by, c[i]);
                swap(&c[i], &c[cut++]);
            }
        swap(&c[cut], &c[last]);
        if (cut > begin && kept + sum >= goal) {
            end = cut;
        } else {
            kept += sum + weight(by, c[cut]);
            begin = cut + 1;
        }
    }
    return begin;
}

/* Min-p: moves the candidates of weight `least` or more to the front; returns their number. */
static size_t move_heavy(scale by, eg_candidate *c, size_t n, double least)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        if (weight(by, c[i]) >= least) swap(&c[i], &c[count++]);
    return count;
}

static void penalize(eg_sampler *s, const eg_sampling *o, const int32_t *history, size_t n)
{
    float repetition = o->repetition_penalty > 0 ? o->repetition_penalty : 1;
    size_t window = o->penalty_window ? o->penalty_window : 64;
    if (repetition == 1 && o->presence_penalty == 0 && o->frequency_penalty == 0) return;
    if (window < n) {
        history += n - window;
        n = window;
    }
    for (size_t i = 0; i < n; i++)
        if (history[i] >= 0 && s->counts[history[i]] < UINT16_MAX) s->counts[history[i]]++;
    for (size_t i = 0; i < n; i++) {
        if (history[i] < 0 || !s->counts[history[i]]) continue;
        float *logit = &s->logits[history[i]];
        *logit = *logit > 0 ? *logit / repetition : *logit * repetition;
        *logit -= o->presence_penalty + o->frequency_penalty * (float)s->counts[history[i]];
        s->counts[history[i]] = 0;
    }
}

/* -1 if all are -infinity. */
static int32_t argmax(const float *logits, int32_t n)
{
    int32_t best = 0;
    for (int32_t id = 1; id < n; id++)
        if (logits[id] > logits[best] || isnan(logits[best])) best = id;
    return logits[best] == -INFINITY ? -1 : best;
}

static void apply_mask(float *logits, int32_t n, const uint32_t *mask)
{
    for (int32_t id = 0; id < n; id++)
        if (!(mask[id / 32] >> id % 32 & 1)) logits[id] = -INFINITY;
}

int32_t eg_sampler_draw(eg_sampler *s, const eg_sampling *o, const float *logits, uint64_t *random, const int32_t *history,
                        size_t n, const int32_t *suppressed, size_t n_suppressed)
{
    memcpy(s->logits, logits, (size_t)s->vocab * sizeof *logits);
    for (size_t i = 0; i < o->n_biases; i++) s->logits[o->biases[i].id] += o->biases[i].bias;
    for (size_t i = 0; i < o->n_suppress; i++) s->logits[o->suppress[i]] = -INFINITY;
    for (size_t i = 0; i < n_suppressed; i++) s->logits[suppressed[i]] = -INFINITY;
    if (o->mask) apply_mask(s->logits, s->vocab, o->mask);
    penalize(s, o, history, n);
    if (!(o->temperature > 0)) return argmax(s->logits, s->vocab);

    size_t top_k = o->top_k ? o->top_k : SIZE_MAX;
    double temperature = o->temperature, top_p = o->top_p > 0 ? o->top_p : 1;
    eg_candidate *c = s->candidates;
    size_t count = gather(s->logits, s->vocab, top_k < (size_t)s->vocab ? top_k : (size_t)s->vocab, c);
    if (!count) return argmax(s->logits, s->vocab);   /* all are NaN, suppressed or masked */
    scale by = {c[0].logit, temperature};
    for (size_t i = 1; i < count; i++) by.highest = c[i].logit > by.highest ? c[i].logit : by.highest;
    /* Top-p: the fewest candidates whose probability reaches top_p. Min-p: of these, the ones of at least min_p times the
     * probability of the best. */
    if (top_p < 1) count = move_heaviest(by, c, count, top_p * weight_of_all(by, c, count));
    if (o->min_p > 0) count = move_heavy(by, c, count, o->min_p);
    double target = uniform(random) * weight_of_all(by, c, count);
    for (size_t i = 0; i + 1 < count; i++) {
        target -= weight(by, c[i]);
        if (target < 0) return c[i].id;
    }
    return c[count - 1].id;
}

/* ---- probabilities ------------------------------------------------------------------------------------------------ */

double eg_sampler_log_sum(const eg_kernels *kernels, const float *logits, int32_t vocab)
{
    enum { PIECE = 4096 };     /* the sum of so many floats loses little, and the pieces are added as doubles */
    float best = logits[0];
    double sum = 0;
    for (int32_t i = 1; i < vocab; i++) best = logits[i] > best ? logits[i] : best;
    for (int32_t i = 0; i < vocab; i += PIECE) sum += kernels->exp_sum(logits + i, vocab - i < PIECE ? vocab - i : PIECE, best);
    return best + log(sum);
}

size_t eg_sampler_best(eg_sampler *s, const float *logits, double log_sum, size_t n, eg_logprob *best)
{
    eg_candidate *c = s->candidates;
    size_t count = gather(logits, s->vocab, n < (size_t)s->vocab ? n : (size_t)s->vocab, c);
    for (size_t i = 1; i < count; i++)
        for (size_t j = i; j && before(c[j], c[j - 1]); j--) swap(&c[j], &c[j - 1]);
    for (size_t i = 0; i < count; i++) best[i] = (eg_logprob){c[i].id, (float)(c[i].logit - log_sum)};
    return count;
}
