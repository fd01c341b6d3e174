/* Weights of the text model: typed, shape-checked pointers into the file's mapping. Owns the layer table and the few vectors
 * that the binder had to copy (nn/binder.h).
 */
#ifndef EG_DECODER_WEIGHTS_H
#define EG_DECODER_WEIGHTS_H

#include "../nn/binder.h"
#include "config.h"

/* One matrix for each expert: `first` is expert 0, and expert e is e * stride bytes behind it. */
typedef struct eg_experts {
    eg_matrix first;
    size_t stride;
} eg_experts;

typedef struct eg_layer {
    const float *attn_norm;            /* [d] */
    const float *q_norm, *k_norm;      /* [D]; k_norm only if the layer owns K/V */
    const float *post_attention_norm;  /* [d] */
    const float *ffn_norm, *post_ffw_norm;   /* [d] */
    float output_scale;                /* layer_output_scale; 1 if the file has none */
    eg_matrix q;                       /* [H*D, d] */
    eg_matrix k, v;                    /* [K*D, d]; v.data NULL: k's output is used (k_eq_v) */
    eg_matrix o;                       /* [d, H*D] */
    eg_matrix gate, up;                /* [F, d] */
    eg_matrix down;                    /* [d, F] */
    /* per-layer embeddings, if the model has them */
    eg_matrix inp_gate, proj;          /* [P, d], [d, P] */
    const float *post_norm;            /* [d] */
    /* experts, if the model has them */
    eg_matrix router;                  /* [E, d] */
    const float *router_scale;         /* [d] */
    const float *expert_scale;         /* [E] */
    const float *pre_ffw_norm_2, *post_ffw_norm_1, *post_ffw_norm_2;   /* [d] */
    eg_experts expert_gate, expert_up; /* [Fe, d] */
    eg_experts expert_down;            /* [d, Fe] */
} eg_layer;

typedef struct eg_weights {
    const eg_gguf *file;               /* whose they are */
    eg_matrix token_embd;              /* [V, d] */
    eg_matrix output;                  /* [V, d]; token_embd when tied */
    eg_matrix output_lean;             /* [V, d]: `output` in fewer bits, of a sidecar; data NULL without */
    const float *output_norm;          /* [d] */
    const float *rope_freqs;           /* [head_dim_global / 2], or NULL */
    eg_matrix per_layer_token_embd;    /* [V, L*P] */
    eg_matrix per_layer_model_proj;    /* [L*P, d] */
    const float *per_layer_proj_norm;  /* [P] */
    eg_layer *layer;                   /* [layers] */
    eg_owned owned;
    uint64_t heap_bytes;               /* of the layer table, without `owned` */
} eg_weights;

/* Fills *weights, and sets config->vocab. Missing tensors, wrong shapes and unknown types are errors that name the tensor.
 * After a failure there is nothing to free. */
eg_status eg_weights_bind(const eg_gguf *file, eg_config *config, eg_weights *weights, eg_error *err);
void eg_weights_free(eg_weights *weights);

/* Weight bytes that decoding one token reads: all matrices, of the experts only the chosen ones, and one row of each embedding
 * table. */
uint64_t eg_weights_decode_bytes(const eg_weights *weights, const eg_config *config);

#endif
