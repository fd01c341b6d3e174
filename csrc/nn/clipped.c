/* Binds and applies the bounds of clipped matrices; see clipped.h. */
#include "clipped.h"

#include <math.h>
#include <stdio.h>

static void bind_bounds(eg_binder *b, const char *matrix, const char *which, float bounds[2])
{
    static const char *const suffix[] = {"min", "max"};
    for (int i = 0; i < 2; i++) {
        char name[EG_TENSOR_NAME];
        snprintf(name, sizeof name, "%s.%s_%s", matrix, which, suffix[i]);
        const float *value = eg_bind_find(b, name, false) ? eg_bind_vector(b, name, 1) : NULL;
        bounds[i] = value ? *value : i ? INFINITY : -INFINITY;
    }
}

eg_clipped eg_bind_clipped(eg_binder *b, const char *matrix, int64_t rows, int64_t cols)
{
    eg_clipped out;
    char name[EG_TENSOR_NAME];
    snprintf(name, sizeof name, "%s.weight", matrix);
    out.w = eg_bind_matrix(b, name, rows, cols);
    bind_bounds(b, matrix, "input", out.in);
    bind_bounds(b, matrix, "output", out.out);
    return out;
}

void eg_clamp(float *x, int64_t n, const float bounds[2])
{
    const float low = bounds[0], high = bounds[1];
    for (int64_t i = 0; i < n; i++) {   /* as a maximum and a minimum, which are one instruction each */
        const float above = x[i] < low ? low : x[i];
        x[i] = above > high ? high : above;
    }
}
