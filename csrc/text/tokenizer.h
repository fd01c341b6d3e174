/* Gemma 4's BPE with byte fallback, over the vocabulary in a GGUF file.
 *
 * Owns two hash tables, token text -> id and merge text -> rank; the strings stay in the file's mapping. Encoding n bytes
 * takes O(n log n) with a heap of candidate merges. The public functions are declared in edge_gemma.h.
 */
#ifndef EG_TEXT_TOKENIZER_H
#define EG_TEXT_TOKENIZER_H

#include "../format/gguf.h"

/* Builds a tokenizer over `file`, which stays the caller's and must outlive the tokenizer. (A tokenizer from eg_tokenizer_open
 * closes its file itself.) */
eg_status eg_tokenizer_create(const eg_gguf *file, eg_tokenizer **out, eg_error *err);

/* Heap bytes of the tokenizer. */
uint64_t eg_tokenizer_heap_bytes(const eg_tokenizer *tokenizer);

/* Why an answer ends with this token; EG_STOP_NONE if it does not. */
eg_stop eg_tokenizer_stop_of(const eg_tokenizer *tokenizer, int32_t id);

/* The *n ids that the file says must never be drawn, all inside the vocabulary; NULL and 0 if there are none. */
const int32_t *eg_tokenizer_suppressed(const eg_tokenizer *tokenizer, size_t *n);

/* Streaming detokenizer: `held` has the bytes of an incomplete character. Zero-initialize it; copies are independent. */
typedef struct eg_detokenizer {
    uint8_t held[4];
    uint32_t n_held;
} eg_detokenizer;

/* Appends token `id`, below the vocabulary size. Writes the characters that are now complete to out (capacity
 * eg_tokenizer_piece_capacity) and returns their bytes. Invalid bytes become U+FFFD, one for each maximal beginning of a
 * character (as Unicode recommends and Python's "replace" does). */
size_t eg_detokenizer_push(eg_detokenizer *state, const eg_tokenizer *tokenizer, int32_t id, uint32_t flags, char *out);
/* Writes U+FFFD if bytes are held, and empties the state. Returns the bytes written: 3 or 0. */
size_t eg_detokenizer_flush(eg_detokenizer *state, char *out);
/* Most bytes that one push writes: at most 3,081. */
size_t eg_tokenizer_piece_capacity(const eg_tokenizer *tokenizer);

#endif
