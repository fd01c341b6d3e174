/* The configuration of a Gemma 4 text model, read from GGUF metadata and checked. */
#ifndef EG_DECODER_CONFIG_H
#define EG_DECODER_CONFIG_H

#include "../format/gguf.h"

enum { EG_MAX_LAYERS = 512 };

typedef struct eg_layer_shape {
    bool local;                /* sliding window and local RoPE; else global */
    bool owns_kv;
    int32_t kv_source;         /* the layer whose K/V this layer reads: itself if owns_kv */
    int32_t heads, kv_heads, head_dim;
    int32_t ffn;               /* feed_forward_length */
} eg_layer_shape;

typedef struct eg_config {
    int32_t layers, kv_layers; /* layers [0, kv_layers) own K/V */
    int32_t hidden, context, window;
    int32_t per_layer;         /* hidden_size_per_layer_input, 0: none */
    int32_t experts, experts_used, expert_ffn;   /* 0: no experts */
    int32_t vocab;             /* from the tensor token_embd.weight */
    int32_t head_dim_local, head_dim_global;
    float eps, softcap;        /* softcap 0: none */
    float theta_local, theta_global;
    eg_layer_shape layer[EG_MAX_LAYERS];
} eg_config;

/* Fills *config from the metadata of `file`. Errors name the file and the key. */
eg_status eg_config_read(const eg_gguf *file, eg_config *config, eg_error *err);

#endif
