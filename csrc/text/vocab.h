/* The tables of the vocabulary: vocab.c builds them when a file is opened; bpe.c and detokenizer.c read them. Internal to
 * csrc/text.
 *
 * Strings are never copied: the tables hold offsets into the file's string arrays, and indices. A slot of a hash table has the
 * index + 1 in its low bits and a tag (more bits of the hash) in the others, so that nearly every string comparison succeeds.
 * The hash is seeded, so a file cannot be made such that its strings collide.
 */
#ifndef EG_TEXT_VOCAB_H
#define EG_TEXT_VOCAB_H

#include <string.h>

#include "tokenizer.h"
#include "utf8.h"

enum {
    EG_TOKEN_MAX = 1024,       /* bytes of the longest token accepted; Gemma 4's longest has 93 */
    EG_NO_RANK = -1
};

/* How the encoder and the detokenizer treat a token. */
typedef enum eg_kind { EG_KIND_NORMAL, EG_KIND_CONTROL, EG_KIND_USER, EG_KIND_BYTE } eg_kind;

typedef struct eg_table {
    uint32_t *slots;           /* [mask + 1], at most half of them used */
    uint32_t mask;
    uint32_t index_mask;       /* the bits of a slot that hold index + 1 */
} eg_table;

typedef struct eg_special {
    eg_span text;
    int32_t id;
} eg_special;

struct eg_tokenizer {
    const eg_gguf_value *tokens, *merges;   /* string arrays; merges may be NULL */
    eg_gguf *owned;                         /* the file, if the tokenizer closes it */
    uint64_t seed;
    uint32_t n_tokens, n_merges;
    uint32_t longest;                       /* bytes of the longest token */
    uint32_t *token_at, *merge_at;          /* [n_tokens], [n_merges]: offsets into the arrays' data */
    uint8_t *kinds;                         /* [n_tokens], eg_kind */
    eg_table token_table, merge_table;
    eg_special *specials;                   /* [n_specials]: the tokens that EG_TEXT_SPECIAL finds, sorted by text */
    uint32_t n_specials;
    uint32_t special_begin[257];            /* specials that begin with byte b: [begin[b], begin[b + 1]) */
    uint32_t junctions[2048];               /* a bit for each pair (last key, first key) that some merge joins */
    int32_t byte_ids[256];                  /* -1 if the vocabulary has no token for the byte */
    int32_t bos, unknown;                   /* -1 if none */
    /* Stop tokens, found by their text; -1 if the vocabulary has no such token. `eos` is the file's end of sequence. Some
     * converters set that to one of the other two; then `eos` is the token "<eos>". */
    struct {
        int32_t eos, turn, tool_response;
    } stop;
    int32_t *suppressed;
    size_t n_suppressed;
    eg_span chat_template;                  /* data NULL if none */
    uint64_t heap_bytes;
};

/* ---- hashing ----------------------------------------------------------------------------------------------------- */

