/* Binds the tensors of a text model by their names; see weights.h. */
#include "weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void layer_name(char out[EG_TENSOR_NAME], int32_t layer, const char *name)
{
    snprintf(out, EG_TENSOR_NAME, "blk.%d.%s", layer, name);
}

static eg_matrix layer_matrix(eg_binder *b, int32_t layer, const char *what, int64_t rows, int64_t cols)
{
    char name[EG_TENSOR_NAME];
    layer_name(name, layer, what);
    return eg_bind_matrix(b, name, rows, cols);
}

static const float *layer_vector(eg_binder *b, int32_t layer, const char *what, int64_t n)
{
    char name[EG_TENSOR_NAME];
    layer_name(name, layer, what);
    return eg_bind_vector(b, name, n);
}

static void bind_attention(eg_binder *b, const eg_config *c, int32_t l, eg_layer *w)
{
    const eg_layer_shape *s = &c->layer[l];
    int64_t d = c->hidden, q_rows = (int64_t)s->heads * s->head_dim, kv_rows = (int64_t)s->kv_heads * s->head_dim;
    char name[EG_TENSOR_NAME];

    layer_name(name, l, "attn_qkv.weight");
    const eg_gguf_tensor *fused = eg_bind_find(b, name, false);
    if (fused) {
        int64_t rows = s->owns_kv ? q_rows + 2 * kv_rows : fused->dims[1];   /* not used: K/V rows of a sharing layer */
        if (!eg_bind_check(b, fused, name, (const int64_t[4]){d, rows > q_rows ? rows : q_rows, 1, 1})) return;
        w->q = eg_matrix_from_tensor(fused, 0, q_rows);
        if (s->owns_kv) {
            w->k = eg_matrix_from_tensor(fused, q_rows, kv_rows);
            w->v = eg_matrix_from_tensor(fused, q_rows + kv_rows, kv_rows);
        }
    } else {
        w->q = layer_matrix(b, l, "attn_q.weight", q_rows, d);
        if (s->owns_kv) {
            w->k = layer_matrix(b, l, "attn_k.weight", kv_rows, d);
            layer_name(name, l, "attn_v.weight");
            if (eg_bind_find(b, name, false)) w->v = eg_bind_matrix(b, name, kv_rows, d);   /* absent: k_eq_v */
        }
    }
    w->o = layer_matrix(b, l, "attn_output.weight", d, q_rows);
    w->attn_norm = layer_vector(b, l, "attn_norm.weight", d);
    w->q_norm = layer_vector(b, l, "attn_q_norm.weight", s->head_dim);
    if (s->owns_kv) w->k_norm = layer_vector(b, l, "attn_k_norm.weight", s->head_dim);
    w->post_attention_norm = layer_vector(b, l, "post_attention_norm.weight", d);
}

/* Rows [first, first + rows) of every expert of a tensor [experts, all_rows, cols]. */
static eg_experts experts(eg_binder *b, const eg_config *c, int32_t l, const char *what, int64_t all_rows, int64_t first,
                          int64_t rows, int64_t cols)
{
    char name[EG_TENSOR_NAME];
    layer_name(name, l, what);
    const eg_gguf_tensor *t = eg_bind_find(b, name, true);
    if (!eg_bind_check(b, t, name, (const int64_t[4]){cols, all_rows, c->experts, 1})) return (eg_experts){0};
    return (eg_experts){eg_matrix_from_tensor(t, first, rows), (size_t)all_rows * eg_matrix_from_tensor(t, 0, 1).row_bytes};
}

static void bind_experts(eg_binder *b, const eg_config *c, int32_t l, eg_layer *w)
{
    int64_t d = c->hidden, ffn = c->expert_ffn;
    char name[EG_TENSOR_NAME];
    w->router = layer_matrix(b, l, "ffn_gate_inp.weight", c->experts, d);
    w->router_scale = layer_vector(b, l, "ffn_gate_inp.scale", d);
    w->pre_ffw_norm_2 = layer_vector(b, l, "pre_ffw_norm_2.weight", d);
    w->post_ffw_norm_1 = layer_vector(b, l, "post_ffw_norm_1.weight", d);
    w->post_ffw_norm_2 = layer_vector(b, l, "post_ffw_norm_2.weight", d);
    layer_name(name, l, "ffn_gate_up_exps.weight");
    if (eg_bind_find(b, name, false)) {
        w->expert_gate = experts(b, c, l, "ffn_gate_up_exps.weight", 2 * ffn, 0, ffn, d);
        w->expert_up = experts(b, c, l, "ffn_gate_up_exps.weight", 2 * ffn, ffn, ffn, d);
    } else {
        w->expert_gate = experts(b, c, l, "ffn_gate_exps.weight", ffn, 0, ffn, d);
        w->expert_up = experts(b, c, l, "ffn_up_exps.weight", ffn, 0, ffn, d);
    }
    w->expert_down = experts(b, c, l, "ffn_down_exps.weight", d, 0, d, ffn);
    w->expert_scale = layer_vector(b, l, "ffn_down_exps.scale", c->experts);
}

