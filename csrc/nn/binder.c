/* Looks up tensors by name and checks their shapes and types; see binder.h. */
#include "binder.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void eg_owned_free(eg_owned *owned)
{
    for (size_t i = 0; i < owned->n; i++) free(owned->items[i]);
    free(owned->items);
    *owned = (eg_owned){0};
}

const eg_gguf_tensor *eg_bind_find(eg_binder *b, const char *name, bool required)
{
    if (b->status) return NULL;
    const eg_gguf_tensor *tensor = eg_gguf_find_tensor(b->file, name);
    if (!tensor) {
        if (required)
            b->status = eg_fail(b->err, EG_ERROR_FORMAT, "%s: the tensor '%s' is missing.", eg_gguf_name(b->file), name);
    } else if (!tensor->type) {
        char number[24];
        snprintf(number, sizeof number, "number %u", tensor->type_id);
        const char *type = eg_type_name(tensor->type_id);
        b->status = eg_fail(b->err, EG_ERROR_UNSUPPORTED,
                            "%s: the tensor '%s' has type %s, which this version cannot read; take the model in another "
                            "quantization, such as Q4_0 or Q4_K_M.",
                            eg_gguf_name(b->file), name, type ? type : number);
        tensor = NULL;
    }
    return tensor;
}

static bool has_shape(eg_binder *b, const eg_gguf_tensor *t, const char *name, const int64_t ne[4])
{
    if (!t) return false;
    if (t->dims[0] == ne[0] && t->dims[1] == ne[1] && t->dims[2] == ne[2] && t->dims[3] == ne[3]) return true;
    b->status = eg_fail(b->err, EG_ERROR_FORMAT,
                        "%s: the tensor '%s' has shape [%lld, %lld, %lld, %lld], but the metadata ask for "
                        "[%lld, %lld, %lld, %lld].",
                        eg_gguf_name(b->file), name, (long long)t->dims[0], (long long)t->dims[1], (long long)t->dims[2],
                        (long long)t->dims[3], (long long)ne[0], (long long)ne[1], (long long)ne[2], (long long)ne[3]);
    return false;
}

bool eg_bind_check(eg_binder *b, const eg_gguf_tensor *t, const char *name, const int64_t ne[4])
{
    if (!has_shape(b, t, name, ne)) return false;
    if (!eg_type_per_channel(t->type)) return true;
    b->status = eg_fail(b->err, EG_ERROR_UNSUPPORTED, "%s: the tensor '%s' has type %s, which only single matrices may have.",
                        eg_gguf_name(b->file), name, t->type->name);
    return false;
}

eg_matrix eg_matrix_from_tensor(const eg_gguf_tensor *t, int64_t first, int64_t rows)
{
    size_t stride = (size_t)(t->dims[0] / t->type->block) * t->type->bytes;
    return (eg_matrix){
        .data = t->data + (size_t)first * stride, .type = t->type, .rows = rows, .cols = t->dims[0], .row_bytes = stride};
}

/* The name of a tensor that accompanies the matrix "X.weight", such as "X.scale". */
static void belonging(char out[EG_TENSOR_NAME], const char *name, const char *what)
{
    const char *end = strrchr(name, '.');
    snprintf(out, EG_TENSOR_NAME, "%.*s.%s", (int)(end ? (size_t)(end - name) : strlen(name)), name, what);
}

/* The step X.input_scale or X.output_scale; 0 if the tensor is absent or says 0. */
static float bind_step(eg_binder *b, const char *name, const char *what)
{
    char step_name[EG_TENSOR_NAME];
    belonging(step_name, name, what);
    const float *step = eg_bind_find(b, step_name, false) ? eg_bind_vector(b, step_name, 1) : NULL;
    if (!step) return 0;
    if (*step >= 0 && *step <= 3.40282347e38f) return *step;
    b->status = eg_fail(b->err, EG_ERROR_FORMAT, "%s: the tensor '%s' is %g; it must be a number from 0 on.",
                        eg_gguf_name(b->file), step_name, (double)*step);
    return 0;
}

