/* Sidecars: a small GGUF file beside a model's file, with a leaner version of the model's head. It is mapped beside the model, and
 * says which file it was made of:
 *
 *     general.architecture   "gemma4-sidecar": other programs do not take it for a model
 *     sidecar.version        1
 *     sidecar.bytes          the size of the model's file, of a split one all parts together, as text
 *     sidecar.digest         eg_sidecar_digest of it, as text: 16 hexadecimal digits
 *     output_lean.weight     the token embeddings, which are the head as well, in a type with fewer bits
 *
 * decoder/head.h says what the decoder does with it.
 */
#ifndef EG_NN_SIDECAR_H
#define EG_NN_SIDECAR_H

#include "../format/gguf.h"

/* The digest that a sidecar of this file has: of its directory, and of a few pages of its data. */
uint64_t eg_sidecar_digest(const eg_gguf *file);

/* Adds the tensors of the model's sidecar to `file`. It is what `params` name; for a model that is opened by its path, else
 * X.lean.gguf beside X.gguf, if there is such a file. No sidecar is no error. EG_ERROR_FORMAT: it is damaged, of another file, or
 * has what no sidecar has. EG_ERROR_UNSUPPORTED: it is of a later version. After an error `file` is as it was. */
eg_status eg_sidecar_attach(eg_gguf *file, const eg_model_params *params, eg_error *err);

#endif
