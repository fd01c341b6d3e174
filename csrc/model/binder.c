/* Looks tensors up and checks them. */
#include "binder.h"

#include <stdlib.h>

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
        b->status = eg_fail(b->err, EG_ERROR_UNSUPPORTED,
                            "%s: the tensor '%s' has type number %u, which this version does not know.",
                            eg_gguf_name(b->file), name, tensor->type_id);
        tensor = NULL;
    }
    return tensor;
}

bool eg_bind_check(eg_binder *b, const eg_gguf_tensor *t, const char *name, const int64_t ne[4])
{
    if (!t) return false;
    if (t->dims[0] == ne[0] && t->dims[1] == ne[1] && t->dims[2] == ne[2] && t->dims[3] == ne[3]) return true;
    b->status = eg_fail(b->err, EG_ERROR_FORMAT,
                        "%s: the tensor '%s' has shape [%lld, %lld, %lld, %lld], but the metadata ask for "
                        "[%lld, %lld, %lld, %lld].", eg_gguf_name(b->file), name, (long long)t->dims[0],
                        (long long)t->dims[1], (long long)t->dims[2], (long long)t->dims[3], (long long)ne[0],
                        (long long)ne[1], (long long)ne[2], (long long)ne[3]);
    return false;
}

eg_matrix eg_matrix_rows(const eg_gguf_tensor *t, int64_t first, int64_t rows)
{
    size_t stride = (size_t)(t->dims[0] / t->type->block) * t->type->bytes;
    return (eg_matrix){t->data + (size_t)first * stride, t->type, rows, t->dims[0], stride};
}

eg_matrix eg_bind_matrix(eg_binder *b, const char *name, int64_t rows, int64_t cols)
{
    const eg_gguf_tensor *t = eg_bind_find(b, name, true);
    return eg_bind_check(b, t, name, (const int64_t[4]){cols, rows, 1, 1}) ? eg_matrix_rows(t, 0, rows) : (eg_matrix){0};
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
