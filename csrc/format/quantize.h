/* Floats to stored numbers: the inverse of eg_type_to_float, with a row and a function for each type that can be written.
 * How bits are laid out is in pack.c and pack_k.c, how scales are found in fit.h. */
#ifndef EG_FORMAT_QUANTIZE_H
#define EG_FORMAT_QUANTIZE_H

#include "types.h"

/* Whether eg_type_from_float can write a type. */
bool eg_type_writable(const eg_type_info *type);

/* blocks = x[n] in a type that can be written; n is a multiple of its block. A block depends on its own values alone.
 * Returns n, or the index of the first value that the type cannot express, with nothing of use in `blocks`: infinities,
 * NaN, and for all but F32 and BF16 what exceeds the largest half float. */
int64_t eg_type_from_float(const eg_type_info *type, const float *x, int64_t n, void *blocks);

#endif
