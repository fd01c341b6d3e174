/* Gemma 4's byte-fallback BPE over the vocabulary in a GGUF file.
 *
 * Owns two hash tables over strings that stay in the file's mapping: token text -> id and merge text -> rank. Encoding
 * is O(n log n) with a heap of candidate merges; the public functions are declared in edge_gemma.h.
 */
#ifndef EG_TEXT_TOKENIZER_H
#define EG_TEXT_TOKENIZER_H

#include "../format/gguf.h"

/* Builds a tokenizer over `file`, which stays the caller's and must outlive it. (eg_tokenizer_open makes one that
 * closes its own file.) */
eg_status eg_tokenizer_create(const eg_gguf *file, eg_tokenizer **out, eg_error *err);

/* Bytes of heap that it uses. */
uint64_t eg_tokenizer_heap_bytes(const eg_tokenizer *tokenizer);

/* Stop tokens by their text; -1 where the vocabulary has none. `eos` is the file's own end of sequence unless that
 * names one of the other two, as some converters do; then it is the token written "<eos>". */
typedef struct eg_stop_ids {
    int32_t eos, turn, tool_response;
} eg_stop_ids;
eg_stop_ids eg_tokenizer_stop_ids(const eg_tokenizer *tokenizer);

/* The ids [*n] that the file says must never be drawn, all inside the vocabulary; NULL and 0 if there are none. */
const int32_t *eg_tokenizer_suppressed(const eg_tokenizer *tokenizer, size_t *n);

/* Streaming detokenizer: bytes of an incomplete character wait in `held`. Zero-initialise; copy freely. */
typedef struct eg_detokenizer {
    uint8_t held[4];
    uint32_t n_held;
} eg_detokenizer;

/* Appends token `id`; writes the whole characters now complete to out (capacity eg_tokenizer_piece_capacity) and
 * returns how many bytes. Invalid bytes come out as U+FFFD, one for each longest run that begins a character (as
 * Unicode recommends and Python's "replace" does). id < vocab size. */
size_t eg_detokenizer_push(eg_detokenizer *state, const eg_tokenizer *tokenizer, int32_t id, uint32_t flags, char *out);
/* What is still held, as U+FFFD (3 bytes); 0 if nothing is. Leaves the state empty. */
size_t eg_detokenizer_flush(eg_detokenizer *state, char *out);
/* At most 3,081 bytes. */
size_t eg_tokenizer_piece_capacity(const eg_tokenizer *tokenizer);

#endif