static void bind_layer(eg_binder *b, const eg_config *c, int32_t l, eg_layer *w)
{
    int64_t d = c->hidden, ffn = c->layer[l].ffn;
    bind_attention(b, c, l, w);
    w->ffn_norm = layer_vector(b, l, "ffn_norm.weight", d);
    w->gate = layer_matrix(b, l, "ffn_gate.weight", ffn, d);
    w->up = layer_matrix(b, l, "ffn_up.weight", ffn, d);
    w->down = layer_matrix(b, l, "ffn_down.weight", d, ffn);
    w->post_ffw_norm = layer_vector(b, l, "post_ffw_norm.weight", d);
    char name[EG_TENSOR_NAME];
    layer_name(name, l, "layer_output_scale.weight");
    const float *scale = eg_bind_find(b, name, false) ? eg_bind_vector(b, name, 1) : NULL;
    w->output_scale = scale ? *scale : 1;
    if (c->experts) bind_experts(b, c, l, w);
    if (c->per_layer) {
        w->inp_gate = layer_matrix(b, l, "inp_gate.weight", c->per_layer, d);
        w->proj = layer_matrix(b, l, "proj.weight", d, c->per_layer);
        w->post_norm = layer_vector(b, l, "post_norm.weight", d);
    }
}

eg_status eg_weights_bind(const eg_gguf *file, eg_config *c, eg_weights *w, eg_error *err)
{
    memset(w, 0, sizeof *w);
    w->file = file;
    w->layer = calloc((size_t)c->layers, sizeof *w->layer);
    if (!w->layer) return eg_fail(err, EG_ERROR_MEMORY, "%s: out of memory.", eg_gguf_name(file));
    w->heap_bytes = (uint64_t)c->layers * sizeof *w->layer;
    eg_binder b = {file, &w->owned, err, EG_OK};

    const eg_gguf_tensor *embd = eg_bind_find(&b, "token_embd.weight", true);
    if (embd && (embd->dims[1] < 1 || embd->dims[1] > INT32_MAX))
        b.status = eg_fail(err, EG_ERROR_FORMAT, "%s: the tensor 'token_embd.weight' has %lld rows.", eg_gguf_name(file),
                           (long long)embd->dims[1]);
    c->vocab = embd && !b.status ? (int32_t)embd->dims[1] : 0;
    bool tied = !eg_bind_find(&b, "output.weight", false);
    w->token_embd = tied ? eg_bind_matrix(&b, "token_embd.weight", c->vocab, c->hidden)
                         : eg_bind_table(&b, "token_embd.weight", c->vocab, c->hidden);
    w->output = tied ? w->token_embd : eg_bind_matrix(&b, "output.weight", c->vocab, c->hidden);
    if (eg_bind_find(&b, "output_lean.weight", false))
        w->output_lean = eg_bind_matrix(&b, "output_lean.weight", c->vocab, c->hidden);
    w->output_norm = eg_bind_vector(&b, "output_norm.weight", c->hidden);
    if (eg_bind_find(&b, "rope_freqs.weight", false))
        w->rope_freqs = eg_bind_vector(&b, "rope_freqs.weight", c->head_dim_global / 2);
    if (c->per_layer) {
        int64_t width = (int64_t)c->layers * c->per_layer;
        w->per_layer_token_embd = eg_bind_table(&b, "per_layer_token_embd.weight", c->vocab, width);
        w->per_layer_model_proj = eg_bind_matrix(&b, "per_layer_model_proj.weight", width, c->hidden);
        w->per_layer_proj_norm = eg_bind_vector(&b, "per_layer_proj_norm.weight", c->per_layer);
    }
    for (int32_t l = 0; l < c->layers && !b.status; l++) bind_layer(&b, c, l, &w->layer[l]);
    if (b.status) eg_weights_free(w);
    return b.status;
}

void eg_weights_free(eg_weights *w)
{
    eg_owned_free(&w->owned);
    free(w->layer);
    memset(w, 0, sizeof *w);
}

static uint64_t bytes_of(const eg_matrix *m)
{
    return m->data ? (uint64_t)m->rows * (m->row_bytes + (uint64_t)m->scales * sizeof *m->scale) : 0;
}

uint64_t eg_weights_decode_bytes(const eg_weights *w, const eg_config *c)
{
    const eg_matrix *head = w->output_lean.data ? &w->output_lean : &w->output;
    uint64_t total = bytes_of(head) + w->token_embd.row_bytes + bytes_of(&w->per_layer_model_proj) +
                     w->per_layer_token_embd.row_bytes;
    for (int32_t l = 0; l < c->layers; l++) {
        const eg_layer *layer = &w->layer[l];
        const eg_matrix *all[] = {&layer->q,  &layer->k,    &layer->v,        &layer->o,    &layer->gate,
                                  &layer->up, &layer->down, &layer->inp_gate, &layer->proj, &layer->router};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) total += bytes_of(all[i]);
        total += (uint64_t)c->experts_used * (bytes_of(&layer->expert_gate.first) + bytes_of(&layer->expert_up.first) +
                                              bytes_of(&layer->expert_down.first));
    }
    return total;
}
