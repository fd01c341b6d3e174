/* Fuzzes the binding of an mmproj file: any bytes must give encoders whose every tensor can be read to its end, or an error
 * with a whole sentence. */
#include "memory_map.h"

#include "audio/encoder.h"
#include "audio/mel.h"
#include "vision/encoder.h"

#include <stdlib.h>
#include <string.h>

#define REQUIRE(condition) \
    do { \
        if (!(condition)) abort(); \
    } while (0)

enum { HIDDEN = 8 };

static volatile unsigned sink;   /* keeps the reads */

static void touch(const void *data, size_t bytes)
{
    const uint8_t *p = data;
    unsigned sum = 0;
    REQUIRE(p || !bytes);
    for (size_t i = 0; i < bytes; i++) sum += p[i];
    sink += sum;
}

static void matrix(const eg_matrix *w, int64_t rows, int64_t cols)
{
    REQUIRE(w->rows == rows && w->cols == cols && w->type);
    touch(w->data, (size_t)rows * w->row_bytes);
}

static void vector(const float *v, int64_t n) { touch(v, (size_t)n * sizeof *v); }

static void walk_audio(const eg_audio_weights *w)
{
    const eg_audio_config *c = &w->config;
    int64_t d = c->width, inputs = 1;
    if (c->unified) {
        REQUIRE(!c->layers && c->output == EG_AUDIO_FRAMES * EG_MEL_HOP && c->hidden == HIDDEN);
        matrix(&w->projection, HIDDEN, c->output);
        return;
    }
    REQUIRE(c->layers >= 1 && c->layers <= EG_AUDIO_MAX_LAYERS && c->heads * c->head_dim == c->width && c->hidden == HIDDEN);
    for (int i = 0; i < EG_AUDIO_CHANNELS; inputs = c->channels[i++]) {
        matrix(&w->conv[i], c->channels[i], (9 * inputs + 15) / 16 * 16);
        vector(w->conv_norm[i], c->channels[i]);
    }
    matrix(&w->input, d, (int64_t)c->rows[1] * c->channels[1]);
    for (int32_t l = 0; l < c->layers; l++) {
        const eg_audio_layer *y = &w->layer[l];
        for (int i = 0; i < 2; i++) {
            vector(y->ffw[i].pre, d), vector(y->ffw[i].post, d);
            matrix(&y->ffw[i].up.w, c->ffn, d), matrix(&y->ffw[i].down.w, d, c->ffn);
        }
        const eg_matrix *square[] = {&y->q.w, &y->k.w, &y->v.w, &y->out.w, &y->k_rel, &y->pw2.w};
        for (int i = 0; i < 6; i++) matrix(square[i], d, d);
        matrix(&y->pw1.w, 2 * d, d);
        const float *norms[] = {y->pre_attention, y->post_attention, y->pre_conv, y->post_conv, y->out_norm};
        for (int i = 0; i < 5; i++) vector(norms[i], d);
        vector(y->per_dim_scale, c->head_dim);
        vector(y->conv_dw, EG_AUDIO_KERNEL * d);
    }
    matrix(&w->output, c->output, d);
    vector(w->output_bias, c->output);
    matrix(&w->projection, HIDDEN, c->output);
}

static void walk_vision(const eg_vision_weights *w)
{
    const eg_vision_config *c = &w->config;
    const int64_t d = c->width, pixels = 3 * (int64_t)c->patch * c->patch;
    REQUIRE(c->unified ? !c->layers && c->pool == 1 : c->layers >= 1 && c->heads * c->head_dim == c->width);
    REQUIRE(c->layers <= EG_VISION_MAX_LAYERS && c->patch > 0 && c->pool > 0 && c->hidden == HIDDEN && c->positions > 0);
    matrix(&w->patch, d, pixels);
    for (int i = 0; i < 2; i++) matrix(&w->position[i], c->positions, d);
    for (int i = 0; c->unified && i < EG_VISION_NORMS; i++) {
        vector(w->norm[i], i ? d : pixels), vector(w->norm_bias[i], i ? d : pixels);
    }
    if (c->unified) vector(w->patch_bias, d);
    for (int32_t l = 0; l < c->layers; l++) {
        const eg_vision_layer *y = &w->layer[l];
        const float *norms[] = {y->attention_norm, y->post_attention, y->ffn_norm, y->post_ffn};
        for (int i = 0; i < 4; i++) vector(norms[i], d);
        vector(y->q_norm, c->head_dim), vector(y->k_norm, c->head_dim);
        const eg_matrix *square[] = {&y->q.w, &y->k.w, &y->v.w, &y->out.w};
        for (int i = 0; i < 4; i++) matrix(square[i], d, d);
        matrix(&y->gate.w, c->ffn, d), matrix(&y->up.w, c->ffn, d), matrix(&y->down.w, d, c->ffn);
    }
    REQUIRE(!w->std_scale == !w->std_bias);
    if (w->std_scale) vector(w->std_scale, d), vector(w->std_bias, d);
    matrix(&w->projection, HIDDEN, d);
}

static void check_sentence(eg_status status, const eg_error *err)
{
    size_t length = strnlen(err->message, sizeof err->message);
    REQUIRE(err->status == status && length > 10 && (err->message[length - 1] == '.' || length > 400));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *path = memory_map_set(data, size);
    eg_error err = {.struct_size = sizeof err};
    eg_gguf *file;
    if (eg_gguf_open(path, -1, 0, 0, true, &file, &err)) return 0;
    eg_audio_weights audio;
    eg_vision_weights vision;
    bool present;
    eg_status status = eg_audio_bind(file, HIDDEN, &audio, &present, &err);
    if (status) {
        check_sentence(status, &err);
    } else if (present) {
        walk_audio(&audio);
        eg_audio_release_pages(&audio);
        eg_audio_free(&audio);
    }
    status = eg_vision_bind(file, HIDDEN, &vision, &present, &err);
    if (status) {
        check_sentence(status, &err);
    } else if (present) {
        walk_vision(&vision);
        eg_vision_free(&vision);
    }
    eg_gguf_close(file);
    return 0;
}
