/* Bytes that grow, and memory that is freed at once.
 *
 * An eg_string that could not grow is `failed` from then on and keeps what it has: a writer checks once, at its end. eg_chunks is
 * memory for many small things of one lifetime, such as the values of a JSON text. Zero-initialize both.
 */
#ifndef EG_TEXT_STRINGS_H
#define EG_TEXT_STRINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct eg_string {
    char *bytes;               /* [length], and a zero behind it; NULL while nothing was added */
    size_t length, capacity;
    bool failed;               /* out of memory: something is missing */
} eg_string;

/* Appends bytes[n]. False without memory, and from then on. */
bool eg_string_add(eg_string *string, const char *bytes, size_t n);
static inline bool eg_string_put(eg_string *string, const char *text) { return eg_string_add(string, text, strlen(text)); }
/* Appends a character of Unicode as UTF-8; U+FFFD for a surrogate, and beyond U+10FFFF. */
bool eg_string_add_character(eg_string *string, uint32_t code);
/* Removes the first n bytes, n <= length. */
void eg_string_drop(eg_string *string, size_t n);
/* Empties it and keeps its memory. */
void eg_string_clear(eg_string *string);
void eg_string_free(eg_string *string);
/* Never NULL, zero-terminated. */
static inline const char *eg_string_text(const eg_string *string) { return string->bytes ? string->bytes : ""; }

typedef struct eg_chunk eg_chunk;
typedef struct eg_chunks {
    eg_chunk *last;
    size_t used, size;         /* of the last chunk */
} eg_chunks;

/* n cleared bytes, aligned for any type; NULL without memory. */
void *eg_chunks_take(eg_chunks *chunks, size_t n);
/* A copy of bytes[n], zero-terminated; NULL without memory. */
char *eg_chunks_copy(eg_chunks *chunks, const char *bytes, size_t n);
void eg_chunks_free(eg_chunks *chunks);

#endif
