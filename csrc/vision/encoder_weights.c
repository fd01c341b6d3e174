/* Reads the configuration of the vision encoder from an mmproj file and binds its tensors; see encoder.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../nn/keys.h"
#include "encoder.h"

enum { MAX_PATCH = 128, MAX_POOL = 16, MAX_HEAD = 128 };

static eg_status read_config(const eg_gguf *file, eg_vision_config *c, eg_error *err)
{
    eg_span projector = eg_keys_text(file, "clip.vision.projector_type");
    if (!projector.length) projector = eg_keys_text(file, "clip.projector_type");   /* in files with one encoder */
    c->unified = eg_span_is(projector, "gemma4uv");
    if (!c->unified && !eg_span_is(projector, "gemma4v"))
        return eg_fail(err, EG_ERROR_UNSUPPORTED,
                       "%s: the key 'clip.vision.projector_type' is '%.*s'; only 'gemma4v' and 'gemma4uv' encoders can be run.",
                       eg_gguf_name(file), (int)(projector.length < 64 ? projector.length : 64),
                       projector.length ? projector.data : "");
    eg_keys keys = {file, "clip.vision", err, EG_OK};
    c->width = eg_keys_integer(&keys, "embedding_length", 4, EG_MAX_WIDTH, true, 0);
    c->patch = eg_keys_integer(&keys, "patch_size", 1, MAX_PATCH, true, 0);
    c->pool = eg_keys_integer(&keys, "projector.scale_factor", 1, MAX_POOL, false, 3);
    if (c->unified) {
        c->patch *= c->pool;
        c->pool = 1;
        return keys.status;
    }
    c->layers = eg_keys_integer(&keys, "block_count", 1, EG_VISION_MAX_LAYERS, true, 0);
    c->ffn = eg_keys_integer(&keys, "feed_forward_length", 1, EG_MAX_WIDTH, true, 0);
    c->heads = eg_keys_integer(&keys, "attention.head_count", 1, EG_MAX_WIDTH, true, 0);
    const bool good = keys.status || (c->width % (4 * c->heads) == 0 && c->width / c->heads <= MAX_HEAD);
    eg_keys_check(&keys, good,
                  "the key 'clip.vision.embedding_length' does not fit the number of heads: a head is a multiple of 4 wide, "
                  "and 128 at most.");
    if (!keys.status) c->head_dim = c->width / c->heads;
    return keys.status;
}

static void bind_layer(eg_binder *b, const eg_vision_config *c, int32_t l, eg_vision_layer *w)
{
    const int64_t d = c->width, F = c->ffn;
    const struct {
        const char *name;
        const float **to;
        int64_t n;
    } vectors[] = {
        {"ln1", &w->attention_norm, d},     {"attn_post_norm", &w->post_attention, d}, {"ln2", &w->ffn_norm, d},
        {"ffn_post_norm", &w->post_ffn, d}, {"attn_q_norm", &w->q_norm, c->head_dim},  {"attn_k_norm", &w->k_norm, c->head_dim},
    };
    const struct {
        const char *name;
        eg_clipped *to;
        int64_t rows, cols;
    } matrices[] = {
        {"attn_q", &w->q, d, d},      {"attn_k", &w->k, d, d},  {"attn_v", &w->v, d, d},      {"attn_out", &w->out, d, d},
        {"ffn_gate", &w->gate, F, d}, {"ffn_up", &w->up, F, d}, {"ffn_down", &w->down, d, F},
    };
    char name[EG_TENSOR_NAME];
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        snprintf(name, sizeof name, "v.blk.%d.%s.weight", l, vectors[i].name);
        *vectors[i].to = eg_bind_vector(b, name, vectors[i].n);
    }
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
        snprintf(name, sizeof name, "v.blk.%d.%s", l, matrices[i].name);
        *matrices[i].to = eg_bind_clipped(b, name, matrices[i].rows, matrices[i].cols);
    }
}

