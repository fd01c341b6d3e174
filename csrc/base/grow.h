/* Arrays that grow. */
#ifndef EG_BASE_GROW_H
#define EG_BASE_GROW_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* Room for `needed` elements, at least 1, of `size` bytes each in an array of malloc with room for *capacity. Returns the array,
 * which may have moved. NULL without memory: the array and *capacity are then as before. */
static inline void *eg_grow(void *items, size_t *capacity, size_t needed, size_t size)
{
    if (needed <= *capacity) return items;
    size_t wanted = *capacity ? *capacity : 8;
    while (wanted < needed) {
        if (wanted > SIZE_MAX / 2) return NULL;
        wanted *= 2;
    }
    void *grown = wanted <= SIZE_MAX / size ? realloc(items, wanted * size) : NULL;
    if (grown) *capacity = wanted;
    return grown;
}

#endif
