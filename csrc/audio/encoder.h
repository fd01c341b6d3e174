/* The streaming audio encoder: log-mel frames to soft tokens.
 *
 * The 12B has no encoder ("unified", gemma4ua): its frames are samples as they are, and a token is the projection of four frames.
 * It has no state and no layers, and of the weights below only the projection.
 *
 * A conformer over tokens of 40 ms (four frames). It is causal, except for the two strided convolutions in front, which look
 * ahead by three frames. The state between calls is small: the last frame, the last row of the first convolution, and for each
 * layer the last keys, values and inputs of the depthwise convolution. So a recording that is cut into calls in any way gives
 * the same bits. Only differences of positions matter, so a stream may run without end.
 *
 * A stream owns that state alone (in the owner's arena); the buffers of a block are borrowed. Knows nothing of samples, models or
 * timelines.
 */
#ifndef EG_AUDIO_ENCODER_H
#define EG_AUDIO_ENCODER_H

#include "../nn/clipped.h"
#include "../nn/multiply.h"

enum {
    EG_AUDIO_BLOCK = 64,       /* tokens encoded together */
    EG_AUDIO_FRAMES = 4,       /* frames of a token */
    EG_AUDIO_CHANNELS = 2,     /* strided convolutions in front */
    EG_AUDIO_KERNEL = 5,       /* of the depthwise convolution */
    EG_AUDIO_REACH = 13,       /* relative positions that the model knows, 0 .. 12 */
    EG_AUDIO_CONTEXT = 12,     /* tokens that a token sees, itself included, unless asked for 13 */
    EG_AUDIO_MAX_LAYERS = 64
};

typedef struct eg_audio_config {
    bool unified;
    int32_t layers, width, heads, head_dim, ffn;
    int32_t features;          /* num_mel_bins, or the samples of a frame */
    int32_t channels[EG_AUDIO_CHANNELS], rows[EG_AUDIO_CHANNELS];   /* of the outputs; rows along frequency */
    int32_t output, hidden;    /* width of the tower's output, and of a soft token */
} eg_audio_config;

typedef struct eg_audio_ffw {
    const float *pre, *post;
    eg_clipped up, down;
} eg_audio_ffw;

typedef struct eg_audio_layer {
    eg_audio_ffw ffw[2];               /* up [F, w], down [w, F] */
    const float *pre_attention, *post_attention;   /* attn_pre_norm, attn_post_norm [w] */
    const float *per_dim_scale;        /* [head_dim]; the file has applied softplus to it */
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

/* Binds the audio encoder of an mmproj file; its soft tokens must be `hidden` wide. If the file has no audio encoder, *present
 * is false and nothing is bound. Errors name the file and the tensor or key. After a failure there is nothing to free. */
eg_status eg_audio_bind(const eg_gguf *file, int32_t hidden, eg_audio_weights *weights, bool *present, eg_error *err);
void eg_audio_free(eg_audio_weights *weights);

/* Releases the weights' pages; the next access reads them from the file again. */
void eg_audio_release_pages(const eg_audio_weights *weights);

typedef struct eg_audio_state {        /* of one layer */
    float *k, *v;              /* [context - 1, w]: of the last tokens */
    float *g;                  /* [KERNEL - 1, w]: the last inputs of the depthwise convolution */
} eg_audio_state;

/* A stream: what one block leaves for the next. */
typedef struct eg_audio {
    const eg_audio_weights *weights;
    const float *relative;     /* [layers, REACH, w]: keys of relative positions, from eg_audio_relative */
    int32_t context;           /* tokens that a token sees, itself included */
    int64_t position;          /* tokens so far */
    eg_audio_state *state;     /* [layers] */
    float *frame;              /* [features] the last one */
    float *row;                /* [rows, channels] the last one of the first convolution */
} eg_audio;

/* What a block needs while it is encoded; streams borrow it. */
typedef struct eg_audio_work {
    const eg_audio_weights *weights;
    eg_matmul matmul;
    float *frames;             /* [1 + BLOCK * FRAMES, features]: the last frame, then the block's */
    float *rows;               /* [1 + BLOCK * 2, rows, channels] of the first convolution: the last, then the block's */
    float *k, *v;              /* [REACH - 1 + BLOCK, w] of one layer: history, then the block */
    float *g;                  /* [KERNEL - 1 + BLOCK, w] */
    float *x, *h, *t;          /* [B, w] */
    float *q;                  /* [B, w] */
    float *wide;               /* [B, largest of F, 2w, rows * channels, output] */
    void *memory;
    size_t bytes;
} eg_audio_work;

/* The caller sets weights and context before. */
void eg_audio_layout(eg_audio *audio, eg_arena *arena);
/* NULL without memory. */
eg_audio_work *eg_audio_work_open(const eg_audio_weights *weights, eg_pool *pool);
void eg_audio_work_close(eg_audio_work *work);
/* Computes out[layers, REACH, w], which is the same for all streams of these weights. The caller has the turn, and sets
 * `relative` to the result before a stream encodes. */
void eg_audio_relative(eg_audio_work *work, float *out);
/* Begins a new recording. */
void eg_audio_reset(eg_audio *audio);
/* Copies the state of `from` to `to`, which has the same weights and context. */
void eg_audio_copy(eg_audio *to, const eg_audio *from);

/* Encodes n frames to soft tokens out[ceil(n / FRAMES), hidden]. n is at most BLOCK * FRAMES, and a multiple of FRAMES unless
 * these are the last frames of the recording. The caller has the turn, which others get between layers. False if it was stopped:
 * call eg_audio_reset before the next use. */
bool eg_audio_encode(eg_audio *audio, eg_audio_work *work, eg_turn *turn, const float *frames, int64_t n, float *out);

#endif
