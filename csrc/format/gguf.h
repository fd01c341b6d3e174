/* GGUF reader: maps the file(s), checks every length and offset once, and hands out pointers into the mapping.
 *
 * Owns the mapping and an index of keys and tensors; knows nothing of what they mean. All pointers live until
 * eg_gguf_close. Immutable after opening; any thread.
 */
#ifndef EG_FORMAT_GGUF_H
#define EG_FORMAT_GGUF_H

#include "../base/status.h"
#include "types.h"

typedef struct eg_gguf eg_gguf;

/* A bounded run of bytes of the file; not zero-terminated. */
typedef struct eg_span {
    const char *data;
    size_t length;
} eg_span;

typedef struct eg_gguf_value {
    eg_span key;
    /* EG_GGUF_...; of the elements for an array: EG_GGUF_ARRAY if they are arrays, which are checked and skipped but
     * cannot be read. */
    uint32_t type;
    bool is_array;
    uint64_t count;            /* 1 for a scalar */
    const uint8_t *data;       /* first element: number (unaligned, little endian) or string (u64 length, bytes) */
    const uint8_t *end;        /* past the last element */
} eg_gguf_value;

typedef struct eg_gguf_tensor {
    eg_span name;
    const eg_type_info *type;  /* NULL if this version does not know it; then data is NULL and bytes 0 */
    uint32_t type_id;
    uint32_t n_dims;
    int64_t dims[4];           /* fastest first; 1 beyond n_dims */
    /* Aligned to general.alignment (32 unless the file says otherwise, and it may say 1) from where the GGUF begins, which
     * by descriptor is any byte: readers must not assume more. */
    const uint8_t *data;
    uint64_t bytes;
} eg_gguf_tensor;

/* By path (with the further parts of a split file found beside it; fd, offset and length are ignored), or, with path
 * NULL, by descriptor: length bytes from offset on, both of any alignment; length 0: to the end of the file. */
eg_status eg_gguf_open(const char *path, int fd, uint64_t offset, uint64_t length, eg_gguf **out, eg_error *err);
void eg_gguf_close(eg_gguf *file);

/* What error messages call the file: the path, without its beginning when it is very long, or "fd 7". */
const char *eg_gguf_name(const eg_gguf *file);
uint64_t eg_gguf_mapped_bytes(const eg_gguf *file);
uint64_t eg_gguf_resident_bytes(const eg_gguf *file);
uint64_t eg_gguf_heap_bytes(const eg_gguf *file);

uint64_t eg_gguf_value_count(const eg_gguf *file);
const eg_gguf_value *eg_gguf_value_at(const eg_gguf *file, uint64_t index);
uint64_t eg_gguf_tensor_count(const eg_gguf *file);
const eg_gguf_tensor *eg_gguf_tensor_at(const eg_gguf *file, uint64_t index);

/* By name; NULL if absent. */
const eg_gguf_value *eg_gguf_find(const eg_gguf *file, const char *key);
const eg_gguf_tensor *eg_gguf_find_tensor(const eg_gguf *file, const char *name);

/* Element `index` (below value->count) of a numeric value, as double: exact for every integer below 2^53.
 * Booleans are 0 or 1 whatever the byte. 0 for strings and arrays of arrays. */
double eg_gguf_number(const eg_gguf_value *value, uint64_t index);

/* Walks a string array in order: start with *cursor = value->data; returns the string and moves the cursor behind it.
 * Call it at most value->count times. */
eg_span eg_gguf_next_string(const eg_gguf_value *value, const uint8_t **cursor);

#endif
