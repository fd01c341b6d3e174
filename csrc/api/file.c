/* The public eg_file_* functions: argument checks and lifetimes over the GGUF reader.
 *
 * Owns marks into the string arrays: reading any element walks at most MARK_STEP strings, in whatever order the caller reads.
 * Nothing changes after opening, so any thread may read. */
#include "../base/checked.h"
#include "../base/structs.h"
#include "../format/gguf.h"
#include "../nn/sidecar.h"

#include <stdlib.h>
#include <string.h>

enum { MARK_STEP = 16 };       /* strings between marks: 8 bytes of heap for 16 strings */

struct eg_file {
    eg_gguf *gguf;
    size_t *first_mark;        /* [values]: where a value's marks begin */
    const uint8_t **marks;     /* [all]: position of elements 0, MARK_STEP, 2 MARK_STEP... of every string value */
};

static eg_status null_argument(eg_error *err, const char *function)
{
    return eg_fail(err, EG_ERROR_ARGUMENT, "%s: a pointer that must be given is NULL.", function);
}

/* Walks every string value once; their lengths were checked when the file was opened. */
static bool make_marks(eg_file *file)
{
    size_t n_values = (size_t)eg_gguf_value_count(file->gguf), n_marks = 0, bytes;
    if (!eg_mul_size(n_values + 1, sizeof *file->first_mark, &bytes) || !(file->first_mark = malloc(bytes))) return false;
    for (size_t i = 0; i < n_values; i++) {
        const eg_gguf_value *value = eg_gguf_value_at(file->gguf, i);
        file->first_mark[i] = n_marks;
        if (value->type == EG_GGUF_STRING)   /* cannot overflow: every string took 8 bytes of address space */
            n_marks += (size_t)(value->count / MARK_STEP + 1);
    }
    if (!eg_mul_size(n_marks + 1, sizeof *file->marks, &bytes) || !(file->marks = malloc(bytes))) return false;
    for (size_t i = 0; i < n_values; i++) {
        const eg_gguf_value *value = eg_gguf_value_at(file->gguf, i);
        if (value->type != EG_GGUF_STRING) continue;
        const uint8_t *cursor = value->data, **mark = file->marks + file->first_mark[i];
        for (uint64_t element = 0; element < value->count; element++) {
            if (element % MARK_STEP == 0) *mark++ = cursor;
            eg_gguf_next_string(value, &cursor);
        }
    }
    return true;
}

eg_status eg_file_open(const eg_file_params *params, eg_file **out, eg_error *err)
{
    eg_file_params p;
    if (!out) return null_argument(err, "eg_file_open");
    eg_status status = eg_struct_read(params, &p, sizeof p, "eg_file_params", err);
    if (status) return status;
    eg_file *file = calloc(1, sizeof *file);
    if (!file) return eg_fail(err, EG_ERROR_MEMORY, "out of memory.");
    status = eg_gguf_open(p.path, p.fd, p.offset, p.length, true, &file->gguf, err);
    if (!status && !make_marks(file))
        status = eg_fail(err, EG_ERROR_MEMORY, "%s: out of memory for the index of the file.", eg_gguf_name(file->gguf));
    if (!status && p.guard) eg_gguf_guard(file->gguf);
    if (status) eg_file_close(file);
    else *out = file;
    return status;
}

eg_status eg_file_check(const eg_file *file, eg_error *err)
{
    return file ? eg_gguf_check(file->gguf, err) : null_argument(err, "eg_file_check");
}

void eg_file_close(eg_file *file)
{
    if (!file) return;
    eg_gguf_close(file->gguf);
    free(file->first_mark);
    free((void *)file->marks);
    free(file);
}

uint64_t eg_file_metadata_count(const eg_file *file) { return file ? eg_gguf_value_count(file->gguf) : 0; }

uint64_t eg_file_tensor_count(const eg_file *file) { return file ? eg_gguf_tensor_count(file->gguf) : 0; }

uint64_t eg_file_bytes(const eg_file *file) { return file ? eg_gguf_mapped_bytes(file->gguf) : 0; }

uint64_t eg_file_sidecar_digest(const eg_file *file) { return file ? eg_sidecar_digest(file->gguf) : 0; }

/* The metadata value, or NULL with the error written. */
static const eg_gguf_value *value_at(const eg_file *file, uint64_t index, eg_error *err)
{
    const eg_gguf_value *value = eg_gguf_value_at(file->gguf, index);
    if (!value)
        eg_fail(err, EG_ERROR_ARGUMENT, "%s: metadata value %llu was asked for, but there are only %llu.",
                eg_gguf_name(file->gguf), (unsigned long long)index, (unsigned long long)eg_gguf_value_count(file->gguf));
    return value;
}

