/* From names in a file to typed, shape-checked pointers into its mapping.
 *
 * Nothing is copied, except vectors that are not aligned F32 in the file (they never are in practice, but may be): these
 * belong to an eg_owned. A missing tensor, a wrong shape or an unknown type is an error that names file and tensor; the first
 * one stays in `status`, and later calls do nothing.
 *
 * A matrix X.weight of a type with a scale for a row (QC2, QC4, QC8) has further tensors, all F32: X.scale [rows], or in a table
 * [scales, rows], fastest first; X.input_scale and X.output_scale [1], the steps of its input and output, where they are
 * known beforehand.
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

/* The tensor of that name; NULL if there is none, which is an error if it is required. */
const eg_gguf_tensor *eg_bind_find(eg_binder *binder, const char *name, bool required);

/* Whether the tensor (NULL: no) has the shape ne, fastest first, as GGUF writes it, and its scales in itself. */
bool eg_bind_check(eg_binder *binder, const eg_gguf_tensor *tensor, const char *name, const int64_t ne[4]);

/* A matrix [rows, cols] of any type, "X.weight"; zeros after an error. */
eg_matrix eg_bind_matrix(eg_binder *binder, const char *name, int64_t rows, int64_t cols);

/* The same for a table whose rows are looked up: a row may have several scales. */
eg_matrix eg_bind_table(eg_binder *binder, const char *name, int64_t rows, int64_t cols);

/* All values of a tensor of shape ne, or a vector of n, as floats; NULL after an error. */
const float *eg_bind_floats(eg_binder *binder, const char *name, const int64_t ne[4]);
const float *eg_bind_vector(eg_binder *binder, const char *name, int64_t n);

/* n zeros that are freed with what is owned; NULL, and an error that names the tensor, when there is no memory. */
float *eg_bind_room(eg_binder *binder, const char *name, int64_t n);

/* Rows [first, first + rows) of a tensor that eg_bind_check has checked; its further dimensions count as rows. */
eg_matrix eg_matrix_from_tensor(const eg_gguf_tensor *tensor, int64_t first, int64_t rows);

#endif
