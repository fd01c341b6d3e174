/* A digest of a GGUF file, by which it is known again without reading all of it. */
#ifndef EG_FORMAT_DIGEST_H
#define EG_FORMAT_DIGEST_H

#include "gguf.h"

/* FNV-1a of names, types and shapes of all tensors, and of up to 64 bytes from the middle of `samples` of them, which are spread
 * evenly over the directory; of all, if there are fewer. The same on every machine. It tells files apart that were mixed up, not
 * such as were made to have one digest. */
uint64_t eg_gguf_digest(const eg_gguf *file, uint64_t samples);

/* The digest h of something, and of data[n] behind it. */
uint64_t eg_digest_add(uint64_t h, const void *data, size_t n);

#endif
