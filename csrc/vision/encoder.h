/* The vision encoder: the pixels of a resized picture to soft tokens.
 *
 * Two kinds. The encoders of E2B, E4B, 26B-A4B and 31B (gemma4v) are transformers over patches of 16 x 16 pixels, which all see
 * each other; the means of pool x pool patches become soft tokens. The 12B (gemma4uv) has no encoder: patches of 48 x 48 pixels
 * are normalized and projected.
 *
 * Owns its memory for the time of one picture. Knows nothing of models or timelines.
 */
#ifndef EG_VISION_ENCODER_H
#define EG_VISION_ENCODER_H

#include "../nn/clipped.h"
#include "../nn/multiply.h"

enum { EG_VISION_MAX_LAYERS = 128, EG_VISION_NORMS = 3 };

typedef struct eg_vision_config {
    bool unified;              /* gemma4uv */
    int32_t layers, width, heads, head_dim, ffn;
    int32_t patch, pool;       /* pixels along a patch, patches along a soft token; pool is 1 in the unified kind */
    int32_t positions;         /* patches along a side, at most */
    int32_t hidden;            /* width of a soft token */
} eg_vision_config;

typedef struct eg_vision_layer {
    const float *attention_norm, *post_attention, *ffn_norm, *post_ffn;   /* ln1, attn_post_norm, ln2, ffn_post_norm [w] */
    const float *q_norm, *k_norm;      /* [head_dim] */
    eg_clipped q, k, v, out;           /* [w, w] */
    eg_clipped gate, up, down;         /* [F, w], [F, w], [w, F] */
} eg_vision_layer;

typedef struct eg_vision_weights {
    eg_vision_config config;
    eg_matrix patch;           /* [w, 3 * patch * patch], columns in the order (channel, y, x) */
    const float *patch_bias;   /* [w]; unified */
    const float *norm[EG_VISION_NORMS], *norm_bias[EG_VISION_NORMS];   /* of the patch's pixels, [w], [w]; unified */
    eg_matrix position[2];     /* [positions, w]: by column, by row */
    const float *std_bias, *std_scale;   /* [w], or NULL */
    eg_matrix projection;      /* [hidden, w] */
    eg_vision_layer *layer;    /* [layers] */
    eg_owned owned;
    uint64_t heap_bytes;
} eg_vision_weights;

/* Binds the vision encoder of an mmproj file; its soft tokens must be `hidden` wide. If the file has no vision encoder, *present
 * is false and nothing is bound. Errors name the file and the tensor or key. After a failure there is nothing to free. */
eg_status eg_vision_bind(const eg_gguf *file, int32_t hidden, eg_vision_weights *weights, bool *present, eg_error *err);
void eg_vision_free(eg_vision_weights *weights);

/* Pixels along a soft token. */
static inline int64_t eg_vision_cell(const eg_vision_config *c) { return (int64_t)c->patch * c->pool; }

/* Told how far the encoder is. `report` may be NULL. */
typedef struct eg_progress {
    void (*report)(void *context, uint32_t done, uint32_t total);
    void *context;
} eg_progress;

/* Encodes rgb[height, width, 3], whose sides are multiples of the cell and within the positions, to
 * out[height / cell * (width / cell), hidden], row by row. The caller has the turn, which others get between pieces of work. Pages of
 * weights are released when they were used. EG_CANCELLED, EG_ERROR_MEMORY: `out` is undefined. */
eg_status eg_vision_encode(const eg_vision_weights *weights, eg_pool *pool, eg_turn *turn, const uint8_t *rgb, int64_t width,
                           int64_t height, const eg_progress *progress, float *out, eg_error *err);

#endif
