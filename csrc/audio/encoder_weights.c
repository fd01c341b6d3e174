/* Reads the configuration of the audio encoder from an mmproj file and binds its tensors; see encoder.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/map.h"
#include "../nn/keys.h"
#include "encoder.h"
#include "mel.h"

enum { MAX_FEATURES = 1024 };

static eg_status read_config(const eg_gguf *file, eg_audio_config *c, eg_error *err)
{
    eg_span projector = eg_keys_text(file, "clip.audio.projector_type");
    if (!projector.length) projector = eg_keys_text(file, "clip.projector_type");   /* in files with one encoder */
    c->unified = eg_span_is(projector, "gemma4ua");
    if (!c->unified && !eg_span_is(projector, "gemma4a"))
        return eg_fail(err, EG_ERROR_UNSUPPORTED,
                       "%s: the key 'clip.audio.projector_type' is '%.*s'; only 'gemma4a' and 'gemma4ua' encoders "
                       "can be run.",
                       eg_gguf_name(file), (int)(projector.length < 64 ? projector.length : 64),
                       projector.length ? projector.data : "");
    eg_keys keys = {file, "clip.audio", err, EG_OK};
    if (c->unified) {
        c->features = EG_MEL_HOP;
        c->output = EG_AUDIO_FRAMES * EG_MEL_HOP;
        return EG_OK;
    }
    c->layers = eg_keys_integer(&keys, "block_count", 1, EG_AUDIO_MAX_LAYERS, true, 0);
    c->width = eg_keys_integer(&keys, "embedding_length", 4, EG_MAX_WIDTH, true, 0);
    c->ffn = eg_keys_integer(&keys, "feed_forward_length", 1, EG_MAX_WIDTH, true, 0);
    c->heads = eg_keys_integer(&keys, "attention.head_count", 1, EG_MAX_WIDTH, true, 0);
    c->features = eg_keys_integer(&keys, "num_mel_bins", 4, MAX_FEATURES, false, 128);
    eg_keys_check(&keys, keys.status || (c->width % c->heads == 0 && c->width % 2 == 0),
                  "the key 'clip.audio.embedding_length' is not an even multiple of the number of heads.");
    return keys.status;
}

static eg_clipped clipped(eg_binder *b, int32_t l, const char *what, int64_t rows, int64_t cols)
{
    char name[EG_TENSOR_NAME];
    snprintf(name, sizeof name, "a.blk.%d.%s", l, what);
    return eg_bind_clipped(b, name, rows, cols);
}

static const float *vector(eg_binder *b, int32_t l, const char *what, int64_t n)
{
    char name[EG_TENSOR_NAME];
    snprintf(name, sizeof name, "a.blk.%d.%s.weight", l, what);
    return eg_bind_vector(b, name, n);
}

static void bind_layer(eg_binder *b, const eg_audio_config *c, int32_t l, eg_audio_layer *w)
{
    static const char *const ffw[2][4] = {{"ffn_norm", "ffn_post_norm", "ffn_up", "ffn_down"},
                                          {"ffn_norm_1", "ffn_post_norm_1", "ffn_up_1", "ffn_down_1"}};
    int64_t d = c->width;
    for (int i = 0; i < 2; i++) {
        w->ffw[i].pre = vector(b, l, ffw[i][0], d);
        w->ffw[i].post = vector(b, l, ffw[i][1], d);
        w->ffw[i].up = clipped(b, l, ffw[i][2], c->ffn, d);
        w->ffw[i].down = clipped(b, l, ffw[i][3], d, c->ffn);
    }
    w->pre_attention = vector(b, l, "attn_pre_norm", d);
    w->post_attention = vector(b, l, "attn_post_norm", d);
    w->per_dim_scale = vector(b, l, "per_dim_scale", c->head_dim);
    w->q = clipped(b, l, "attn_q", d, d);
    w->k = clipped(b, l, "attn_k", d, d);
    w->v = clipped(b, l, "attn_v", d, d);
    w->out = clipped(b, l, "attn_out", d, d);
    char name[EG_TENSOR_NAME];
    snprintf(name, sizeof name, "a.blk.%d.attn_k_rel.weight", l);
    w->k_rel = eg_bind_matrix(b, name, d, d);
    w->pre_conv = vector(b, l, "conv_norm", d);
    w->post_conv = vector(b, l, "norm_conv", d);
    snprintf(name, sizeof name, "a.blk.%d.conv_dw.weight", l);
    w->conv_dw = eg_bind_floats(b, name, (const int64_t[4]){EG_AUDIO_KERNEL, d, 1, 1});
    w->pw1 = clipped(b, l, "conv_pw1", 2 * d, d);
    w->pw2 = clipped(b, l, "conv_pw2", d, d);
    w->out_norm = vector(b, l, "ln2", d);
}

