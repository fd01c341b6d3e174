/* Reads gemma4.* metadata: every per-layer quantity may be a scalar or an array, of any integer type. */
#include "config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    MAX_WIDTH = 1 << 20,       /* no width, count or length of a model exceeds this; products stay in 64 bits */
    MAX_EXPERTS = 4096
};

typedef struct reader {
    const eg_gguf *file;
    eg_error *err;
    eg_status status;          /* first failure; later reads do nothing */
} reader;

static void full_key(char out[96], const char *key) { snprintf(out, 96, "gemma4.%s", key); }

/* The value of `key`, or NULL; a missing one is an error if required. */
static const eg_gguf_value *find(reader *r, const char *key, bool required)
{
    char name[96];
    full_key(name, key);
    if (r->status) return NULL;
    const eg_gguf_value *value = eg_gguf_find(r->file, name);
    if (!value && required)
        r->status = eg_fail(r->err, EG_ERROR_FORMAT, "%s: the key '%s' is missing.", eg_gguf_name(r->file), name);
    if (value && (value->type == EG_GGUF_STRING || value->type == EG_GGUF_ARRAY)) {
        r->status = eg_fail(r->err, EG_ERROR_FORMAT, "%s: the key '%s' must be a number.", eg_gguf_name(r->file), name);
        return NULL;
    }
    return value;
}

static double number_at(reader *r, const eg_gguf_value *value, const char *key, uint64_t index, double low, double high)
{
    double number = eg_gguf_number(value, index);
    if (number >= low && number <= high) return number;
    char name[96];
    full_key(name, key);
    r->status = eg_fail(r->err, EG_ERROR_FORMAT, "%s: the key '%s' is %g, which is not within %g and %g.",
                        eg_gguf_name(r->file), name, number, low, high);
    return low;
}

/* A scalar, or an array whose elements are all equal. `missing` stands for an absent optional key. */
static double scalar(reader *r, const char *key, double low, double high, bool required, double missing)
{
    const eg_gguf_value *value = find(r, key, required);
    if (!value) return missing;
    double first = value->count ? number_at(r, value, key, 0, low, high) : missing;
    bool same = value->count > 0;
    for (uint64_t i = 1; i < value->count && same; i++) same = eg_gguf_number(value, i) == first;
    if (!r->status && !same)
        r->status = eg_fail(r->err, EG_ERROR_UNSUPPORTED, "%s: the key 'gemma4.%s' must have one value for all layers.",
                            eg_gguf_name(r->file), key);
    return first;
}

static int32_t integer(reader *r, const char *key, int32_t low, bool required, int32_t missing)
{
    double number = scalar(r, key, low, key[0] == 'c' ? INT32_MAX : MAX_WIDTH, required, missing);
    if (!r->status && number != floor(number))
        r->status = eg_fail(r->err, EG_ERROR_FORMAT, "%s: the key 'gemma4.%s' must be a whole number.",
                            eg_gguf_name(r->file), key);
    return r->status ? 0 : (int32_t)number;
}

/* A scalar for all layers or an array with one value each, into out[layers]. */
static void per_layer(reader *r, const char *key, int32_t layers, double low, double high, int32_t *out)
{
    const eg_gguf_value *value = find(r, key, true);
    if (!value) return;
    if (value->is_array && value->count != (uint64_t)layers) {
        r->status = eg_fail(r->err, EG_ERROR_FORMAT, "%s: the key 'gemma4.%s' has %llu values for %d layers.",
                            eg_gguf_name(r->file), key, (unsigned long long)value->count, layers);
        return;
    }
    for (int32_t l = 0; l < layers && !r->status; l++)
        out[l] = (int32_t)number_at(r, value, key, value->is_array ? (uint64_t)l : 0, low, high);
}

/* local[layers] from a list of booleans, or from a period: every n-th layer is global. */
static void read_pattern(reader *r, int32_t layers, int32_t *local)
{
    const char *key = "attention.sliding_window_pattern";
    const eg_gguf_value *value = find(r, key, true);
    if (!value || value->is_array || value->type == EG_GGUF_BOOL) {
        per_layer(r, key, layers, 0, 1, local);
        return;
    }
    int32_t period = integer(r, key, 1, true, 1);
    for (int32_t l = 0; l < layers && !r->status; l++) local[l] = (l + 1) % period != 0;
}

static void check(reader *r, bool good, const char *what)
{
    if (!r->status && !good) r->status = eg_fail(r->err, EG_ERROR_UNSUPPORTED, "%s: %s", eg_gguf_name(r->file), what);
}

static eg_status read_architecture(const eg_gguf *file, eg_error *err)
{
    const eg_gguf_value *value = eg_gguf_find(file, "general.architecture");
    if (!value || value->is_array || value->type != EG_GGUF_STRING)
        return eg_fail(err, EG_ERROR_FORMAT, "%s: the key 'general.architecture' is missing: not a model file.",
                       eg_gguf_name(file));
    const uint8_t *cursor = value->data;
    eg_span name = eg_gguf_next_string(value, &cursor);
    if (name.length == 6 && !memcmp(name.data, "gemma4", 6)) return EG_OK;
    if (name.length == 4 && !memcmp(name.data, "clip", 4))
        return eg_fail(err, EG_ERROR_UNSUPPORTED, "%s: this file holds encoders (mmproj), not a language model.",
                       eg_gguf_name(file));
    return eg_fail(err, EG_ERROR_UNSUPPORTED, "%s: the architecture is '%.*s'; only 'gemma4' models can be run.",
                   eg_gguf_name(file), (int)(name.length < 64 ? name.length : 64), name.data);
}