static int shown(eg_span name) { return (int)(name.length < 120 ? name.length : 120); }

static eg_status check_element(const eg_file *file, const eg_gguf_value *value, uint64_t element, eg_error *err)
{
    if (value->type == EG_GGUF_ARRAY)
        return eg_fail(err, EG_ERROR_UNSUPPORTED, "%s: key '%.*s' is an array of arrays, which cannot be read.",
                       eg_gguf_name(file->gguf), shown(value->key), value->key.data);
    if (element >= value->count)
        return eg_fail(err, EG_ERROR_ARGUMENT, "%s: element %llu of key '%.*s' was asked for, but it has only %llu.",
                       eg_gguf_name(file->gguf), (unsigned long long)element, shown(value->key), value->key.data,
                       (unsigned long long)value->count);
    return EG_OK;
}

eg_status eg_file_get_metadata(const eg_file *file, uint64_t index, eg_file_metadata *out, eg_error *err)
{
    if (!file) return null_argument(err, "eg_file_get_metadata");
    eg_status status = eg_struct_check(out, "eg_file_metadata", err);
    if (status) return status;
    const eg_gguf_value *value = value_at(file, index, err);
    if (!value) return EG_ERROR_ARGUMENT;
    eg_file_metadata metadata = {.type = value->type,
                                 .key = value->key.data,
                                 .key_length = value->key.length,
                                 .count = value->count,
                                 .is_array = value->is_array};
    eg_struct_write(out, &metadata, sizeof metadata);
    return EG_OK;
}

eg_status eg_file_get_tensor(const eg_file *file, uint64_t index, eg_file_tensor *out, eg_error *err)
{
    if (!file) return null_argument(err, "eg_file_get_tensor");
    eg_status status = eg_struct_check(out, "eg_file_tensor", err);
    if (status) return status;
    const eg_gguf_tensor *tensor = eg_gguf_tensor_at(file->gguf, index);
    if (!tensor)
        return eg_fail(err, EG_ERROR_ARGUMENT, "%s: tensor %llu was asked for, but there are only %llu.",
                       eg_gguf_name(file->gguf), (unsigned long long)index,
                       (unsigned long long)eg_gguf_tensor_count(file->gguf));
    eg_file_tensor described = {.type = tensor->type_id,
                                .name = tensor->name.data,
                                .name_length = tensor->name.length,
                                .type_name = eg_type_name(tensor->type_id),
                                .data = tensor->data,
                                .bytes = tensor->bytes,
                                .n_dims = tensor->n_dims};
    for (int i = 0; i < 4; i++) described.dims[i] = (uint64_t)tensor->dims[i];
    eg_struct_write(out, &described, sizeof described);
    return EG_OK;
}

eg_status eg_file_get_number(const eg_file *file, uint64_t index, uint64_t element, double *out, eg_error *err)
{
    if (!file || !out) return null_argument(err, "eg_file_get_number");
    const eg_gguf_value *value = value_at(file, index, err);
    if (!value) return EG_ERROR_ARGUMENT;
    eg_status status = check_element(file, value, element, err);
    if (status) return status;
    if (value->type == EG_GGUF_STRING)
        return eg_fail(err, EG_ERROR_ARGUMENT, "%s: key '%.*s' is a string and not a number.", eg_gguf_name(file->gguf),
                       shown(value->key), value->key.data);
    *out = eg_gguf_number(value, element);
    return EG_OK;
}

eg_status eg_file_get_string(const eg_file *file, uint64_t index, uint64_t element, const char **text, size_t *length,
                             eg_error *err)
{
    if (!file || !text || !length) return null_argument(err, "eg_file_get_string");
    const eg_gguf_value *value = value_at(file, index, err);
    if (!value) return EG_ERROR_ARGUMENT;
    eg_status status = check_element(file, value, element, err);
    if (status) return status;
    if (value->type != EG_GGUF_STRING)
        return eg_fail(err, EG_ERROR_ARGUMENT, "%s: key '%.*s' is a number and not a string.", eg_gguf_name(file->gguf),
                       shown(value->key), value->key.data);
    const uint8_t *cursor = file->marks[file->first_mark[index] + (size_t)(element / MARK_STEP)];
    eg_span string = eg_gguf_next_string(value, &cursor);
    for (uint64_t i = element / MARK_STEP * MARK_STEP; i < element; i++) string = eg_gguf_next_string(value, &cursor);
    *text = string.data;
    *length = string.length;
    return EG_OK;
}
