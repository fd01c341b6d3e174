/* GGUF reader. Owns the container format: header, metadata, tensor directory, split files. The meaning of keys and tensors,
 * block formats (types.c) and file mapping (base/map.c) are not its concern.
 *
 *     "GGUF", u32 version, u64 tensors, u64 keys
 *     key:     string, u32 type, value          string: u64 length, bytes     array: u32 type, u64 count, elements
 *     tensor:  string, u32 n_dims, u64 dims[n_dims], u32 type, u64 offset
 *     data:    from the next multiple of general.alignment (32) on; offsets count from there
 *
 * Every number in a file is checked against the bytes that are there before it is used, and no allocation is proportional to
 * an unchecked number. Names are found through sorted indexes and not by hashing, so no choice of names can make opening
 * slow. */
#include "gguf.h"

#include "../base/checked.h"
#include "gguf_file.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_KEY = 65535,           /* the format's limit */
    MAX_TENSOR_NAME = 1024,    /* writers stop at 64 or 128 */
    MAX_DEPTH = 8,             /* of nested arrays, which are checked and skipped */
    MAX_NAME_SHOWN = 120,      /* bytes of a key or a path in a message, so that the rest of the message fits */
    MIN_KEY_BYTES = 8 + 4 + 1,
    MIN_TENSOR_BYTES = 8 + 4 + 4 + 8
};
#define MAX_ALIGNMENT (1u << 20)
#define DEFAULT_ALIGNMENT 32u
#define PART_SUFFIX_LENGTH 20  /* "-00001-of-00003.gguf" */

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

static uint64_t load(const uint8_t *at, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; i++) value |= (uint64_t)at[i] << (8 * i);
    return value;
}

static uint64_t load_u64(const uint8_t *at) { return load(at, 8); }

/* Bytes of a number of this type; 0 for strings, arrays and unknown types. */
static size_t number_size(uint32_t type)
{
    static const uint8_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < sizeof sizes ? sizes[type] : 0;
}

/* Reads one part from front to end; `name` is the file's name for messages. */
typedef struct reader {
    const char *name;
    const uint8_t *begin, *at, *end;
    eg_error *err;
} reader;

static uint64_t left(const reader *r) { return (uint64_t)(r->end - r->at); }

/* The next n bytes; NULL if fewer are left. */
static const uint8_t *read_bytes(reader *r, uint64_t n)
{
    if (n > left(r)) return NULL;
    const uint8_t *at = r->at;
    r->at += n;
    return at;
}

static bool read_u32(reader *r, uint32_t *out)
{
    const uint8_t *at = read_bytes(r, 4);
    if (at) *out = (uint32_t)load(at, 4);
    return at != NULL;
}

static bool read_u64(reader *r, uint64_t *out)
{
    const uint8_t *at = read_bytes(r, 8);
    if (at) *out = load_u64(at);
    return at != NULL;
}

static bool read_string(reader *r, eg_span *out)
{
    uint64_t length;
    if (!read_u64(r, &length) || length > left(r)) return false;
    *out = (eg_span){(const char *)read_bytes(r, length), (size_t)length};
    return true;
}

static int shown(eg_span name) { return (int)(name.length < MAX_NAME_SHOWN ? name.length : MAX_NAME_SHOWN); }

static eg_status no_memory(const char *name, eg_error *err)
{
    return eg_fail(err, EG_ERROR_MEMORY, "%s: out of memory for the index of the file.", name);
}

/* ---- sorted indexes ---------------------------------------------------------------------------------------------- */

/* For eg_gguf_value and eg_gguf_tensor: both structs begin with their name. */
static int compare_names(const void *a, const void *b)
{
    const eg_span *x = a, *y = b;
    size_t common = x->length < y->length ? x->length : y->length;
    int order = common ? memcmp(x->data, y->data, common) : 0;
    return order ? order : (x->length > y->length) - (x->length < y->length);
}

static int compare_data(const void *a, const void *b)
{
    const eg_gguf_tensor *x = a, *y = b;
    return (x->data > y->data) - (x->data < y->data);
}

