/* Arena: one allocation that is cut into arrays. The same layout code runs twice. With base NULL it only adds up the sizes in
 * `used`; then the owner allocates that many bytes, sets base, and runs it again. used == SIZE_MAX after the first run means
 * that the sizes overflowed. */
#ifndef EG_BASE_ARENA_H
#define EG_BASE_ARENA_H

#include "exact.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct eg_arena {
    uint8_t *base;
    size_t used;
} eg_arena;

enum { EG_ARENA_ALIGNMENT = 64 };

/* `count` elements of `size` bytes, 64-byte aligned; NULL while measuring. Not cleared. */
static inline void *eg_arena_take(eg_arena *arena, size_t count, size_t size)
{
    size_t begin = arena->used, bytes;
    if (begin == SIZE_MAX) return NULL;
    if (size && count > (SIZE_MAX / 2 - begin) / size) {
        arena->used = SIZE_MAX;
        return NULL;
    }
    bytes = (count * size + EG_ARENA_ALIGNMENT - 1) / EG_ARENA_ALIGNMENT * EG_ARENA_ALIGNMENT;
    arena->used = begin + bytes;
    return arena->base ? arena->base + begin : NULL;
}

/* An arena of `bytes` cleared bytes, which take no pages of the system before they are touched. *block is what eg_arena_close
 * frees. The base is NULL without memory. */
eg_arena eg_arena_open(size_t bytes, void **block);

/* Frees an arena's memory and returns its pages to the system. NULL is allowed. */
void eg_arena_close(void *block);

#endif
