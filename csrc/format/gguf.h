/* GGUF reader: maps the file(s), checks every length and offset once, and returns pointers into the mapping.
 *
 * Owns the mapping and an index of keys and tensors; their meaning is not its concern. All pointers are valid until
 * eg_gguf_close. Immutable after opening, so any thread may read.
 */
#ifndef EG_FORMAT_GGUF_H
#define EG_FORMAT_GGUF_H

#include "../base/status.h"
#include "types.h"

typedef struct eg_gguf eg_gguf;

/* Bytes of the file with their length; not zero-terminated. */
typedef struct eg_span {
    const char *data;
    size_t length;
} eg_span;

typedef struct eg_gguf_value {
    eg_span key;
    /* EG_GGUF_...; for an array the type of its elements. EG_GGUF_ARRAY: nested arrays, which are checked but cannot be
     * read. */
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
    /* Aligned to general.alignment (32 by default, but it may be 1), counted from the beginning of the GGUF. That may be
     * at any byte if the file was opened by descriptor, so readers must not assume an alignment. */
    const uint8_t *data;
    uint64_t bytes;
} eg_gguf_tensor;

/* Opens by path, with the other parts of a split file from the same folder; fd, offset and length are ignored. Or, with path
 * NULL, by descriptor: `length` bytes from `offset` on, both of any alignment; length 0 means to the end of the file.
 * guarded: a page that cannot be read makes it fail; else the process gets SIGBUS. */
eg_status eg_gguf_open(const char *path, int fd, uint64_t offset, uint64_t length, bool guarded, eg_gguf **out, eg_error *err);
void eg_gguf_close(eg_gguf *file);

/* Adds the tensors of `other` to those of `file`, which owns `other` then; metadata of `other` do not count. After an error
 * nothing has changed. EG_ERROR_FORMAT: both have a tensor of one name. */
eg_status eg_gguf_join(eg_gguf *file, eg_gguf *other, eg_error *err);
bool eg_gguf_is_joined(const eg_gguf *file);   /* whether another file was added */

/* Copies bytes of a tensor's data from `at` on, without keeping their pages (eg_map_copy). Any thread. */
void eg_gguf_copy(const eg_gguf *file, const uint8_t *at, size_t length, void *out);

/* Guards the data of the tensors against a disk that fails (base/guard.h), until the file is closed. While a file is being opened
 * all of it is guarded. */
void eg_gguf_guard(eg_gguf *file);

/* EG_ERROR_FILE if guarded data could not be read: they read as zeros from then on. */
eg_status eg_gguf_check(const eg_gguf *file, eg_error *err);
bool eg_gguf_failed(const eg_gguf *file);
void eg_gguf_fail(eg_gguf *file); /* says so; any thread */

/* Gives the pages of a range of tensor data, or with NULL all pages of the file, back to the system: see eg_map_release. */
void eg_gguf_release(const eg_gguf *file, const void *data, uint64_t length, bool drop);

/* The name of the file in error messages: its path (without its beginning if that is very long), or "fd 7". */
const char *eg_gguf_name(const eg_gguf *file);
uint64_t eg_gguf_mapped_bytes(const eg_gguf *file);
uint64_t eg_gguf_resident_bytes(const eg_gguf *file);
uint64_t eg_gguf_heap_bytes(const eg_gguf *file);

uint64_t eg_gguf_value_count(const eg_gguf *file);
const eg_gguf_value *eg_gguf_value_at(const eg_gguf *file, uint64_t index);
uint64_t eg_gguf_tensor_count(const eg_gguf *file);
const eg_gguf_tensor *eg_gguf_tensor_at(const eg_gguf *file, uint64_t index);

/* Find a key or a tensor by its name; NULL if absent. */
const eg_gguf_value *eg_gguf_find(const eg_gguf *file, const char *key);
const eg_gguf_tensor *eg_gguf_find_tensor(const eg_gguf *file, const char *name);

/* Element `index` (below value->count) of a numeric value as a double, which is exact for integers below 2^53. Booleans are 0
 * or 1, whatever the byte is. 0 for strings and nested arrays. */
double eg_gguf_number(const eg_gguf_value *value, uint64_t index);

/* Iterates over a string array: start with *cursor = value->data. Returns the next string and moves the cursor past it. Call
 * it at most value->count times. */
eg_span eg_gguf_next_string(const eg_gguf_value *value, const uint8_t **cursor);

#endif