/* Heapsort: O(n log n) for every input, in place; qsort guarantees neither. */
static void sort(const void **items, size_t n, int (*compare)(const void *, const void *))
{
    size_t start = n / 2, end = n;
    while (end > 1) {
        const void *moving;
        if (start > 0) {
            moving = items[--start];
        } else {
            moving = items[--end];
            items[end] = items[0];
        }
        size_t root = start, child;
        while ((child = 2 * root + 1) < end) {
            if (child + 1 < end && compare(items[child], items[child + 1]) < 0) child++;
            if (compare(moving, items[child]) >= 0) break;
            items[root] = items[child];
            root = child;
        }
        items[root] = moving;
    }
}

/* A sorted array of pointers to the n items, at least one element long; NULL without memory. */
static const void **make_index(const void *items, size_t n, size_t item_size, int (*compare)(const void *, const void *))
{
    size_t bytes;
    if (!eg_mul_size(n ? n : 1, sizeof(void *), &bytes)) return NULL;
    const void **index = malloc(bytes);
    if (!index) return NULL;
    for (size_t i = 0; i < n; i++) index[i] = (const char *)items + i * item_size;
    sort(index, n, compare);
    return index;
}

static const void *find(const void *const *index, size_t n, const char *name)
{
    eg_span key = {name, strlen(name)};
    for (size_t low = 0, high = n; low < high;) {
        size_t middle = low + (high - low) / 2;
        int order = compare_names(&key, index[middle]);
        if (order == 0) return index[middle];
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return NULL;
}

/* The items with room for one more; NULL without memory, and the old array stays valid. */
static void *grow(void *items, size_t count, size_t *capacity, size_t item_size)
{
    if (count < *capacity) return items;
    size_t more = *capacity ? *capacity : 32, bytes;
    if (!eg_add_size(*capacity, more, &more) || !eg_mul_size(more, item_size, &bytes)) return NULL;
    void *moved = realloc(items, bytes);
    if (moved) *capacity = more;
    return moved;
}

static void free_values(value_list *list)
{
    free(list->items);
    free((void *)list->by_key);
    memset(list, 0, sizeof *list);
}

/* ---- metadata ---------------------------------------------------------------------------------------------------- */

typedef enum skip_result { SKIPPED, ENDED, BAD_TYPE, TOO_DEEP } skip_result;

/* Moves past `count` values of a type. *seen: the innermost type, which an error message names. */
static skip_result skip(reader *r, uint32_t type, uint64_t count, int depth, uint32_t *seen)
{
    *seen = type;
    if (type == EG_GGUF_STRING) {
        eg_span text;
        for (uint64_t i = 0; i < count; i++)
            if (!read_string(r, &text)) return ENDED;
        return SKIPPED;
    }
    if (type == EG_GGUF_ARRAY) {
        if (depth == MAX_DEPTH) return TOO_DEEP;
        for (uint64_t i = 0; i < count; i++) {
            uint32_t inner;
            uint64_t n;
            if (!read_u32(r, &inner) || !read_u64(r, &n)) return ENDED;
            skip_result result = skip(r, inner, n, depth + 1, seen);
            if (result) return result;
        }
        return SKIPPED;
    }
    uint64_t bytes;
    if (!number_size(type)) return BAD_TYPE;
    return eg_mul_u64(count, number_size(type), &bytes) && read_bytes(r, bytes) ? SKIPPED : ENDED;
}

static eg_status read_value(reader *r, uint64_t index, uint64_t count, eg_gguf_value *out)
{
    eg_gguf_value value = {.count = 1};
    bool here = read_string(r, &value.key);
    if (here && value.key.length > MAX_KEY)
        return eg_fail(r->err, EG_ERROR_FORMAT,
                       "%s: the name of metadata key %llu of %llu is %llu bytes long; at most "
                       "%d are allowed.",
                       r->name, (unsigned long long)index + 1, (unsigned long long)count, (unsigned long long)value.key.length,
                       MAX_KEY);
    if (!here)
        return eg_fail(r->err, EG_ERROR_FORMAT,
                       "%s: the file ends inside metadata key %llu of %llu, which begins "
                       "before byte %llu: it is truncated or damaged; download it again.",
                       r->name, (unsigned long long)index + 1, (unsigned long long)count,
                       (unsigned long long)(r->at - r->begin));
    here = read_u32(r, &value.type);
    if (here && value.type == EG_GGUF_ARRAY) {
        value.is_array = true;
        here = read_u32(r, &value.type) && read_u64(r, &value.count);
    }
    uint32_t seen = value.type;
    value.data = r->at;
    skip_result result = here ? skip(r, value.type, value.count, value.is_array, &seen) : ENDED;
    value.end = r->at;
    if (result == ENDED)
        return eg_fail(r->err, EG_ERROR_FORMAT,
                       "%s: the file ends inside the value of key '%.*s': it is truncated or "
                       "damaged; download it again.",
                       r->name, shown(value.key), value.key.data);
    if (result == BAD_TYPE)
        return eg_fail(r->err, EG_ERROR_FORMAT,
                       "%s: key '%.*s' has values of type %lu, which GGUF does not define: "
                       "the file is damaged; download it again.",
                       r->name, shown(value.key), value.key.data, (unsigned long)seen);
    if (result == TOO_DEEP)
        return eg_fail(r->err, EG_ERROR_UNSUPPORTED, "%s: key '%.*s' nests arrays more than %d deep.", r->name,
                       shown(value.key), value.key.data, MAX_DEPTH);
    *out = value;
    return EG_OK;
}

static eg_status read_values(reader *r, uint64_t count, value_list *list)
{
    if (count > left(r) / MIN_KEY_BYTES)
        return eg_fail(r->err, EG_ERROR_FORMAT,
                       "%s: the header promises %llu metadata keys, more than the file's %llu "
                       "bytes can hold: it is truncated or damaged; download it again.",
                       r->name, (unsigned long long)count, (unsigned long long)(r->end - r->begin));
    for (uint64_t i = 0; i < count; i++) {
        eg_gguf_value *items = grow(list->items, list->count, &list->capacity, sizeof *items);
        if (!items) return no_memory(r->name, r->err);
        list->items = items;
        eg_status status = read_value(r, i, count, &list->items[list->count]);
        if (status) return status;
        list->count++;
    }
    list->by_key = (const eg_gguf_value **)make_index(list->items, list->count, sizeof *list->items, compare_names);
    if (!list->by_key) return no_memory(r->name, r->err);
    for (size_t i = 1; i < list->count; i++) {
        const eg_gguf_value *value = list->by_key[i];
        if (compare_names(value, list->by_key[i - 1]) == 0)
            return eg_fail(r->err, EG_ERROR_FORMAT, "%s: key '%.*s' appears twice: the file is damaged.", r->name,
                           shown(value->key), value->key.data);
    }
    return EG_OK;
}

static const eg_gguf_value *find_value(const value_list *list, const char *key)
{
    return find((const void *const *)list->by_key, list->count, key);
}

/* Reads an integer key of any width. If the key is absent, *present is false and *out is untouched. */
static eg_status read_integer(const char *name, const value_list *list, const char *key, uint64_t *out, bool *present,
                              eg_error *err)
{
    const eg_gguf_value *value = find_value(list, key);
    *present = value != NULL;
    if (!value) return EG_OK;
    bool is_signed = value->type == EG_GGUF_I8 || value->type == EG_GGUF_I16 || value->type == EG_GGUF_I32 ||
                     value->type == EG_GGUF_I64;
    bool is_unsigned = value->type == EG_GGUF_U8 || value->type == EG_GGUF_U16 || value->type == EG_GGUF_U32 ||
                       value->type == EG_GGUF_U64;
    size_t size = number_size(value->type);
    if (value->is_array || (!is_signed && !is_unsigned) || (is_signed && value->data[size - 1] & 0x80))
        return eg_fail(err, EG_ERROR_FORMAT, "%s: key '%s' must be a whole number that is not negative.", name, key);
    *out = load(value->data, size);
    return EG_OK;
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

/* Reads one directory entry. *offset counts from the beginning of the data section, which is not known yet. */
static eg_status read_tensor(reader *r, uint64_t index, uint64_t count, uint64_t alignment, eg_gguf_tensor *out,
                             uint64_t *offset)
{
    eg_gguf_tensor tensor = {.dims = {1, 1, 1, 1}};
    bool here = read_string(r, &tensor.name);
    if (here && tensor.name.length > MAX_TENSOR_NAME)
        return eg_fail(r->err, EG_ERROR_FORMAT,
                       "%s: the name of tensor %llu of %llu is %llu bytes long; at most %d "
                       "are allowed.",
                       r->name, (unsigned long long)index + 1, (unsigned long long)count,
                       (unsigned long long)tensor.name.length, MAX_TENSOR_NAME);
    here = here && read_u32(r, &tensor.n_dims);
    if (here && tensor.n_dims > 4)
        return eg_fail(r->err, EG_ERROR_FORMAT, "%s: tensor '%.*s' has %lu dimensions; GGUF allows 4.", r->name,
                       shown(tensor.name), tensor.name.data, (unsigned long)tensor.n_dims);
    uint64_t elements = 1, product = 1;   /* product: without zeros, which could hide an overflow */
    bool fits = true;
    for (uint32_t i = 0; here && i < tensor.n_dims; i++) {
        uint64_t n = 0;
        here = read_u64(r, &n);
        fits = fits && n <= INT64_MAX && eg_mul_u64(product, n ? n : 1, &product) && product <= INT64_MAX;
        elements = fits ? elements * n : 0;
        tensor.dims[i] = (int64_t)(n & INT64_MAX);
    }
    here = here && read_u32(r, &tensor.type_id) && read_u64(r, offset);
    if (!here)
        return eg_fail(r->err, EG_ERROR_FORMAT,
                       "%s: the file ends inside the directory entry of tensor %llu of %llu: "
                       "it is truncated or damaged; download it again.",
                       r->name, (unsigned long long)index + 1, (unsigned long long)count);
    tensor.type = eg_type_find(tensor.type_id);
    if (tensor.type && tensor.dims[0] % tensor.type->block)
        return eg_fail(r->err, EG_ERROR_FORMAT,
                       "%s: tensor '%.*s' has rows of %lld values, but %s comes in blocks of "
                       "%d: the file is damaged.",
                       r->name, shown(tensor.name), tensor.name.data, (long long)tensor.dims[0], tensor.type->name,
                       tensor.type->block);
    if (tensor.type && fits) fits = eg_mul_u64(elements / tensor.type->block, tensor.type->bytes, &tensor.bytes);
    if (!fits)
        return eg_fail(r->err, EG_ERROR_FORMAT,
                       "%s: the dimensions of tensor '%.*s' are too large to multiply: the "
                       "file is damaged.",
                       r->name, shown(tensor.name), tensor.name.data);
    if (*offset & (alignment - 1))
        return eg_fail(r->err, EG_ERROR_FORMAT,
                       "%s: tensor '%.*s' begins at byte %llu of the data, which is not a "
                       "multiple of the file's alignment, %llu: the file is damaged.",
                       r->name, shown(tensor.name), tensor.name.data, (unsigned long long)*offset,
                       (unsigned long long)alignment);
    *out = tensor;
    return EG_OK;
}

/* Checks that no two tensors of one part, [first, count) of the list, share a byte. */
static eg_status check_overlap(const reader *r, const tensor_list *list, size_t first)
{
    size_t n = list->count - first;
    if (n == 0) return EG_OK;
    const void **index = make_index(list->items + first, n, sizeof *list->items, compare_data);
    if (!index) return no_memory(r->name, r->err);
    const eg_gguf_tensor *before = NULL, *clash = NULL;
    for (size_t i = 0; i < n && !clash; i++) {
        const eg_gguf_tensor *tensor = index[i];
        if (!tensor->bytes) continue;          /* empty, or of unknown size */
        if (before && before->bytes > (uint64_t)(tensor->data - before->data)) clash = tensor;
        else before = tensor;
    }
    free((void *)index);
    if (!clash) return EG_OK;
    return eg_fail(r->err, EG_ERROR_FORMAT, "%s: tensors '%.*s' and '%.*s' overlap in the data: the file is damaged.", r->name,
                   shown(before->name), before->name.data, shown(clash->name), clash->name.data);
}

static eg_status read_tensors(reader *r, uint64_t count, uint64_t alignment, tensor_list *list)
{
    if (count > left(r) / MIN_TENSOR_BYTES)
        return eg_fail(r->err, EG_ERROR_FORMAT,
                       "%s: the header promises %llu tensors, more than the file's %llu bytes "
                       "can hold: it is truncated or damaged; download it again.",
                       r->name, (unsigned long long)count, (unsigned long long)(r->end - r->begin));
    size_t first = list->count;
    uint64_t *offsets = NULL;
    size_t n_offsets = 0, capacity = 0;
    eg_status status = EG_OK;
    for (uint64_t i = 0; i < count && !status; i++) {
        eg_gguf_tensor *items = grow(list->items, list->count, &list->capacity, sizeof *items);
        if (items) list->items = items;
        uint64_t *more_offsets = grow(offsets, n_offsets, &capacity, sizeof *offsets);
        if (more_offsets) offsets = more_offsets;
        if (!items || !more_offsets) status = no_memory(r->name, r->err);
        else status = read_tensor(r, i, count, alignment, &list->items[list->count], &offsets[n_offsets]);
        if (!status) list->count++, n_offsets++;
    }
    uint64_t size = (uint64_t)(r->end - r->begin), start = 0;
    if (!status && !eg_align_u64((uint64_t)(r->at - r->begin), alignment, &start)) status = no_memory(r->name, r->err);
    for (size_t i = 0; i < n_offsets && !status; i++) {
        eg_gguf_tensor *tensor = &list->items[first + i];
        uint64_t begin, end;
        bool fits = eg_add_u64(start, offsets[i], &begin) && eg_add_u64(begin, tensor->bytes, &end);
        if (!fits)
            status = eg_fail(r->err, EG_ERROR_FORMAT,
                             "%s: the offset of tensor '%.*s' is beyond any file: the file is "
                             "damaged.",
                             r->name, shown(tensor->name), tensor->name.data);
        else if (end > size && (tensor->bytes || tensor->type == NULL))
            status = eg_fail(r->err, EG_ERROR_FORMAT,
                             "%s: tensor '%.*s' ends at byte %llu but the file has only %llu: "
                             "it is truncated; download it again.",
                             r->name, shown(tensor->name), tensor->name.data, (unsigned long long)end,
                             (unsigned long long)size);
        else if (tensor->type)
            tensor->data = r->begin + (begin < size ? begin : size);   /* the end, if the tensor has no values */
    }
    free(offsets);
    return status ? status : check_overlap(r, list, first);
}

/* ---- parts ------------------------------------------------------------------------------------------------------- */

static bool begins_with(const eg_map *map, const char *text)
{
    size_t length = strlen(text);
    return map->length >= length && memcmp(map->data, text, length) == 0;
}

static eg_status check_magic(const eg_map *map, const char *name, eg_error *err)
{
    if (begins_with(map, "version https://git-lfs"))
        return eg_fail(err, EG_ERROR_FORMAT,
                       "%s: this is a Git LFS pointer and not the model itself; fetch it with "
                       "'git lfs pull'.",
                       name);
    if (begins_with(map, "<"))
        return eg_fail(err, EG_ERROR_FORMAT, "%s: this is a web page and not a GGUF file; download it again.", name);
    if (!begins_with(map, "GGUF"))
        return eg_fail(err, EG_ERROR_FORMAT, "%s: this is not a GGUF file: it does not begin with 'GGUF'.", name);
    if (map->length < 24)
        return eg_fail(err, EG_ERROR_FORMAT, "%s: the file ends inside its header: it is truncated; download it again.", name);
    uint32_t version = (uint32_t)load(map->data + 4, 4);
    if (version && !(version & 0xffff))
        return eg_fail(err, EG_ERROR_UNSUPPORTED, "%s: this is a big-endian GGUF file; convert it to little-endian.", name);
    if (version == 1)
        return eg_fail(err, EG_ERROR_UNSUPPORTED,
                       "%s: this is a GGUF file of version 1, which is no longer read; "
                       "convert the model anew.",
                       name);
    if (version != 2 && version != 3)
        return eg_fail(err, EG_ERROR_UNSUPPORTED,
                       "%s: this is a GGUF file of version %lu; this program reads versions "
                       "2 and 3.",
                       name, (unsigned long)version);
    return EG_OK;
}

/* Reads one mapped part: its keys into *values; appends its tensors to those of the parts before it. */
static eg_status read_part(const eg_map *map, const char *name, value_list *values, tensor_list *tensors, eg_error *err)
{
    eg_status status = check_magic(map, name, err);
    if (status) return status;
    reader r = {.name = name, .begin = map->data, .at = map->data + 8, .end = map->data + map->length, .err = err};
    uint64_t n_tensors = 0, n_values = 0, alignment = DEFAULT_ALIGNMENT;
    bool present;
    read_u64(&r, &n_tensors);
    read_u64(&r, &n_values);
    if ((status = read_values(&r, n_values, values)) ||
        (status = read_integer(name, values, "general.alignment", &alignment, &present, err)))
        return status;
    if (!eg_is_power_of_two(alignment) || alignment > MAX_ALIGNMENT)
        return eg_fail(err, EG_ERROR_FORMAT,
                       "%s: key 'general.alignment' is %llu; it must be a power of two and at "
                       "most %u.",
                       name, (unsigned long long)alignment, MAX_ALIGNMENT);
    return read_tensors(&r, n_tensors, alignment, tensors);
}

/* A copy of a path for messages, without its beginning if it is longer than MAX_NAME_SHOWN. */
static char *display_name(const char *path)
{
    size_t length = strlen(path), from = length > MAX_NAME_SHOWN ? length - MAX_NAME_SHOWN : 0;
    while (from && ((unsigned char)path[from] & 0xc0) == 0x80) from++;                /* begin at a whole character */
    char *name = malloc(length - from + 4);
    if (name) {
        memcpy(name, "...", 3);
        memcpy(name + (from ? 3 : 0), path + from, length - from + 1);
    }
    return name;
}

static void part_suffix(char out[PART_SUFFIX_LENGTH + 1], unsigned part, unsigned count)
{
    snprintf(out, PART_SUFFIX_LENGTH + 1, "-%05u-of-%05u.gguf", part % 100000, count % 100000);
}

static bool ends_with(const char *text, const char *suffix)
{
    size_t n = strlen(text), m = strlen(suffix);
    return n >= m && strcmp(text + n - m, suffix) == 0;
}

/* What a part says about its split file: the number of this part (from 0), and how many parts and tensors there are. */
typedef struct split {
    uint64_t number, count, tensors;
    bool has_number, has_count, has_tensors;
} split;

static eg_status read_split(const char *name, const value_list *values, split *out, eg_error *err)
{
    memset(out, 0, sizeof *out);
    eg_status status = read_integer(name, values, "split.count", &out->count, &out->has_count, err);
    if (!status) status = read_integer(name, values, "split.no", &out->number, &out->has_number, err);
    if (!status) status = read_integer(name, values, "split.tensors.count", &out->tensors, &out->has_tensors, err);
    return status;
}

/* Maps and reads part `part` (from 1) of `count`, in the folder of the first part. */
static eg_status open_part(eg_gguf *file, const char *path, unsigned part, unsigned count, eg_error *err)
{
    char suffix[PART_SUFFIX_LENGTH + 1];
    part_suffix(suffix, part, count);
    size_t stem = strlen(path) - PART_SUFFIX_LENGTH;
    char *part_path = malloc(stem + sizeof suffix);
    char *name = NULL;
    if (part_path) {
        memcpy(part_path, path, stem);
        memcpy(part_path + stem, suffix, sizeof suffix);
        name = display_name(part_path);
    }
    eg_map *maps = realloc(file->maps, (file->n_maps + 1) * sizeof *maps);
    if (maps) file->maps = maps;
    value_list values = {0};
    eg_status status;
    eg_error local = {.struct_size = sizeof local};
    split place;
    if (!name || !maps) {
        status = no_memory(file->name, err);
    } else if ((status = eg_map_path(part_path, name, &maps[file->n_maps], &local))) {
        size_t length = strlen(local.message);
        status = eg_fail(err, status,
                         "%.*s; it is part %u of %u of a split file, whose parts must all be in one "
                         "folder.",
                         (int)(length && local.message[length - 1] == '.' ? length - 1 : length), local.message, part, count);
    } else {
        file->n_maps++;
        if (file->guarded) eg_map_guard(&maps[file->n_maps - 1], maps[file->n_maps - 1].data);
        status = read_part(&maps[file->n_maps - 1], name, &values, &file->tensors, err);
        if (!status) status = read_split(name, &values, &place, err);
        if (!status && (!place.has_number || !place.has_count || place.number != part - 1 || place.count != count))
            status = eg_fail(err, EG_ERROR_FORMAT,
                             "%s: by its name this is part %u of %u, but its keys 'split.no' and "
                             "'split.count' say otherwise: the parts are mixed up.",
                             name, part, count);
    }
    free_values(&values);
    free(name);
    free(part_path);
    return status;
}

static eg_status open_further_parts(eg_gguf *file, const char *path, eg_error *err)
{
    split place;
    char suffix[PART_SUFFIX_LENGTH + 1];
    eg_status status = read_split(file->name, &file->values, &place, err);
    if (status || place.count <= 1) return status;
    if (place.count > 99999 || place.number >= place.count || !place.has_number)
        return eg_fail(err, EG_ERROR_FORMAT,
                       "%s: keys 'split.no' and 'split.count' do not name a part of a split "
                       "file: the file is damaged.",
                       file->name);
    unsigned count = (unsigned)place.count, number = (unsigned)place.number + 1;
    part_suffix(suffix, 1, count);
    if (number != 1)
        return eg_fail(err, EG_ERROR_ARGUMENT,
                       "%s: this is part %u of %u of a split file; open the first part, whose "
                       "name ends in '%s'.",
                       file->name, number, count, suffix);
    if (!path)
        return eg_fail(err, EG_ERROR_UNSUPPORTED,
                       "%s: this is a split file of %u parts, which cannot be opened by a "
                       "descriptor; open it by its path, or merge the parts.",
                       file->name, count);
    if (!ends_with(path, suffix))
        return eg_fail(err, EG_ERROR_FILE,
                       "%s: this is the first of %u parts of a split file, but its name does not "
                       "end in '%s', so the others cannot be found; give the parts their names back.",
                       file->name, count, suffix);
    for (unsigned part = 2; part <= count; part++)
        if ((status = open_part(file, path, part, count, err))) return status;
    if (place.has_tensors && place.tensors != file->tensors.count)
        return eg_fail(err, EG_ERROR_FORMAT,
                       "%s: key 'split.tensors.count' promises %llu tensors, but the %u parts "
                       "have %llu together: the parts do not belong to one model.",
                       file->name, (unsigned long long)place.tensors, count, (unsigned long long)file->tensors.count);
    return EG_OK;
}

static eg_status index_tensors(eg_gguf *file, eg_error *err)
{
    tensor_list *list = &file->tensors;
    list->by_name = (const eg_gguf_tensor **)make_index(list->items, list->count, sizeof *list->items, compare_names);
    if (!list->by_name) return no_memory(file->name, err);
    for (size_t i = 1; i < list->count; i++) {
        const eg_gguf_tensor *tensor = list->by_name[i];
        if (compare_names(tensor, list->by_name[i - 1]) == 0)
            return eg_fail(err, EG_ERROR_FORMAT, "%s: tensor '%.*s' appears twice: the file is damaged.", file->name,
                           shown(tensor->name), tensor->name.data);
    }
    return EG_OK;
}

eg_status eg_gguf_open(const char *path, int fd, uint64_t offset, uint64_t length, bool guarded, eg_gguf **out, eg_error *err)
{
    char fd_name[32];
    snprintf(fd_name, sizeof fd_name, "fd %d", fd);
    eg_gguf *file = calloc(1, sizeof *file);
    if (file) {
        file->name = display_name(path ? path : fd_name);
        file->maps = calloc(1, sizeof *file->maps);
    }
    eg_status status;
    if (!file || !file->name || !file->maps) status = no_memory(path ? path : fd_name, err);
    else if (path) status = eg_map_path(path, file->name, file->maps, err);
    else status = eg_map_fd(fd, offset, length, file->name, file->maps, err);
    if (!status) {
        file->n_maps = 1;
        file->guarded = guarded;
        if (guarded) eg_map_guard(file->maps, file->maps->data);
        status = read_part(file->maps, file->name, &file->values, &file->tensors, err);
    }
    if (!status) status = open_further_parts(file, path, err);
    if (!status) status = index_tensors(file, err);
    if (file && eg_gguf_failed(file)) status = eg_gguf_check(file, err);   /* whatever the zeros were taken for */
    for (size_t i = 0; file && i < file->n_maps; i++) eg_map_unguard(&file->maps[i]);
    if (status) eg_gguf_close(file);
    else *out = file;
    return status;
}

eg_status eg_gguf_join(eg_gguf *file, eg_gguf *other, eg_error *err)
{
    const tensor_list before = file->tensors, *more = &other->tensors;
    size_t capacity;
    eg_gguf_tensor *items = NULL;
    if (eg_add_size(before.count, more->count, &capacity)) items = calloc(capacity ? capacity : 1, sizeof *items);
    if (!items) return no_memory(file->name, err);
    for (size_t i = 0; i < capacity; i++) items[i] = i < before.count ? before.items[i] : more->items[i - before.count];
    file->tensors = (tensor_list){.items = items, .count = capacity, .capacity = capacity};
    eg_status status = index_tensors(file, err);
    tensor_list unused = status ? file->tensors : before;
    if (status) file->tensors = before;
    else file->joined = other;
    free(unused.items);
    free((void *)unused.by_name);
    return status;
}

bool eg_gguf_is_joined(const eg_gguf *file) { return file->joined != NULL; }

void eg_gguf_close(eg_gguf *file)
{
    if (!file) return;
    eg_gguf_close(file->joined);
    for (size_t i = 0; i < file->n_maps; i++) eg_map_close(&file->maps[i]);
    free(file->maps);
    free(file->name);
    free_values(&file->values);
    free(file->tensors.items);
    free((void *)file->tensors.by_name);
    free(file);
}

/* ---- access ------------------------------------------------------------------------------------------------------ */

const char *eg_gguf_name(const eg_gguf *file) { return file->name; }

uint64_t eg_gguf_heap_bytes(const eg_gguf *file)
{
    return sizeof *file + strlen(file->name) + 1 + file->n_maps * sizeof *file->maps +
           file->values.capacity * sizeof *file->values.items + file->values.count * sizeof *file->values.by_key +
           file->tensors.capacity * sizeof *file->tensors.items + file->tensors.count * sizeof *file->tensors.by_name +
           (file->joined ? eg_gguf_heap_bytes(file->joined) : 0);
}

uint64_t eg_gguf_value_count(const eg_gguf *file) { return file->values.count; }

const eg_gguf_value *eg_gguf_value_at(const eg_gguf *file, uint64_t index)
{
    return index < file->values.count ? &file->values.items[index] : NULL;
}

uint64_t eg_gguf_tensor_count(const eg_gguf *file) { return file->tensors.count; }

const eg_gguf_tensor *eg_gguf_tensor_at(const eg_gguf *file, uint64_t index)
{
    return index < file->tensors.count ? &file->tensors.items[index] : NULL;
}

const eg_gguf_value *eg_gguf_find(const eg_gguf *file, const char *key) { return find_value(&file->values, key); }

const eg_gguf_tensor *eg_gguf_find_tensor(const eg_gguf *file, const char *name)
{
    return find((const void *const *)file->tensors.by_name, file->tensors.count, name);
}

double eg_gguf_number(const eg_gguf_value *value, uint64_t index)
{
    size_t size = number_size(value->type);
    if (!size) return 0;
    uint64_t bits = load(value->data + index * size, size);
    switch (value->type) {
    case EG_GGUF_F32: {
        uint32_t narrow = (uint32_t)bits;
        float single;
        memcpy(&single, &narrow, sizeof single);
        return single;
    }
    case EG_GGUF_F64: {
        double number;
        memcpy(&number, &bits, sizeof number);
        return number;
    }
    case EG_GGUF_BOOL: return bits != 0;
    case EG_GGUF_I8:
    case EG_GGUF_I16:
    case EG_GGUF_I32:
    case EG_GGUF_I64:
        if (bits >> (8 * size - 1))   /* negative: -(~bits) - 1, which needs no wider type */
            return -(double)((~bits & (UINT64_MAX >> (64 - 8 * size)))) - 1.0;
        return (double)bits;
    default: return (double)bits;
    }
}

eg_span eg_gguf_next_string(const eg_gguf_value *value, const uint8_t **cursor)
{
    (void)value;               /* all lengths were checked when the file was opened */
    eg_span text = {(const char *)*cursor + 8, (size_t)load_u64(*cursor)};
    *cursor += 8 + text.length;
    return text;
}
