/* Fuzzes the binding of an mmproj file: any bytes must give an encoder whose every tensor can be read to its end, or an error
 * with a whole sentence. */
#include "memory_map.h"

#include "audio/encoder.h"

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

static void walk(const eg_audio_weights *w)
{
    const eg_audio_config *c = &w->config;
    int64_t d = c->width, inputs = 1;
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *path = memory_map_set(data, size);
    eg_error err = {.struct_size = sizeof err};
    eg_gguf *file;
    if (eg_gguf_open(path, -1, 0, 0, &file, &err)) return 0;
    eg_audio_weights weights;
    bool present;
    eg_status status = eg_audio_bind(file, HIDDEN, &weights, &present, &err);
    if (status) {
        size_t length = strnlen(err.message, sizeof err.message);
        REQUIRE(err.status == status && length > 10 && (err.message[length - 1] == '.' || length > 400));
    } else if (present) {
        walk(&weights);
        eg_audio_release_pages(&weights);
        eg_audio_free(&weights);
    }
    eg_gguf_close(file);
    return 0;
}
