/* Bicubic resizing in two passes of 8 bits; see resize.h. The output is made in bands of rows, so that the pass over the rows needs
 * memory for what one band reads of it, and not for the whole height of a large photograph. */
#include "resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../base/arena.h"
#include "../base/numbers.h"

enum { PRECISION = 22, BAND = 32, REACH = 2 }; /* bits of a weight; rows of a band; pixels that the filter reaches */

/* Where the pixels of one axis come from: output i is the sum of weight[i * most + j] times input first[i] + j, j < count[i]. */
typedef struct axis {
    int64_t from, to, most;
    int32_t *first, *count, *weight;
    double *exact; /* [most] weights of one pixel before they are rounded */
} axis;

static double bicubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

static void layout(axis *ax, eg_arena *arena)
{
    const double stretch = fmax((double)ax->from / (double)ax->to, 1);
    ax->most = (int64_t)ceil(REACH * stretch) * 2 + 1;
    ax->first = eg_arena_take(arena, (size_t)ax->to, sizeof *ax->first);
    ax->count = eg_arena_take(arena, (size_t)ax->to, sizeof *ax->count);
    ax->exact = eg_arena_take(arena, (size_t)ax->most, sizeof *ax->exact);
    ax->weight = eg_arena_take(arena, (size_t)ax->to, (size_t)ax->most * sizeof *ax->weight);
}

