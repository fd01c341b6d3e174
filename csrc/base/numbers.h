/* Minimum and maximum of two 64-bit integers. */
#ifndef EG_BASE_NUMBERS_H
#define EG_BASE_NUMBERS_H

#include <stdint.h>

static inline int64_t eg_smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t eg_larger(int64_t a, int64_t b) { return a > b ? a : b; }

#endif