eg_status eg_config_read(const eg_gguf *file, eg_config *c, eg_error *err)
{
    eg_status status = read_architecture(file, err);
    if (status) return status;
    reader r = {file, err, EG_OK};
    memset(c, 0, sizeof *c);
    c->layers = integer(&r, "block_count", 1, true, 0);
    check(&r, c->layers <= EG_MAX_LAYERS, "there are more layers than this version can hold.");
    if (r.status) return r.status;
    c->context = integer(&r, "context_length", 1, true, 0);
    c->hidden = integer(&r, "embedding_length", 1, true, 0);
    c->window = integer(&r, "attention.sliding_window", 1, false, 0);
    c->per_layer = integer(&r, "embedding_length_per_layer_input", 0, false, 0);
    c->experts = integer(&r, "expert_count", 0, false, 0);
    c->experts_used = integer(&r, "expert_used_count", 0, c->experts > 0, 0);
    c->expert_ffn = integer(&r, "expert_feed_forward_length", 0, c->experts > 0, 0);
    check(&r, c->experts <= MAX_EXPERTS, "there are more experts than this version can hold.");
    check(&r, !c->experts || (c->experts_used >= 1 && c->experts_used <= c->experts && c->expert_ffn >= 1),
          "the key 'gemma4.expert_used_count' or 'gemma4.expert_feed_forward_length' does not fit the number of experts.");
    c->eps = (float)scalar(&r, "attention.layer_norm_rms_epsilon", 0, 1, false, 1e-6);
    c->softcap = (float)scalar(&r, "final_logit_softcapping", 0, 1e6, false, 0);
    c->theta_global = (float)scalar(&r, "rope.freq_base", 1, 1e12, true, 0);
    c->theta_local = (float)scalar(&r, "rope.freq_base_swa", 1, 1e12, false, 1e4);
    c->head_dim_global = integer(&r, "attention.key_length", 2, true, 0);
    c->head_dim_local = integer(&r, "attention.key_length_swa", 2, false, c->head_dim_global);
    check(&r, integer(&r, "attention.value_length", 2, false, c->head_dim_global) == c->head_dim_global &&
              integer(&r, "attention.value_length_swa", 2, false, c->head_dim_local) == c->head_dim_local,
          "keys and values of different length are not supported.");
    check(&r, integer(&r, "rope.dimension_count", 2, false, c->head_dim_global) == c->head_dim_global &&
              integer(&r, "rope.dimension_count_swa", 2, false, c->head_dim_local) == c->head_dim_local,
          "RoPE over a part of the head ('gemma4.rope.dimension_count') is not supported.");
    check(&r, c->head_dim_global % 2 == 0 && c->head_dim_local % 2 == 0, "odd head dimensions are not supported.");

    int32_t heads[EG_MAX_LAYERS] = {0}, kv_heads[EG_MAX_LAYERS] = {0}, ffn[EG_MAX_LAYERS] = {0};
    int32_t local[EG_MAX_LAYERS] = {0};
    per_layer(&r, "attention.head_count", c->layers, 1, MAX_WIDTH, heads);
    per_layer(&r, "attention.head_count_kv", c->layers, 1, MAX_WIDTH, kv_heads);
    per_layer(&r, "feed_forward_length", c->layers, 1, MAX_WIDTH, ffn);
    read_pattern(&r, c->layers, local);
    int32_t shared = integer(&r, "attention.shared_kv_layers", 0, false, 0);
    check(&r, shared < c->layers, "the key 'gemma4.attention.shared_kv_layers' leaves no layer with K/V of its own.");
    if (r.status) return r.status;
    c->kv_layers = c->layers - shared;

    int32_t last[2] = {-1, -1};   /* last KV-owning layer, by kind: global, local */
    for (int32_t l = 0; l < c->layers; l++) {
        bool owns = l < c->kv_layers;
        if (owns) last[local[l]] = l;
        int32_t source = last[local[l]];
        check(&r, source >= 0, "a layer that shares K/V has no earlier layer of its kind to read them from.");
        check(&r, !local[l] || c->window > 0, "the key 'gemma4.attention.sliding_window' is missing.");
        if (r.status) return r.status;
        c->layer[l] = (eg_layer_shape){
            .local = local[l], .owns_kv = owns, .kv_source = source, .ffn = ffn[l],
            .heads = heads[l], .kv_heads = owns ? kv_heads[l] : c->layer[source].kv_heads,
            .head_dim = local[l] ? c->head_dim_local : c->head_dim_global,
        };
        check(&r, heads[l] % c->layer[l].kv_heads == 0, "the number of heads is not a multiple of the KV heads.");
    }
    return r.status;
}
