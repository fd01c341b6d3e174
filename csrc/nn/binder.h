/* Turns tensor names of a file into typed, shape-checked pointers into its mapping.
 *
 * Nothing is copied, except vectors that are not aligned F32 in the file (the format allows it; known files have none). The
 * copies belong to an eg_owned. A missing tensor, a wrong shape or an unknown type is an error that names the file and the
 * tensor. The first error stays in `status`, and later calls do nothing.
 *
 * A matrix X.weight of a per-channel type (QC2, QC4, QC8) has further F32 tensors. X.scale [rows] has the scales of its rows;
 * in a table it may be [scales, rows], fastest dimension first. X.input_scale and X.output_scale [1], if present, are the
 * fixed steps of the matrix's input and output.
 */
#ifndef EG_NN_BINDER_H
#define EG_NN_BINDER_H

#include "../format/gguf.h"
#include "../kernels/kernels.h"

enum { EG_TENSOR_NAME = 96 };

typedef struct eg_owned {
    void **items;
    size_t n;
    uint64_t bytes;
} eg_owned;

void eg_owned_free(eg_owned *owned);

typedef struct eg_binder {
    const eg_gguf *file;
    eg_owned *owned;
    eg_error *err;
    eg_status status;
} eg_binder;

/* The tensor of that name, or NULL if there is none. If it is `required`, that is an error. */
const eg_gguf_tensor *eg_bind_find(eg_binder *binder, const char *name, bool required);

/* Whether the tensor has the shape ne (fastest dimension first, as in GGUF) and a type whose blocks hold their scales;
 * anything else is an error. False for NULL, without an error. */
bool eg_bind_check(eg_binder *binder, const eg_gguf_tensor *tensor, const char *name, const int64_t ne[4]);

/* The matrix "X.weight" [rows, cols] of any type; a zeroed eg_matrix after an error. */
eg_matrix eg_bind_matrix(eg_binder *binder, const char *name, int64_t rows, int64_t cols);

/* The same for an embedding table, whose rows are looked up and not multiplied: a row may have several scales. */
eg_matrix eg_bind_table(eg_binder *binder, const char *name, int64_t rows, int64_t cols);

/* The matrix [hidden, cols] that ends an encoder. If it is of another width than `hidden`, the error says that the encoders are of
 * another model; `kind` is what their tokens are called: "audio", "image". */
eg_matrix eg_bind_projection(eg_binder *binder, const char *name, const char *kind, int64_t hidden, int64_t cols);

/* All values of a tensor of shape ne, or of a vector of n values, as floats; NULL after an error. */
const float *eg_bind_floats(eg_binder *binder, const char *name, const int64_t ne[4]);
const float *eg_bind_vector(eg_binder *binder, const char *name, int64_t n);

/* n zeros that belong to binder->owned. NULL without memory, and an error that names the tensor. */
float *eg_bind_room(eg_binder *binder, const char *name, int64_t n);

/* Rows [first, first + rows) of a tensor that eg_bind_check has accepted. All dimensions but the fastest count as rows. */
eg_matrix eg_matrix_from_tensor(const eg_gguf_tensor *tensor, int64_t first, int64_t rows);

#endif