/* The scales and steps of w, which is "X.weight" of a per-channel type. Only a table may have several scales in a row. */
static void bind_channels(eg_binder *b, const char *name, eg_matrix *w, bool table)
{
    char scale_name[EG_TENSOR_NAME];
    belonging(scale_name, name, "scale");
    if (w->cols > EG_CHANNEL_COLS) {
        b->status = eg_fail(b->err, EG_ERROR_UNSUPPORTED,
                            "%s: the tensor '%s' of type %s has rows of %lld; at most %d can be "
                            "multiplied.",
                            eg_gguf_name(b->file), name, w->type->name, (long long)w->cols, EG_CHANNEL_COLS);
        return;
    }
    const eg_gguf_tensor *scale = eg_bind_find(b, scale_name, true);
    if (!scale) return;
    w->scales = 1;
    if (table && scale->n_dims > 1 && scale->dims[0] > 0 && w->cols % scale->dims[0] == 0) w->scales = scale->dims[0];
    bool one = scale->n_dims < 2;
    w->scale = eg_bind_floats(b, scale_name,
                              one ? (const int64_t[4]){w->rows, 1, 1, 1} : (const int64_t[4]){w->scales, w->rows, 1, 1});
    w->in_step = bind_step(b, name, "input_scale");
    w->out_step = bind_step(b, name, "output_scale");
}

static eg_matrix bind(eg_binder *b, const char *name, int64_t rows, int64_t cols, bool table)
{
    const eg_gguf_tensor *t = eg_bind_find(b, name, true);
    if (!has_shape(b, t, name, (const int64_t[4]){cols, rows, 1, 1})) return (eg_matrix){0};
    eg_matrix w = eg_matrix_from_tensor(t, 0, rows);
    if (eg_type_per_channel(w.type)) bind_channels(b, name, &w, table);
    return b->status ? (eg_matrix){0} : w;
}

eg_matrix eg_bind_matrix(eg_binder *b, const char *name, int64_t rows, int64_t cols)
{
    return bind(b, name, rows, cols, false);
}

eg_matrix eg_bind_table(eg_binder *b, const char *name, int64_t rows, int64_t cols) { return bind(b, name, rows, cols, true); }

eg_matrix eg_bind_projection(eg_binder *b, const char *name, const char *kind, int64_t hidden, int64_t cols)
{
    const eg_gguf_tensor *t = eg_bind_find(b, name, true);
    if (t && t->dims[1] != hidden)
        b->status = eg_fail(b->err, EG_ERROR_FORMAT,
                            "%s: these encoders are of another model: their %s tokens are %lld wide, and the model's are %lld.",
                            eg_gguf_name(b->file), kind, (long long)t->dims[1], (long long)hidden);
    return eg_bind_matrix(b, name, hidden, cols);
}

float *eg_bind_room(eg_binder *b, const char *name, int64_t n)
{
    eg_owned *owned = b->owned;
    void **items = realloc(owned->items, (owned->n + 1) * sizeof *items);
    if (items) owned->items = items;
    float *room = items ? calloc((size_t)n, sizeof *room) : NULL;
    if (!room) {
        b->status = eg_fail(b->err, EG_ERROR_MEMORY, "%s: out of memory for the tensor '%s'.", eg_gguf_name(b->file), name);
        return NULL;
    }
    owned->items[owned->n++] = room;
    owned->bytes += (uint64_t)n * sizeof *room;
    return room;
}

const float *eg_bind_floats(eg_binder *b, const char *name, const int64_t ne[4])
{
    const eg_gguf_tensor *t = eg_bind_find(b, name, true);
    if (!eg_bind_check(b, t, name, ne)) return NULL;
    if (t->type->id == EG_TYPE_F32 && (uintptr_t)t->data % _Alignof(float) == 0) return (const float *)(const void *)t->data;
    int64_t n = ne[0] * ne[1] * ne[2] * ne[3];
    float *copy = eg_bind_room(b, name, n);
    if (copy) eg_type_to_float(t->type, t->data, n, copy);
    return copy;
}

const float *eg_bind_vector(eg_binder *b, const char *name, int64_t n)
{
    return eg_bind_floats(b, name, (const int64_t[4]){n, 1, 1, 1});
}
