/* Binds tensors of the file to the model's structure. */
#include "weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct binder {
    const eg_gguf *file;
    eg_weights *weights;
    eg_error *err;
    eg_status status;          /* first failure; later calls do nothing */
} binder;

enum { NAME = 96 };

static void layer_name(char out[NAME], int32_t layer, const char *name) { snprintf(out, NAME, "blk.%d.%s", layer, name); }

static const eg_gguf_tensor *find(binder *b, const char *name, bool required)
{
    if (b->status) return NULL;
    const eg_gguf_tensor *tensor = eg_gguf_find_tensor(b->file, name);
    if (!tensor) {
        if (required)
            b->status = eg_fail(b->err, EG_ERROR_FORMAT, "%s: the tensor '%s' is missing.", eg_gguf_name(b->file), name);
    } else if (!tensor->type) {
        b->status = eg_fail(b->err, EG_ERROR_UNSUPPORTED,
                            "%s: the tensor '%s' has type number %u, which this version does not know.",
                            eg_gguf_name(b->file), name, tensor->type_id);
        tensor = NULL;
    }
    return tensor;
}

/* Checks the shape; ne is fastest first, as GGUF writes it. */
static bool has_shape(binder *b, const eg_gguf_tensor *t, const char *name, int64_t ne0, int64_t ne1, int64_t ne2)
{
    if (!t) return false;
    if (t->dims[0] == ne0 && t->dims[1] == ne1 && t->dims[2] == ne2 && t->dims[3] == 1) return true;
    b->status = eg_fail(b->err, EG_ERROR_FORMAT,
                        "%s: the tensor '%s' has shape [%lld, %lld, %lld], but the metadata ask for [%lld, %lld, %lld].",
                        eg_gguf_name(b->file), name, (long long)t->dims[0], (long long)t->dims[1],
                        (long long)t->dims[2], (long long)ne0, (long long)ne1, (long long)ne2);
    return false;
}

static size_t row_bytes(const eg_type_info *type, int64_t cols) { return (size_t)(cols / type->block) * type->bytes; }

/* Rows [first, first + rows) of tensor t[all rows, cols] as a matrix. */
static eg_matrix rows_of(const eg_gguf_tensor *t, int64_t first, int64_t rows)
{
    size_t stride = row_bytes(t->type, t->dims[0]);
    return (eg_matrix){t->data + (size_t)first * stride, t->type, rows, t->dims[0], stride};
}

static eg_matrix matrix(binder *b, const char *name, int64_t rows, int64_t cols)
{
    const eg_gguf_tensor *t = find(b, name, true);
    return has_shape(b, t, name, cols, rows, 1) ? rows_of(t, 0, rows) : (eg_matrix){0};
}

static eg_matrix layer_matrix(binder *b, int32_t layer, const char *what, int64_t rows, int64_t cols)
{
    char name[NAME];
    layer_name(name, layer, what);
    return matrix(b, name, rows, cols);
}

static const float *vector(binder *b, const char *name, int64_t n)
{
    const eg_gguf_tensor *t = find(b, name, true);
    if (!has_shape(b, t, name, n, 1, 1)) return NULL;
    if (t->type->id == EG_TYPE_F32 && (uintptr_t)t->data % _Alignof(float) == 0) return (const float *)(const void *)t->data;
    eg_weights *w = b->weights;
    void **owned = realloc(w->owned, (w->n_owned + 1) * sizeof *owned);
    if (owned) w->owned = owned;
    float *copy = owned ? malloc((size_t)n * sizeof *copy) : NULL;
    if (!copy) {
        b->status = eg_fail(b->err, EG_ERROR_MEMORY, "%s: out of memory for the tensor '%s'.", eg_gguf_name(b->file), name);
        return NULL;
    }
    eg_type_to_float(t->type, t->data, n, copy);
    w->owned[w->n_owned++] = copy;
    w->heap_bytes += (uint64_t)n * sizeof *copy;
    return copy;
}

static const float *layer_vector(binder *b, int32_t layer, const char *what, int64_t n)
{
    char name[NAME];
    layer_name(name, layer, what);
    return vector(b, name, n);
}

