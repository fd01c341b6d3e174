/* Quantization: floats to blocks of a type, the inverse of eg_type_to_float. Owns the table of types that can be written;
 * layouts are in pack.c and pack_k.c, the search for scales is in fit.c. */
#ifndef EG_FORMAT_QUANTIZE_H
#define EG_FORMAT_QUANTIZE_H

#include "types.h"

/* Whether eg_type_from_float can write a type. */
bool eg_type_writable(const eg_type_info *type);

/* blocks = x[n] in a type that can be written; n is a multiple of its block. A block depends only on its own values. Returns
 * n, or the index of the first value that the type cannot express: infinities, NaN and, except for F32 and BF16, values beyond
 * the largest half float. Then the contents of `blocks` are undefined. */
int64_t eg_type_from_float(const eg_type_info *type, const float *x, int64_t n, void *blocks);

#endif