static void fill(axis *ax)
{
    const double scale = (double)ax->from / (double)ax->to, stretch = fmax(scale, 1), reach = REACH * stretch;
    const double shrink = 1 / stretch;
    for (int64_t i = 0; i < ax->to; i++) {
        const double centre = ((double)i + 0.5) * scale;
        const int64_t first = eg_larger((int64_t)(centre - reach + 0.5), 0);
        const int64_t count = eg_smaller((int64_t)(centre + reach + 0.5), ax->from) - first;
        double sum = 0;
        for (int64_t j = 0; j < count; j++) sum += ax->exact[j] = bicubic(((double)(j + first) - centre + 0.5) * shrink);
        for (int64_t j = 0; j < count; j++) {
            const double weight = (sum != 0 ? ax->exact[j] / sum : ax->exact[j]) * (1 << PRECISION);
            ax->weight[i * ax->most + j] = (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
        }
        ax->first[i] = (int32_t)first;
        ax->count[i] = (int32_t)count;
    }
}

static uint8_t rounded(int32_t sum)
{
    const int32_t value = sum >> PRECISION;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static void resize_row(const axis *ax, const uint8_t *row, uint8_t *out)
{
    for (int64_t i = 0; i < ax->to; i++, out += 3) {
        const uint8_t *p = row + 3 * (int64_t)ax->first[i];
        const int32_t *weight = ax->weight + i * ax->most;
        int32_t r = 1 << (PRECISION - 1), g = r, b = r;
        for (int32_t j = 0; j < ax->count[i]; j++, p += 3) {
            r += p[0] * weight[j];
            g += p[1] * weight[j];
            b += p[2] * weight[j];
        }
        out[0] = rounded(r);
        out[1] = rounded(g);
        out[2] = rounded(b);
    }
}

/* out[n] = the weighted sum of `count` rows of n bytes, in pieces whose sums stay in registers or near. */
static void add_rows(const uint8_t *rows, size_t stride, int64_t n, const int32_t *weight, int32_t count, uint8_t *out)
{
    enum { PIECE = 64 };
    for (int64_t at = 0; at < n; at += PIECE) {
        int32_t sum[PIECE];
        const int64_t size = eg_smaller(n - at, PIECE);
        for (int64_t i = 0; i < PIECE; i++) sum[i] = 1 << (PRECISION - 1);
        for (int32_t j = 0; j < count; j++) {
            const uint8_t *row = rows + (size_t)j * stride + at;
            if (size == PIECE)
                for (int64_t i = 0; i < PIECE; i++) sum[i] += row[i] * weight[j];
            else
                for (int64_t i = 0; i < size; i++) sum[i] += row[i] * weight[j];
        }
        for (int64_t i = 0; i < size; i++) out[at + i] = rounded(sum[i]);
    }
}

typedef struct resizing {
    const eg_picture *from;
    axis x, y;
    bool columns_first;
    size_t room; /* bytes of scratch for a thread */
    uint8_t *scratch; /* [threads][room] */
    uint8_t *out;
} resizing;

/* The rows [first, last] of a band, and those of the input that it reads. */
typedef struct band {
    int64_t first, last, from, count;
} band;

static band band_at(const axis *y, int64_t number)
{
    band b = {.first = number * BAND, .last = eg_smaller((number + 1) * BAND, y->to) - 1};
    b.from = y->first[b.first];
    b.count = y->first[b.last] + y->count[b.last] - b.from;
    return b;
}

static void along_row(const axis *x, const uint8_t *row, uint8_t *out)
{
    if (x->from == x->to) memcpy(out, row, 3 * (size_t)x->to);
    else resize_row(x, row, out);
}

static void band_task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    const resizing *r = context;
    const size_t width = 3 * (size_t)r->x.to, stride = r->from->stride;
    uint8_t *scratch = r->scratch + worker * r->room;
    for (int64_t number = begin; number < end; number++) {
        const band b = band_at(&r->y, number);
        for (int64_t i = 0; !r->columns_first && i < b.count; i++)
            along_row(&r->x, r->from->rgb + (size_t)(b.from + i) * stride, scratch + (size_t)i * width);
        for (int64_t i = b.first; i <= b.last; i++) {
            const int32_t *weight = r->y.weight + i * r->y.most, from = r->y.first[i], count = r->y.count[i];
            uint8_t *out = r->out + (size_t)i * width;
            if (!r->columns_first) {
                add_rows(scratch + (size_t)(from - b.from) * width, width, (int64_t)width, weight, count, out);
            } else {
                add_rows(r->from->rgb + (size_t)from * stride, stride, 3 * r->x.from, weight, count, scratch);
                along_row(&r->x, scratch, out);
            }
        }
    }
}

/* The rows of an axis that keeps its size: a weight of exactly 1 changes no byte. */
static void fill_same(axis *ax)
{
    for (int64_t i = 0; i < ax->to; i++) {
        ax->first[i] = (int32_t)i;
        ax->count[i] = 1;
        ax->weight[i * ax->most] = 1 << PRECISION;
    }
}

eg_status eg_image_resize(eg_pool *pool, const eg_picture *from, int64_t width, int64_t height, uint8_t *out, eg_error *err)
{
    resizing r = {.from = from, .x = {.from = from->width, .to = width}, .y = {.from = from->height, .to = height}, .out = out};
    const int64_t bands = (height + BAND - 1) / BAND;
    eg_arena arena = {NULL, 0};
    layout(&r.x, &arena);
    layout(&r.y, &arena);
    void *axes, *scratch = NULL;
    arena = eg_arena_open(arena.used, &axes);
    if (arena.base) {
        layout(&r.x, &arena);
        layout(&r.y, &arena);
        if (r.x.from != r.x.to) fill(&r.x);
        if (r.y.from != r.y.to) fill(&r.y);
        else fill_same(&r.y);
        int64_t rows = 0;
        for (int64_t i = 0; i < bands; i++) rows = eg_larger(rows, band_at(&r.y, i).count);
        r.columns_first = height < from->height && from->height - height > 2 * (from->width - width);
        r.room = 3 * (size_t)(r.columns_first ? from->width : rows * width);
        arena = (eg_arena){NULL, 0};
        eg_arena_take(&arena, eg_pool_threads(pool), r.room);
        r.scratch = eg_arena_open(arena.used, &scratch).base;
    }
    if (r.scratch) eg_pool_run(pool, band_task, &r, bands, 1);
    eg_arena_close(scratch);
    eg_arena_close(axes);
    return r.scratch ? EG_OK
                     : eg_fail(err, EG_ERROR_MEMORY, "no memory to resize a picture of %lld x %lld pixels.",
                               (long long)from->width, (long long)from->height);
}
