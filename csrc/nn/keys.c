/* Reads metadata and checks its type and range; see keys.h. */
#include "keys.h"

#include <math.h>
#include <stdio.h>

enum { NAME = 96 };

static void full_key(char out[NAME], const eg_keys *k, const char *key) { snprintf(out, NAME, "%s.%s", k->prefix, key); }

const eg_gguf_value *eg_keys_find(eg_keys *k, const char *key, bool required)
{
    char name[NAME];
    full_key(name, k, key);
    if (k->status) return NULL;
    const eg_gguf_value *value = eg_gguf_find(k->file, name);
    if (!value && required)
        k->status = eg_fail(k->err, EG_ERROR_FORMAT, "%s: the key '%s' is missing.", eg_gguf_name(k->file), name);
    if (value && (value->type == EG_GGUF_STRING || value->type == EG_GGUF_ARRAY)) {
        k->status = eg_fail(k->err, EG_ERROR_FORMAT, "%s: the key '%s' must be a number.", eg_gguf_name(k->file), name);
        return NULL;
    }
    return value;
}

static double number_at(eg_keys *k, const eg_gguf_value *value, const char *key, uint64_t index, double low, double high)
{
    double number = eg_gguf_number(value, index);
    if (number >= low && number <= high) return number;
    char name[NAME];
    full_key(name, k, key);
    k->status = eg_fail(k->err, EG_ERROR_FORMAT, "%s: the key '%s' is %g, which is not within %g and %g.",
                        eg_gguf_name(k->file), name, number, low, high);
    return low;
}

double eg_keys_scalar(eg_keys *k, const char *key, double low, double high, bool required, double missing)
{
    const eg_gguf_value *value = eg_keys_find(k, key, required);
    if (!value) return missing;
    double first = value->count ? number_at(k, value, key, 0, low, high) : missing;
    bool same = value->count > 0;
    for (uint64_t i = 1; i < value->count && same; i++) same = eg_gguf_number(value, i) == first;
    if (!k->status && !same)
        k->status = eg_fail(k->err, EG_ERROR_UNSUPPORTED, "%s: the key '%s.%s' must have one value for all layers.",
                            eg_gguf_name(k->file), k->prefix, key);
    return first;
}

int32_t eg_keys_integer(eg_keys *k, const char *key, int32_t low, int32_t high, bool required, int32_t missing)
{
    double number = eg_keys_scalar(k, key, low, high, required, missing);
    if (!k->status && number != floor(number))
        k->status = eg_fail(k->err, EG_ERROR_FORMAT, "%s: the key '%s.%s' must be a whole number.", eg_gguf_name(k->file),
                            k->prefix, key);
    return k->status ? 0 : (int32_t)number;
}

void eg_keys_per_layer(eg_keys *k, const char *key, int32_t layers, double low, double high, int32_t *out)
{
    const eg_gguf_value *value = eg_keys_find(k, key, true);
    if (!value) return;
    if (value->is_array && value->count != (uint64_t)layers) {
        k->status = eg_fail(k->err, EG_ERROR_FORMAT, "%s: the key '%s.%s' has %llu values for %d layers.",
                            eg_gguf_name(k->file), k->prefix, key, (unsigned long long)value->count, layers);
        return;
    }
    for (int32_t l = 0; l < layers && !k->status; l++)
        out[l] = (int32_t)number_at(k, value, key, value->is_array ? (uint64_t)l : 0, low, high);
}

void eg_keys_check(eg_keys *k, bool good, const char *what)
{
    if (!k->status && !good) k->status = eg_fail(k->err, EG_ERROR_UNSUPPORTED, "%s: %s", eg_gguf_name(k->file), what);
}

eg_span eg_keys_text(const eg_gguf *file, const char *key)
{
    const eg_gguf_value *value = eg_gguf_find(file, key);
    if (!value || value->is_array || value->type != EG_GGUF_STRING) return (eg_span){NULL, 0};
    const uint8_t *cursor = value->data;
    return eg_gguf_next_string(value, &cursor);
}

bool eg_keys_flag(const eg_gguf *file, const char *key)
{
    const eg_gguf_value *value = eg_gguf_find(file, key);
    return value && value->type != EG_GGUF_STRING && value->type != EG_GGUF_ARRAY && value->count == 1 &&
           eg_gguf_number(value, 0) != 0;
}
