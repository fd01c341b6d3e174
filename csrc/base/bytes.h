/* Numbers as bytes, little endian on every machine. */
#ifndef EG_BASE_BYTES_H
#define EG_BASE_BYTES_H

#include <stdint.h>

/* Writes the lowest n bytes of value (n at most 8). */
static inline void eg_bytes_put(uint8_t *at, uint64_t value, int n)
{
    for (int i = 0; i < n; i++) at[i] = (uint8_t)(value >> 8 * i);
}

static inline uint64_t eg_bytes_get(const uint8_t *at, int n)
{
    uint64_t value = 0;
    for (int i = 0; i < n; i++) value |= (uint64_t)at[i] << 8 * i;
    return value;
}

#endif