/* Convolution i; the number of channels comes from the tensor's shape. The weights are copied to the order (place, input), so
 * that a patch is made of contiguous runs of the input, and padded with zeros to a multiple of 16. */
static void bind_convolution(eg_binder *b, eg_audio_weights *w, int i)
{
    eg_audio_config *c = &w->config;
    int64_t inputs = i ? c->channels[i - 1] : 1;
    int32_t height = i ? c->rows[i - 1] : c->features;
    char name[EG_TENSOR_NAME];
    snprintf(name, sizeof name, "a.conv1d.%d.weight", i);
    const eg_gguf_tensor *t = eg_bind_find(b, name, true);
    int64_t channels = t && t->dims[3] >= 1 && t->dims[3] <= EG_MAX_WIDTH / 16 ? t->dims[3] : 1;
    const float *values = eg_bind_floats(b, name, (const int64_t[4]){3, 3, inputs, channels});
    int64_t cols = (9 * inputs + 15) / 16 * 16;
    float *copy = values ? eg_bind_room(b, name, channels * cols) : NULL;
    for (int64_t o = 0; copy && o < channels; o++)
        for (int64_t input = 0; input < inputs; input++)
            for (int64_t place = 0; place < 9; place++)
                copy[o * cols + place * inputs + input] = values[(o * inputs + input) * 9 + place];
    c->channels[i] = (int32_t)channels;
    c->rows[i] = (height - 1) / 2 + 1;
    w->conv[i] = (eg_matrix){.data = (const uint8_t *)copy,
                             .type = eg_type_find(EG_TYPE_F32),
                             .rows = channels,
                             .cols = cols,
                             .row_bytes = (size_t)cols * sizeof *copy};
    snprintf(name, sizeof name, "a.conv1d.%d.norm.weight", i);
    w->conv_norm[i] = eg_bind_vector(b, name, channels);
}

/* All but the projection. */
static void bind_encoder(eg_binder *b, eg_audio_weights *w)
{
    eg_audio_config *c = &w->config;
    c->head_dim = c->width / c->heads;
    for (int i = 0; i < EG_AUDIO_CHANNELS; i++) bind_convolution(b, w, i);
    w->input = eg_bind_matrix(b, "a.input_projection.weight", c->width, (int64_t)c->rows[1] * c->channels[1]);
    for (int32_t l = 0; l < c->layers && !b->status; l++) bind_layer(b, c, l, &w->layer[l]);
    const eg_gguf_tensor *output = eg_bind_find(b, "a.pre_encode.out.weight", true);
    c->output = output && output->dims[1] >= 1 && output->dims[1] <= EG_MAX_WIDTH ? (int32_t)output->dims[1] : 1;
    w->output = eg_bind_matrix(b, "a.pre_encode.out.weight", c->output, c->width);
    w->output_bias = eg_bind_vector(b, "a.pre_encode.out.bias", c->output);
}

eg_status eg_audio_bind(const eg_gguf *file, int32_t hidden, eg_audio_weights *w, bool *present, eg_error *err)
{
    memset(w, 0, sizeof *w);
    *present = false;
    if (!eg_keys_flag(file, "clip.has_audio_encoder")) return EG_OK;
    eg_audio_config *c = &w->config;
    eg_status status = read_config(file, c, err);
    if (status) return status;
    c->hidden = hidden;
    if (c->layers && !(w->layer = calloc((size_t)c->layers, sizeof *w->layer)))
        return eg_fail(err, EG_ERROR_MEMORY, "%s: out of memory.", eg_gguf_name(file));
    w->heap_bytes = (uint64_t)c->layers * sizeof *w->layer;

    eg_binder b = {file, &w->owned, err, EG_OK};
    if (!c->unified) bind_encoder(&b, w);
    w->projection = eg_bind_projection(&b, "mm.a.input_projection.weight", "audio", hidden, c->output);
    if (b.status) {
        eg_audio_free(w);
        return b.status;
    }
    *present = true;
    return EG_OK;
}

void eg_audio_free(eg_audio_weights *w)
{
    eg_owned_free(&w->owned);
    free(w->layer);
    memset(w, 0, sizeof *w);
}

void eg_audio_release_pages(const eg_audio_weights *w)
{
    for (int32_t l = 0; l < w->config.layers; l++) {
        const eg_audio_layer *layer = &w->layer[l];
        const eg_matrix *all[] = {&layer->ffw[0].up.w, &layer->ffw[0].down.w, &layer->q.w,          &layer->k.w,
                                  &layer->v.w,         &layer->out.w,         &layer->k_rel,        &layer->pw1.w,
                                  &layer->pw2.w,       &layer->ffw[1].up.w,   &layer->ffw[1].down.w};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            eg_map_advise(all[i]->data, (uint64_t)all[i]->rows * all[i]->row_bytes, EG_ADVICE_DONTNEED);
    }
}