static void bind_attention(binder *b, const eg_config *c, int32_t l)
{
    const eg_layer_shape *s = &c->layer[l];
    eg_layer *w = &b->weights->layer[l];
    int64_t d = c->hidden, q_rows = (int64_t)s->heads * s->head_dim, kv_rows = (int64_t)s->kv_heads * s->head_dim;
    char name[NAME];

    layer_name(name, l, "attn_qkv.weight");
    const eg_gguf_tensor *fused = find(b, name, false);
    if (fused) {
        int64_t rows = s->owns_kv ? q_rows + 2 * kv_rows : fused->dims[1];   /* a sharing layer's K/V rows are not used */
        if (!has_shape(b, fused, name, d, rows > q_rows ? rows : q_rows, 1)) return;
        w->q = rows_of(fused, 0, q_rows);
        if (s->owns_kv) {
            w->k = rows_of(fused, q_rows, kv_rows);
            w->v = rows_of(fused, q_rows + kv_rows, kv_rows);
        }
    } else {
        w->q = layer_matrix(b, l, "attn_q.weight", q_rows, d);
        if (s->owns_kv) {
            w->k = layer_matrix(b, l, "attn_k.weight", kv_rows, d);
            layer_name(name, l, "attn_v.weight");
            if (find(b, name, false)) w->v = matrix(b, name, kv_rows, d);   /* absent: k_eq_v */
        }
    }
    w->o = layer_matrix(b, l, "attn_output.weight", d, q_rows);
    w->attn_norm = layer_vector(b, l, "attn_norm.weight", d);
    w->q_norm = layer_vector(b, l, "attn_q_norm.weight", s->head_dim);
    if (s->owns_kv) w->k_norm = layer_vector(b, l, "attn_k_norm.weight", s->head_dim);
    w->post_attention_norm = layer_vector(b, l, "post_attention_norm.weight", d);
}

/* Rows [first, first + rows) of every expert of a tensor [experts, all_rows, cols]. */
static eg_experts experts(binder *b, const eg_config *c, int32_t l, const char *what, int64_t all_rows, int64_t first,
                          int64_t rows, int64_t cols)
{
    char name[NAME];
    layer_name(name, l, what);
    const eg_gguf_tensor *t = find(b, name, true);
    if (!has_shape(b, t, name, cols, all_rows, c->experts)) return (eg_experts){0};
    return (eg_experts){rows_of(t, first, rows), (size_t)all_rows * row_bytes(t->type, cols)};
}

static void bind_experts(binder *b, const eg_config *c, int32_t l)
{
    eg_layer *w = &b->weights->layer[l];
    int64_t d = c->hidden, ffn = c->expert_ffn;
    char name[NAME];
    w->router = layer_matrix(b, l, "ffn_gate_inp.weight", c->experts, d);
    w->router_scale = layer_vector(b, l, "ffn_gate_inp.scale", d);
    w->pre_ffw_norm_2 = layer_vector(b, l, "pre_ffw_norm_2.weight", d);
    w->post_ffw_norm_1 = layer_vector(b, l, "post_ffw_norm_1.weight", d);
    w->post_ffw_norm_2 = layer_vector(b, l, "post_ffw_norm_2.weight", d);
    layer_name(name, l, "ffn_gate_up_exps.weight");
    if (find(b, name, false)) {
        w->expert_gate = experts(b, c, l, "ffn_gate_up_exps.weight", 2 * ffn, 0, ffn, d);
        w->expert_up = experts(b, c, l, "ffn_gate_up_exps.weight", 2 * ffn, ffn, ffn, d);
    } else {
        w->expert_gate = experts(b, c, l, "ffn_gate_exps.weight", ffn, 0, ffn, d);
        w->expert_up = experts(b, c, l, "ffn_up_exps.weight", ffn, 0, ffn, d);
    }
    w->expert_down = experts(b, c, l, "ffn_down_exps.weight", d, 0, d, ffn);
    w->expert_scale = layer_vector(b, l, "ffn_down_exps.scale", c->experts);
}