/* Folds the 128-bit product to 64 bits: every bit of both factors affects every bit of the result. */
static inline uint64_t eg_hash_mix(uint64_t a, uint64_t b)
{
#ifdef __SIZEOF_INT128__
    __extension__ typedef unsigned __int128 eg_u128;
    eg_u128 product = (eg_u128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
#else
    uint64_t al = (uint32_t)a, ah = a >> 32, bl = (uint32_t)b, bh = b >> 32;
    uint64_t low = al * bl, mid1 = ah * bl, mid2 = al * bh, high = ah * bh;
    uint64_t carry = (low >> 32) + (uint32_t)mid1 + (uint32_t)mid2;
    return ((carry << 32) | (uint32_t)low) ^ (high + (mid1 >> 32) + (mid2 >> 32) + (carry >> 32));
#endif
}

#define EG_HASH_1 UINT64_C(0x9E3779B97F4A7C15)   /* the golden ratio, and the square root of 3, as fractions */
#define EG_HASH_2 UINT64_C(0xBB67AE8584CAA73B)

static inline uint64_t eg_hash_bytes(uint64_t seed, const void *data, size_t n)
{
    const uint8_t *p = data;
    uint64_t h = seed ^ eg_hash_mix(n + 1, EG_HASH_1), word;
    for (; n > 8; p += 8, n -= 8) {
        memcpy(&word, p, 8);
        h = eg_hash_mix(h ^ word, EG_HASH_2);
    }
    if (n >= 4) {   /* two halves that may overlap; the length is in h already */
        uint32_t first, last;
        memcpy(&first, p, 4);
        memcpy(&last, p + n - 4, 4);
        word = (uint64_t)first << 32 | last;
    } else {
        word = n ? (uint64_t)p[0] << 16 | (uint64_t)p[n / 2] << 8 | p[n - 1] : 0;
    }
    return eg_hash_mix(h ^ word, EG_HASH_1 ^ seed);
}

/* The hash of a pair of strings, from the hash of each. */
static inline uint64_t eg_hash_pair(uint64_t left, uint64_t right) { return eg_hash_mix(left ^ EG_HASH_1, right ^ EG_HASH_2); }

/* ---- look-up ----------------------------------------------------------------------------------------------------- */

static inline eg_span eg_vocab_string(const eg_gguf_value *array, uint32_t offset)
{
    const uint8_t *cursor = array->data + offset;
    return eg_gguf_next_string(array, &cursor);
}

static inline eg_span eg_vocab_text(const eg_tokenizer *t, int32_t id) { return eg_vocab_string(t->tokens, t->token_at[id]); }

/* The first token with this text, whose hash is `hash`; -1 if there is none. */
static inline int32_t eg_vocab_find(const eg_tokenizer *t, const void *text, size_t length, uint64_t hash)
{
    const eg_table *table = &t->token_table;
    uint32_t tag = (uint32_t)(hash >> 32) & ~table->index_mask, slot;
    for (uint32_t i = (uint32_t)hash & table->mask; (slot = table->slots[i]) != 0; i = (i + 1) & table->mask) {
        if ((slot & ~table->index_mask) != tag) continue;
        int32_t id = (int32_t)(slot & table->index_mask) - 1;
        eg_span found = eg_vocab_text(t, id);
        if (found.length == length && !memcmp(found.data, text, length)) return id;
    }
    return -1;
}

/* The rank of the merge of two strings, whose pair has the hash `hash`; EG_NO_RANK if there is none. A merge is stored as
 * "left right" and split at its first space. `left` and `right` never contain a space (spaces have become U+2581), so there is
 * only one way to split a merge that equals them. */
static inline int32_t eg_vocab_rank(const eg_tokenizer *t, const uint8_t *left, size_t n_left, const uint8_t *right,
                                    size_t n_right, uint64_t hash)
{
    const eg_table *table = &t->merge_table;
    uint32_t tag = (uint32_t)(hash >> 32) & ~table->index_mask, slot;
    for (uint32_t i = (uint32_t)hash & table->mask; (slot = table->slots[i]) != 0; i = (i + 1) & table->mask) {
        if ((slot & ~table->index_mask) != tag) continue;
        int32_t rank = (int32_t)(slot & table->index_mask) - 1;
        eg_span found = eg_vocab_string(t->merges, t->merge_at[rank]);
        if (found.length == n_left + 1 + n_right && found.data[n_left] == ' ' && !memcmp(found.data, left, n_left) &&
            !memcmp(found.data + n_left + 1, right, n_right))
            return rank;
    }
    return EG_NO_RANK;
}

/* ---- junctions --------------------------------------------------------------------------------------------------- */

/* Keys of a junction: the first byte of a character, and the last byte of the one before. U+2581 has the key of a space, so
 * that it does not share a key with other characters of its Unicode block. text[length], length > 0. */
static inline uint8_t eg_first_key(const uint8_t *text, size_t length)
{
    return length >= 3 && !memcmp(text, EG_UTF8_SPACE, 3) ? ' ' : text[0];
}

static inline uint8_t eg_last_key(const uint8_t *text, size_t length)
{
    return length >= 3 && !memcmp(text + length - 3, EG_UTF8_SPACE, 3) ? ' ' : text[length - 1];
}

static inline bool eg_vocab_joins(const eg_tokenizer *t, uint8_t last, uint8_t first)
{
    uint32_t bit = (uint32_t)last << 8 | first;
    return t->junctions[bit >> 5] >> (bit & 31) & 1;
}

/* The value of a byte token's text "<0xXX>"; -1 if it is not one. */
int eg_vocab_byte(eg_span text);

#endif