/* A convolution with one place for each patch is a matrix; the file has it as [x, y, channel, w] or as [x * y * channel, w]. */
static eg_matrix bind_patch(eg_binder *b, const eg_vision_config *c)
{
    static const char name[] = "v.patch_embd.weight";
    const int64_t cols = 3 * (int64_t)c->patch * c->patch;
    const eg_gguf_tensor *t = eg_bind_find(b, name, true);
    if (t && t->dims[2] == 1) return eg_bind_matrix(b, name, c->width, cols);
    if (!eg_bind_check(b, t, name, (const int64_t[4]){c->patch, c->patch, 3, c->width})) return (eg_matrix){0};
    eg_matrix w = eg_matrix_from_tensor(t, 0, c->width);
    w.cols = cols;
    w.row_bytes = (size_t)(cols / t->type->block) * t->type->bytes;
    return w;
}

/* The tables of the positions along the two sides. */
static void bind_positions(eg_binder *b, eg_vision_weights *w)
{
    static const char name[] = "v.position_embd.weight";
    eg_vision_config *c = &w->config;
    const eg_gguf_tensor *t = eg_bind_find(b, name, true);
    const int64_t n = t && t->dims[1] <= EG_MAX_WIDTH ? t->dims[1] : 1;
    if (!eg_bind_check(b, t, name, (const int64_t[4]){c->width, n, 2, 1})) return;
    c->positions = (int32_t)n;
    for (int i = 0; i < 2; i++) w->position[i] = eg_matrix_from_tensor(t, i * n, n);
}

static void bind_norms(eg_binder *b, eg_vision_weights *w)
{
    char name[EG_TENSOR_NAME];
    for (int i = 0; i < EG_VISION_NORMS; i++) {
        const int64_t n = i ? w->config.width : w->patch.cols;
        snprintf(name, sizeof name, "v.patch_norm.%d.weight", i + 1);
        w->norm[i] = eg_bind_vector(b, name, n);
        snprintf(name, sizeof name, "v.patch_norm.%d.bias", i + 1);
        w->norm_bias[i] = eg_bind_vector(b, name, n);
    }
    w->patch_bias = eg_bind_vector(b, "v.patch_embd.bias", w->config.width);
}

eg_status eg_vision_bind(const eg_gguf *file, int32_t hidden, eg_vision_weights *w, bool *present, eg_error *err)
{
    memset(w, 0, sizeof *w);
    *present = false;
    if (!eg_keys_flag(file, "clip.has_vision_encoder")) return EG_OK;
    eg_vision_config *c = &w->config;
    eg_status status = read_config(file, c, err);
    if (status) return status;
    c->hidden = hidden;
    if (c->layers && !(w->layer = calloc((size_t)c->layers, sizeof *w->layer)))
        return eg_fail(err, EG_ERROR_MEMORY, "%s: out of memory.", eg_gguf_name(file));
    w->heap_bytes = (uint64_t)c->layers * sizeof *w->layer;

    eg_binder b = {file, &w->owned, err, EG_OK};
    w->patch = bind_patch(&b, c);
    bind_positions(&b, w);
    if (c->unified && !b.status) bind_norms(&b, w);
    for (int32_t l = 0; l < c->layers && !b.status; l++) bind_layer(&b, c, l, &w->layer[l]);
    if (!c->unified && eg_bind_find(&b, "v.std_scale", false)) {
        w->std_bias = eg_bind_vector(&b, "v.std_bias", c->width);
        w->std_scale = eg_bind_vector(&b, "v.std_scale", c->width);
    }
    w->projection = eg_bind_projection(&b, "mm.input_projection.weight", "image", hidden, c->width);
    if (b.status) {
        eg_vision_free(w);
        return b.status;
    }
    *present = true;
    return EG_OK;
}

void eg_vision_free(eg_vision_weights *w)
{
    eg_owned_free(&w->owned);
    free(w->layer);
    memset(w, 0, sizeof *w);
}
