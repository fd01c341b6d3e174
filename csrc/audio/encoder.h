/* The audio encoder: log-mel frames to soft tokens, streaming.
 *
 * A causal conformer over tokens of 40 ms, four frames each; only the two strided convolutions in front of it look ahead, by
 * three frames. So the state between calls is small, and a recording cut in any way gives the same bits:
 *
 *   the last frame, the last row of the first convolution, and for each layer the last keys, values and inputs of its
 *   depthwise convolution. Relative positions depend on differences alone, so a stream may run without end.
 *
 * Owns its buffers (in the owner's arenas); knows nothing of samples, models or timelines.
 */
#ifndef EG_AUDIO_ENCODER_H
#define EG_AUDIO_ENCODER_H

#include <stdatomic.h>

#include "../nn/binder.h"
#include "../nn/multiply.h"

enum {
    EG_AUDIO_BLOCK = 64,       /* tokens encoded together */
    EG_AUDIO_FRAMES = 4,       /* frames of a token */
    EG_AUDIO_CHANNELS = 2,     /* convolutions in front */
    EG_AUDIO_KERNEL = 5,       /* of the depthwise convolution */
    EG_AUDIO_REACH = 13,       /* relative positions that the model knows, 0 .. 12 */
    EG_AUDIO_CONTEXT = 12,     /* tokens that a token sees, itself included, unless asked for 13 */
    EG_AUDIO_MAX_LAYERS = 64
};

typedef struct eg_audio_config {
    int32_t layers, width, heads, head_dim, ffn;
    int32_t features;          /* num_mel_bins */
    int32_t channels[EG_AUDIO_CHANNELS], rows[EG_AUDIO_CHANNELS];   /* of each convolution's output; rows along frequency */
    int32_t output, hidden;    /* width of the tower's output, and of a soft token */
} eg_audio_config;

/* y = clamp(W clamp(x)) */
typedef struct eg_clipped {
    eg_matrix w;
    float in[2], out[2];       /* [least, largest] */
} eg_clipped;

typedef struct eg_audio_ffw {
    const float *pre, *post;
    eg_clipped up, down;
} eg_audio_ffw;

typedef struct eg_audio_layer {
    eg_audio_ffw ffw[2];               /* up [F, w], down [w, F] */
    const float *pre_attention, *post_attention;   /* attn_pre_norm, attn_post_norm [w] */
    const float *per_dim_scale;        /* [head_dim]; softplus is in it */
    eg_clipped q, k, v, out;           /* [w, w] */
    eg_matrix k_rel;                   /* [w, w] */
    const float *pre_conv, *post_conv; /* conv_norm and norm_conv [w]: before the first matrix, after the depthwise one */
    const float *conv_dw;              /* [w, KERNEL] */
    eg_clipped pw1, pw2;               /* [2w, w], [w, w] */
    const float *out_norm;             /* ln2 [w] */
} eg_audio_layer;

typedef struct eg_audio_weights {
    eg_audio_config config;
    eg_matrix conv[EG_AUDIO_CHANNELS]; /* [channels, 3 * 3 * inputs up to a multiple of 16], (time, frequency, input) */
    const float *conv_norm[EG_AUDIO_CHANNELS];
    eg_matrix input;                   /* [w, rows * channels], channels fastest */
    eg_matrix output;                  /* [output, w] */
    const float *output_bias;          /* [output] */
    eg_matrix projection;              /* [hidden, output] */
    eg_audio_layer *layer;             /* [layers] */
    eg_owned owned;
    uint64_t heap_bytes;
} eg_audio_weights;

/* Binds the audio encoder of an mmproj file, whose soft tokens must be `hidden` wide; *present is false, and nothing is bound,
 * when the file has none. Errors name file and tensor or key. After a failure there is nothing to free. */
eg_status eg_audio_bind(const eg_gguf *file, int32_t hidden, eg_audio_weights *weights, bool *present, eg_error *err);
void eg_audio_free(eg_audio_weights *weights);

/* Lets the system take the weights' pages out of memory; they come back when they are touched. */
void eg_audio_release_pages(const eg_audio_weights *weights);

typedef struct eg_audio_state {        /* of one layer */
    float *k, *v;              /* [CONTEXT or more + BLOCK, w]: history, then the block at hand */
    float *g;                  /* [KERNEL - 1 + BLOCK, w] */
} eg_audio_state;

typedef struct eg_audio {
    const eg_audio_weights *weights;
    eg_matmul matmul;
    atomic_bool *cancel;       /* checked once per layer */
    int32_t context;           /* tokens that a token sees, itself included */
    const float *relative;     /* [layers, REACH, w]: keys of relative positions, from eg_audio_relative */
    int64_t position;          /* tokens so far */
    eg_audio_state *state;     /* [layers] */
    float *frames;             /* [1 + BLOCK * FRAMES, features]: the last frame, then the block's */
    float *rows;               /* [1 + BLOCK * 2, rows, channels] of the first convolution: the last, then the block's */
    float *x, *h, *t;          /* [B, w] */
    float *q;                  /* [B, w] */
    float *wide;               /* [B, largest of F, 2w, rows * channels, output] */
} eg_audio;

/* The caller sets weights, matmul.kernels, matmul.pool, matmul.q8.two_term, cancel and context before. */
void eg_audio_layout(eg_audio *audio, eg_arena *arena);
/* out[layers, REACH, w], the same for all encoders of these weights. The caller sets `relative` to it before encoding. */
void eg_audio_relative(eg_audio *audio, float *out);
/* Begins a recording. */
void eg_audio_reset(eg_audio *audio);
/* Makes `to`, of the same weights and context, go on where `from` is. */
void eg_audio_copy(eg_audio *to, const eg_audio *from);

/* Soft tokens out[ceil(n / FRAMES), hidden] of n frames, at most BLOCK * FRAMES: a multiple of FRAMES unless these are the
 * last ones of the recording. False when cancelled: then reset before the next use. */
bool eg_audio_encode(eg_audio *audio, const float *frames, int64_t n, float *out);

#endif
