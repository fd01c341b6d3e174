/* Additions and multiplications that report overflow, and alignment. Every size that comes from a file or a caller goes
 * through these. */
#ifndef EG_BASE_CHECKED_H
#define EG_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* *out = a op b, and true. If the result does not fit: false, and *out is untouched. */
static inline bool eg_add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    if (a > UINT64_MAX - b) return false;
    *out = a + b;
    return true;
}

static inline bool eg_mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    if (b && a > UINT64_MAX / b) return false;
    *out = a * b;
    return true;
}

static inline bool eg_add_size(size_t a, size_t b, size_t *out)
{
    if (a > SIZE_MAX - b) return false;
    *out = a + b;
    return true;
}

static inline bool eg_mul_size(size_t a, size_t b, size_t *out)
{
    if (b && a > SIZE_MAX / b) return false;
    *out = a * b;
    return true;
}

static inline bool eg_is_power_of_two(uint64_t n) { return n && (n & (n - 1)) == 0; }

/* *out = the next multiple of `alignment`, a power of two, at or above n. */
static inline bool eg_align_u64(uint64_t n, uint64_t alignment, uint64_t *out)
{
    if (n > UINT64_MAX - (alignment - 1)) return false;
    *out = (n + alignment - 1) & ~(alignment - 1);
    return true;
}

#endif