static void bind_layer(binder *b, const eg_config *c, int32_t l)
{
    eg_layer *w = &b->weights->layer[l];
    int64_t d = c->hidden, ffn = c->layer[l].ffn;
    bind_attention(b, c, l);
    w->ffn_norm = layer_vector(b, l, "ffn_norm.weight", d);
    w->gate = layer_matrix(b, l, "ffn_gate.weight", ffn, d);
    w->up = layer_matrix(b, l, "ffn_up.weight", ffn, d);
    w->down = layer_matrix(b, l, "ffn_down.weight", d, ffn);
    w->post_ffw_norm = layer_vector(b, l, "post_ffw_norm.weight", d);
    char name[NAME];
    layer_name(name, l, "layer_output_scale.weight");
    const float *scale = find(b, name, false) ? vector(b, name, 1) : NULL;
    w->output_scale = scale ? *scale : 1;
    if (c->experts) bind_experts(b, c, l);
    if (c->per_layer) {
        w->inp_gate = layer_matrix(b, l, "inp_gate.weight", c->per_layer, d);
        w->proj = layer_matrix(b, l, "proj.weight", d, c->per_layer);
        w->post_norm = layer_vector(b, l, "post_norm.weight", d);
    }
}

eg_status eg_weights_bind(const eg_gguf *file, eg_config *c, eg_weights *w, eg_error *err)
{
    memset(w, 0, sizeof *w);
    w->layer = calloc((size_t)c->layers, sizeof *w->layer);
    if (!w->layer) return eg_fail(err, EG_ERROR_MEMORY, "%s: out of memory.", eg_gguf_name(file));
    w->heap_bytes = (uint64_t)c->layers * sizeof *w->layer;
    binder b = {file, w, err, EG_OK};

    const eg_gguf_tensor *embd = find(&b, "token_embd.weight", true);
    if (embd && (embd->dims[1] < 1 || embd->dims[1] > INT32_MAX))
        b.status = eg_fail(err, EG_ERROR_FORMAT, "%s: the tensor 'token_embd.weight' has %lld rows.", eg_gguf_name(file),
                           (long long)embd->dims[1]);
    c->vocab = embd && !b.status ? (int32_t)embd->dims[1] : 0;
    w->token_embd = matrix(&b, "token_embd.weight", c->vocab, c->hidden);
    w->output = find(&b, "output.weight", false) ? matrix(&b, "output.weight", c->vocab, c->hidden) : w->token_embd;
    w->output_norm = vector(&b, "output_norm.weight", c->hidden);
    if (find(&b, "rope_freqs.weight", false)) w->rope_freqs = vector(&b, "rope_freqs.weight", c->head_dim_global / 2);
    if (c->per_layer) {
        int64_t width = (int64_t)c->layers * c->per_layer;
        w->per_layer_token_embd = matrix(&b, "per_layer_token_embd.weight", c->vocab, width);
        w->per_layer_model_proj = matrix(&b, "per_layer_model_proj.weight", width, c->hidden);
        w->per_layer_proj_norm = vector(&b, "per_layer_proj_norm.weight", c->per_layer);
    }
    for (int32_t l = 0; l < c->layers && !b.status; l++) bind_layer(&b, c, l);
    if (b.status) eg_weights_free(w);
    return b.status;
}

void eg_weights_free(eg_weights *w)
{
    for (size_t i = 0; i < w->n_owned; i++) free(w->owned[i]);
    free(w->owned);
    free(w->layer);
    memset(w, 0, sizeof *w);
}

static uint64_t bytes_of(const eg_matrix *m) { return m->data ? (uint64_t)m->rows * m->row_bytes : 0; }

uint64_t eg_weights_decode_bytes(const eg_weights *w, const eg_config *c)
{
    uint64_t total = bytes_of(&w->output) + w->token_embd.row_bytes + bytes_of(&w->per_layer_model_proj) +
                     w->per_layer_token_embd.row_bytes;
    for (int32_t l = 0; l < c->layers; l++) {
        const eg_layer *y = &w->layer[l];
        const eg_matrix *all[] = {&y->q, &y->k, &y->v, &y->o, &y->gate, &y->up, &y->down, &y->inp_gate, &y->proj, &y->router};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) total += bytes_of(all[i]);
        total += (uint64_t)c->experts_used *
                 (bytes_of(&y->expert_gate.first) + bytes_of(&y->expert_up.first) + bytes_of(&y->expert_down.first));
    }
    return total;
}
