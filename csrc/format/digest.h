/* A digest of a GGUF file, by which it is known again without reading all of it. */
#ifndef EG_FORMAT_DIGEST_H
#define EG_FORMAT_DIGEST_H

#include "gguf.h"

/* FNV-1a of names, types and shapes of all tensors, and of EG_DIGEST_SAMPLE bytes from the middle of `samples` of them, which are spread
 * evenly over the directory; of all, if there are fewer. The same on every machine. It tells files apart that were mixed up, not
 * such as were made to have one digest. */
uint64_t eg_gguf_digest(const eg_gguf *file, uint64_t samples);

enum { EG_DIGEST_SAMPLE = 64 };

/* The digest h of something, and of n bytes (at most EG_DIGEST_SAMPLE) of a tensor's data from `at` on. */
uint64_t eg_digest_add(uint64_t h, const eg_gguf *file, const uint8_t *at, size_t n);

#endif
