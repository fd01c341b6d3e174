/* Metadata of a model file, read and checked.
 *
 * Keys are given without their prefix ("gemma4", "clip.audio"). Numbers may be of any type; every failure names file and key,
 * the first one stays in `status`, and later calls do nothing.
 */
#ifndef EG_NN_KEYS_H
#define EG_NN_KEYS_H

#include <string.h>

#include "../format/gguf.h"

enum { EG_MAX_WIDTH = 1 << 20 };   /* no width, count or length of a model exceeds this; products stay in 64 bits */

typedef struct eg_keys {
    const eg_gguf *file;
    const char *prefix;
    eg_error *err;
    eg_status status;
} eg_keys;

/* The numbers under `key`; NULL if there are none, which is an error if they are required. */
const eg_gguf_value *eg_keys_find(eg_keys *keys, const char *key, bool required);

/* A number within [low, high], or an array of equal ones. `missing` stands for an absent optional key. */
double eg_keys_scalar(eg_keys *keys, const char *key, double low, double high, bool required, double missing);
int32_t eg_keys_integer(eg_keys *keys, const char *key, int32_t low, int32_t high, bool required, int32_t missing);

/* One number for all layers or an array with one each, into out[layers]. */
void eg_keys_per_layer(eg_keys *keys, const char *key, int32_t layers, double low, double high, int32_t *out);

/* EG_ERROR_UNSUPPORTED with the sentence `what` unless good. */
void eg_keys_check(eg_keys *keys, bool good, const char *what);

/* A string under a whole key, without prefix; empty if there is none. */
eg_span eg_keys_text(const eg_gguf *file, const char *key);

static inline bool eg_span_is(eg_span span, const char *text)
{
    return span.length == strlen(text) && !memcmp(span.data, text, span.length);
}

#endif
