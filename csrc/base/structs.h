/* Structs of the public header, between an application and a library of different versions.
 *
 * Every such struct begins with uint32_t struct_size: sizeof the struct as the caller's compiler saw it. Fields are only
 * ever added behind the last one, never in padding, and zero must be the default of a new field. */
#ifndef EG_BASE_STRUCTS_H
#define EG_BASE_STRUCTS_H

#include "status.h"

enum { EG_STRUCT_MOST = 4096 };   /* no struct is larger: a struct_size beyond it was never set */

/* The struct_size of any struct of the public header. */
uint32_t eg_struct_size(const void *of);

/* Copies the caller's struct to[size]: fields that the caller does not know become 0, and to's struct_size is `size`.
 * EG_ERROR_ARGUMENT, with `name` in the sentence: `from` is NULL, its struct_size was not set, or a field that this version
 * does not know is not zero. */
eg_status eg_struct_read(const void *from, void *to, uint32_t size, const char *name, eg_error *err);

/* EG_ERROR_ARGUMENT unless `out`, which is to be filled, is a struct whose struct_size was set. */
eg_status eg_struct_check(const void *out, const char *name, eg_error *err);

/* Copies from[size] to a checked struct of the caller as far as it goes; fields that this version does not know become 0,
 * and the caller's struct_size stays. */
void eg_struct_write(void *out, const void *from, uint32_t size);

#endif
