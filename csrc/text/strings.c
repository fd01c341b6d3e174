/* Growing strings and chunks of memory. */
#include "strings.h"

#include "../base/checked.h"
#include "../base/grow.h"
#include "utf8.h"

#include <stdlib.h>

/* ---- strings ----------------------------------------------------------------------------------------------------- */

bool eg_string_add(eg_string *s, const char *bytes, size_t n)
{
    if (s->failed) return false;
    size_t needed;
    if (!eg_add_size(s->length, n, &needed) || needed > SIZE_MAX / 2) {
        s->failed = true;
        return false;
    }
    char *grown = eg_grow(s->bytes, &s->capacity, needed + 1, 1);
    if (!grown) {
        s->failed = true;
        return false;
    }
    s->bytes = grown;
    if (n) memcpy(s->bytes + s->length, bytes, n);
    s->length = needed;
    s->bytes[needed] = '\0';
    return true;
}

bool eg_string_add_character(eg_string *s, uint32_t code)
{
    char c[4];
    if ((code >= 0xD800 && code < 0xE000) || code > 0x10FFFF) return eg_string_put(s, EG_UTF8_REPLACEMENT);
    if (code < 0x80) {
        c[0] = (char)code;
        return eg_string_add(s, c, 1);
    }
    size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i; i--, code >>= 6) c[i] = (char)(0x80 | (code & 0x3F));
    c[0] = (char)((n == 2 ? 0xC0 : n == 3 ? 0xE0 : 0xF0) | code);
    return eg_string_add(s, c, n);
}

void eg_string_drop(eg_string *s, size_t n)
{
    if (!n) return;
    s->length -= n;
    memmove(s->bytes, s->bytes + n, s->length + 1);
}

void eg_string_clear(eg_string *s)
{
    s->length = 0;
    if (s->bytes) s->bytes[0] = '\0';
}

void eg_string_free(eg_string *s)
{
    free(s->bytes);
    *s = (eg_string){0};
}

/* ---- chunks ------------------------------------------------------------------------------------------------------ */

struct eg_chunk {
    eg_chunk *before;
    max_align_t bytes[];
};

enum { CHUNK = 4000 };

void *eg_chunks_take(eg_chunks *c, size_t n)
{
    if (n > SIZE_MAX / 4) return NULL;
    n = (n + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
    if (!c->last || n > c->size - c->used) {
        size_t size = n > CHUNK ? n : CHUNK;
        eg_chunk *chunk = calloc(1, sizeof *chunk + size);
        if (!chunk) return NULL;
        chunk->before = c->last;
        *c = (eg_chunks){chunk, 0, size};
    }
    void *taken = (uint8_t *)c->last->bytes + c->used;
    c->used += n;
    return taken;
}

char *eg_chunks_copy(eg_chunks *c, const char *bytes, size_t n)
{
    char *copy = n < SIZE_MAX ? eg_chunks_take(c, n + 1) : NULL;
    if (copy && n) memcpy(copy, bytes, n);
    return copy;
}

void eg_chunks_free(eg_chunks *c)
{
    for (eg_chunk *chunk = c->last; chunk;) {
        eg_chunk *before = chunk->before;
        free(chunk);
        chunk = before;
    }
    *c = (eg_chunks){0};
}
