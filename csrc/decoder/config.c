/* Reads the gemma4.* metadata into eg_config and checks it. A per-layer quantity may be a scalar or an array, of any integer
 * type. */
#include "config.h"

#include <string.h>

#include "../nn/keys.h"

enum { MAX_EXPERTS = 4096 };

/* local[layers] from a list of booleans, or from a period n: every n-th layer is global. */
static void read_pattern(eg_keys *r, int32_t layers, int32_t *local)
{
    const char *key = "attention.sliding_window_pattern";
    const eg_gguf_value *value = eg_keys_find(r, key, true);
    if (!value || value->is_array || value->type == EG_GGUF_BOOL) {
        eg_keys_per_layer(r, key, layers, 0, 1, local);
        return;
    }
    int32_t period = eg_keys_integer(r, key, 1, EG_MAX_WIDTH, true, 1);
    for (int32_t l = 0; l < layers && !r->status; l++) local[l] = (l + 1) % period != 0;
}

static eg_status read_architecture(const eg_gguf *file, eg_error *err)
{
    eg_span name = eg_keys_text(file, "general.architecture");
    if (!name.length)
        return eg_fail(err, EG_ERROR_FORMAT, "%s: the key 'general.architecture' is missing: not a model file.",
                       eg_gguf_name(file));
    if (eg_span_is(name, "gemma4")) return EG_OK;
    if (eg_span_is(name, "clip"))
        return eg_fail(err, EG_ERROR_UNSUPPORTED, "%s: this file holds encoders (mmproj), not a language model.",
                       eg_gguf_name(file));
    return eg_fail(err, EG_ERROR_UNSUPPORTED, "%s: the architecture is '%.*s'; only 'gemma4' models can be run.",
                   eg_gguf_name(file), (int)(name.length < 64 ? name.length : 64), name.data);
}

eg_status eg_config_read(const eg_gguf *file, eg_config *c, eg_error *err)
{
    eg_status status = read_architecture(file, err);
    if (status) return status;
    eg_keys r = {file, "gemma4", err, EG_OK};
    memset(c, 0, sizeof *c);
    c->layers = eg_keys_integer(&r, "block_count", 1, EG_MAX_WIDTH, true, 0);
    eg_keys_check(&r, c->layers <= EG_MAX_LAYERS, "there are more layers than this version can hold.");
    if (r.status) return r.status;
    c->context = eg_keys_integer(&r, "context_length", 1, INT32_MAX, true, 0);
    c->hidden = eg_keys_integer(&r, "embedding_length", 1, EG_MAX_WIDTH, true, 0);
    c->window = eg_keys_integer(&r, "attention.sliding_window", 1, EG_MAX_WIDTH, false, 0);
    c->per_layer = eg_keys_integer(&r, "embedding_length_per_layer_input", 0, EG_MAX_WIDTH, false, 0);
    c->experts = eg_keys_integer(&r, "expert_count", 0, EG_MAX_WIDTH, false, 0);
    c->experts_used = eg_keys_integer(&r, "expert_used_count", 0, EG_MAX_WIDTH, c->experts > 0, 0);
    c->expert_ffn = eg_keys_integer(&r, "expert_feed_forward_length", 0, EG_MAX_WIDTH, c->experts > 0, 0);
    eg_keys_check(&r, c->experts <= MAX_EXPERTS, "there are more experts than this version can hold.");
    eg_keys_check(
        &r, !c->experts || (c->experts_used >= 1 && c->experts_used <= c->experts && c->expert_ffn >= 1),
        "the key 'gemma4.expert_used_count' or 'gemma4.expert_feed_forward_length' does not fit the number of experts.");
    c->eps = (float)eg_keys_scalar(&r, "attention.layer_norm_rms_epsilon", 0, 1, false, 1e-6);
    c->softcap = (float)eg_keys_scalar(&r, "final_logit_softcapping", 0, 1e6, false, 0);
    c->theta_global = (float)eg_keys_scalar(&r, "rope.freq_base", 1, 1e12, true, 0);
    c->theta_local = (float)eg_keys_scalar(&r, "rope.freq_base_swa", 1, 1e12, false, 1e4);
    c->head_dim_global = eg_keys_integer(&r, "attention.key_length", 2, EG_MAX_WIDTH, true, 0);
    c->head_dim_local = eg_keys_integer(&r, "attention.key_length_swa", 2, EG_MAX_WIDTH, false, c->head_dim_global);
    int32_t global = c->head_dim_global, local_dim = c->head_dim_local;
    eg_keys_check(&r,
                  eg_keys_integer(&r, "attention.value_length", 2, EG_MAX_WIDTH, false, global) == global &&
                      eg_keys_integer(&r, "attention.value_length_swa", 2, EG_MAX_WIDTH, false, local_dim) == local_dim,
                  "keys and values of different length are not supported.");
    eg_keys_check(&r,
                  eg_keys_integer(&r, "rope.dimension_count", 2, EG_MAX_WIDTH, false, global) == global &&
                      eg_keys_integer(&r, "rope.dimension_count_swa", 2, EG_MAX_WIDTH, false, local_dim) == local_dim,
                  "RoPE over a part of the head ('gemma4.rope.dimension_count') is not supported.");
    eg_keys_check(&r, c->head_dim_global % 2 == 0 && c->head_dim_local % 2 == 0, "odd head dimensions are not supported.");

    int32_t heads[EG_MAX_LAYERS] = {0}, kv_heads[EG_MAX_LAYERS] = {0}, ffn[EG_MAX_LAYERS] = {0};
    int32_t local[EG_MAX_LAYERS] = {0};
    eg_keys_per_layer(&r, "attention.head_count", c->layers, 1, EG_MAX_WIDTH, heads);
    eg_keys_per_layer(&r, "attention.head_count_kv", c->layers, 1, EG_MAX_WIDTH, kv_heads);
    eg_keys_per_layer(&r, "feed_forward_length", c->layers, 1, EG_MAX_WIDTH, ffn);
    read_pattern(&r, c->layers, local);
    int32_t shared = eg_keys_integer(&r, "attention.shared_kv_layers", 0, EG_MAX_WIDTH, false, 0);
    eg_keys_check(&r, shared < c->layers, "the key 'gemma4.attention.shared_kv_layers' leaves no layer with K/V of its own.");
    if (r.status) return r.status;
    c->kv_layers = c->layers - shared;

    int32_t last[2] = {-1, -1};   /* last KV-owning layer, by kind: global, local */
    for (int32_t l = 0; l < c->layers; l++) {
        bool owns = l < c->kv_layers;
        if (owns) last[local[l]] = l;
        int32_t source = last[local[l]];
        eg_keys_check(&r, source >= 0, "a layer that shares K/V has no earlier layer of its kind to read them from.");
        eg_keys_check(&r, !local[l] || c->window > 0, "the key 'gemma4.attention.sliding_window' is missing.");
        if (r.status) return r.status;
        c->layer[l] = (eg_layer_shape){
            .local = local[l],
            .owns_kv = owns,
            .kv_source = source,
            .ffn = ffn[l],
            .heads = heads[l],
            .kv_heads = owns ? kv_heads[l] : c->layer[source].kv_heads,
            .head_dim = local[l] ? c->head_dim_local : c->head_dim_global,
        };
        eg_keys_check(&r, heads[l] % c->layer[l].kv_heads == 0, "the number of heads is not a multiple of the KV heads.");
    }
    return r.status;
}
