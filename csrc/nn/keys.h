/* Reads metadata of a model file and checks it.
 *
 * Keys are given without their prefix ("gemma4", "clip.audio"). Numbers may be of any numeric type. An error names the file
 * and the key. The first error stays in `status`, and later calls do nothing.
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

/* The number or array of numbers under `key`; NULL if it is absent. If it is `required`, that is an error. */
const eg_gguf_value *eg_keys_find(eg_keys *keys, const char *key, bool required);

/* A number within [low, high], or the element of an array whose elements are all equal. `missing` is the value of an optional
 * key that is absent. */
double eg_keys_scalar(eg_keys *keys, const char *key, double low, double high, bool required, double missing);
int32_t eg_keys_integer(eg_keys *keys, const char *key, int32_t low, int32_t high, bool required, int32_t missing);

/* out[layers] from one number for all layers, or from an array with one for each. */
void eg_keys_per_layer(eg_keys *keys, const char *key, int32_t layers, double low, double high, int32_t *out);

/* Unless good: EG_ERROR_UNSUPPORTED with the sentence `what`. */
void eg_keys_check(eg_keys *keys, bool good, const char *what);

/* The string under a full key (with its prefix); empty if there is none. */
eg_span eg_keys_text(const eg_gguf *file, const char *key);

/* Whether the value under a full key is true, or a number other than 0. */
bool eg_keys_flag(const eg_gguf *file, const char *key);

static inline bool eg_span_is(eg_span span, const char *text)
{
    return span.length == strlen(text) && !memcmp(span.data, text, span.length);
}

#endif
