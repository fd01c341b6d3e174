/* Encodes text to tokens. Owns nothing that outlives a call; reads the tables of vocab.h.
 *
 *     text  --special tokens-->  markers and plain stretches  --junctions-->  pieces  --BPE-->  ids
 *
 * BPE is defined on a whole stretch: again and again, join the two neighbouring symbols whose merge has the lowest rank (the
 * leftmost ones of equal rank), until no neighbours have a merge. Two characters can get into one token only if some merge has
 * the first at the end of its left side and the second at the beginning of its right side. Where no merge has both, the
 * stretch is cut before merging. This does not change the result, and it leaves pieces of a few characters: in Gemma 4, only a
 * space or '>' can join a space that follows. A piece may still be the whole text (a megabyte of one letter), so pieces are
 * merged with a heap.
 */
#include <stdlib.h>

#include "../base/arena.h"
#include "vocab.h"

#define NONE UINT32_MAX

/* ---- cutting ----------------------------------------------------------------------------------------------------- */

typedef struct scan {
    const eg_tokenizer *t;
    const uint8_t *text;
    size_t length, at;
    bool specials;
} scan;

typedef struct piece {
    const uint8_t *text;
    size_t length;
    size_t spaces;             /* number of spaces, each of which becomes the three bytes of U+2581 */
    int32_t special;           /* the id when the piece is a marker, else -1 */
} piece;

/* The id of the longest special token that text[length] begins with, and its length in *matched; -1 if there is none. Narrows
 * a range of the sorted specials byte by byte. */
static int32_t match_special(const eg_tokenizer *t, const uint8_t *text, size_t length, size_t *matched)
{
    uint32_t begin = t->special_begin[text[0]], end = t->special_begin[text[0] + 1];
    int32_t id = -1;
    for (size_t depth = 1; begin < end; depth++) {
        /* all specials in the range have the first `depth` bytes of the text; the shortest come first */
        if (t->specials[begin].text.length == depth) {
            id = t->specials[begin].id;
            *matched = depth;
            while (begin < end && t->specials[begin].text.length == depth) begin++;
        }
        if (depth == length) break;
        for (int side = 0; side < 2; side++) {   /* side 0: the first not below the byte; side 1: the first above it */
            uint32_t low = begin, high = end;
            while (low < high) {
                uint32_t middle = low + (high - low) / 2;
                uint8_t byte = (uint8_t)t->specials[middle].text.data[depth];
                if (byte < text[depth] || (side && byte == text[depth])) low = middle + 1;
                else high = middle;
            }
            if (side) end = low;
            else begin = low;
        }
    }
    return id;
}

/* Bytes of the character at text[length]; 1 for a byte that is not valid UTF-8. */
static size_t character(const uint8_t *text, size_t length)
{
    if (text[0] < 0x80) return 1;
    uint32_t n = eg_utf8_character(text, length);
    return n ? n : 1;
}

static bool next_piece(scan *s, piece *out)
{
    if (s->at == s->length) return false;
    const uint8_t *begin = s->text + s->at, *end = s->text + s->length, *p = begin;
    size_t n;
    *out = (piece){begin, 0, 0, -1};
    if (s->specials && (out->special = match_special(s->t, begin, (size_t)(end - begin), &n)) >= 0) {
        out->length = n;
        s->at += n;
        return true;
    }
    do {
        n = character(p, (size_t)(end - p));
        out->spaces += *p == ' ';
        uint8_t last = eg_last_key(p, n);
        p += n;
        if (p == end || !eg_vocab_joins(s->t, last, eg_first_key(p, (size_t)(end - p)))) break;
    } while (!s->specials || match_special(s->t, p, (size_t)(end - p), &n) < 0);
    out->length = (size_t)(p - begin);
    s->at += out->length;
    return true;
}

/* ---- merging ----------------------------------------------------------------------------------------------------- */

typedef struct symbol {
    uint64_t hash;             /* of its text */
    uint32_t begin, length;    /* its text in work.text; length 0: merged into the symbol on its left */
    uint32_t prev, next;       /* NONE at the ends */
} symbol;

typedef struct candidate {
    int32_t rank;
    uint32_t left;             /* the symbol to merge with its next one */
    uint32_t length;           /* of both together; the candidate is stale if their length is another one now */
} candidate;

typedef struct work {
    uint8_t *text;             /* the piece with U+2581 for spaces */
    symbol *symbols;           /* one for each character */
    candidate *heap;           /* lowest (rank, left) first; a merge removes one candidate and adds at most two */
    uint32_t n_heap;
} work;

typedef struct output {
    int32_t *ids;
    size_t capacity, n;
} output;

static void emit(output *out, int32_t id)
{
    if (out->n < out->capacity) out->ids[out->n] = id;
    out->n++;
}

static bool before(const candidate *a, const candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static void sift_down(candidate *heap, uint32_t n, uint32_t i)
{
    candidate moved = heap[i];
    for (uint32_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(&heap[child + 1], &heap[child])) child++;
        if (!before(&heap[child], &moved)) break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

static void sift_up(candidate *heap, uint32_t i)
{
    candidate moved = heap[i];
    for (; i && before(&moved, &heap[(i - 1) / 2]); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = moved;
}

/* The candidate for symbol `left` and its next one; false if they have no merge. */
static bool candidate_at(const eg_tokenizer *t, const work *w, uint32_t left, candidate *out)
{
    const symbol *a = &w->symbols[left], *b = &w->symbols[a->next];
    out->rank = eg_vocab_rank(t, w->text + a->begin, a->length, w->text + b->begin, b->length, eg_hash_pair(a->hash, b->hash));
    out->left = left;
    out->length = a->length + b->length;
    return out->rank != EG_NO_RANK;
}

static void push(const eg_tokenizer *t, work *w, uint32_t left)
{
    if (candidate_at(t, w, left, &w->heap[w->n_heap])) sift_up(w->heap, w->n_heap++);
}

/* Writes a finished symbol: its token, or the tokens of its bytes. Plain text never becomes a marker or a byte token, even if
 * merges spell one. */
static void emit_symbol(const eg_tokenizer *t, const uint8_t *text, uint32_t length, uint64_t hash, output *out)
{
    int32_t id = eg_vocab_find(t, text, length, hash);
    if (id >= 0 && t->kinds[id] == EG_KIND_NORMAL) {
        emit(out, id);
        return;
    }
    for (uint32_t i = 0; i < length; i++)
        if (t->byte_ids[text[i]] < 0) {
            emit(out, t->unknown);   /* never -1 here: read_kinds refuses a vocabulary that lacks both */
            return;
        }
    for (uint32_t i = 0; i < length; i++) emit(out, t->byte_ids[text[i]]);
}

static void encode_piece(const eg_tokenizer *t, work *w, const piece *p, output *out)
{
    uint32_t n = 0, n_text = 0;
    for (size_t at = 0; at < p->length; n++) {
        symbol *s = &w->symbols[n];
        size_t length = character(p->text + at, p->length - at);
        s->begin = n_text;
        if (p->text[at] == ' ') {
            memcpy(w->text + n_text, EG_UTF8_SPACE, 3);
            n_text += 3;
        } else {
            memcpy(w->text + n_text, p->text + at, length);
            n_text += (uint32_t)length;
        }
        s->length = n_text - s->begin;
        s->hash = eg_hash_bytes(t->seed, w->text + s->begin, s->length);
        s->prev = n - 1;   /* NONE for the first */
        s->next = n + 1;
        at += length;
    }
    w->symbols[n - 1].next = NONE;

    w->n_heap = 0;
    for (uint32_t i = 0; i + 1 < n; i++)
        if (candidate_at(t, w, i, &w->heap[w->n_heap])) w->n_heap++;
    for (uint32_t i = w->n_heap / 2; i-- > 0;) sift_down(w->heap, w->n_heap, i);

    while (w->n_heap) {
        candidate best = w->heap[0];
        w->heap[0] = w->heap[--w->n_heap];
        if (w->n_heap) sift_down(w->heap, w->n_heap, 0);
        symbol *a = &w->symbols[best.left];
        if (!a->length || a->next == NONE) continue;
        symbol *b = &w->symbols[a->next];
        if (a->length + b->length != best.length) continue;   /* symbols only grow: same length, same text */
        a->length = best.length;
        a->next = b->next;
        a->hash = eg_hash_bytes(t->seed, w->text + a->begin, a->length);
        b->length = 0;
        if (a->next != NONE) {
            w->symbols[a->next].prev = best.left;
            push(t, w, best.left);
        }
        if (a->prev != NONE) push(t, w, a->prev);
    }
    for (uint32_t i = 0; i != NONE; i = w->symbols[i].next) {
        const symbol *s = &w->symbols[i];
        emit_symbol(t, w->text + s->begin, s->length, s->hash, out);
    }
}

/* ---- the public function ----------------------------------------------------------------------------------------- */

eg_status eg_tokenizer_encode(const eg_tokenizer *t, const char *text, size_t length, uint32_t flags, int32_t *ids,
                              size_t capacity, size_t *n, eg_error *err)
{
    if (!t || !n || (!text && length) || (!ids && capacity))
        return eg_fail(err, EG_ERROR_ARGUMENT, "eg_tokenizer_encode: a pointer is NULL.");
    if (flags & ~(uint32_t)(EG_TEXT_SPECIAL | EG_TEXT_BOS))
        return eg_fail(err, EG_ERROR_ARGUMENT, "eg_tokenizer_encode: unknown flags %#x.", (unsigned)flags);
    if (flags & EG_TEXT_BOS && t->bos < 0)
        return eg_fail(err, EG_ERROR_UNSUPPORTED, "the vocabulary has no <bos> to begin the text with.");
    if (!text) text = "";
    if (length == SIZE_MAX) length = strlen(text);
    if (length > (UINT32_MAX - 1) / 3)
        return eg_fail(err, EG_ERROR_ARGUMENT, "a text of %llu bytes is too long to encode at once.",
                       (unsigned long long)length);

    /* The first pass only measures, so that all memory is allocated before the first id is written. */
    scan start = {t, (const uint8_t *)text, length, 0, (flags & EG_TEXT_SPECIAL) != 0}, s = start;
    piece p;
    size_t most_symbols = 0, most_text = 0;
    bool begins_with_bos = false;
    while (next_piece(&s, &p)) {
        if (p.special >= 0) {
            if (p.text == start.text) begins_with_bos = p.special == t->bos;
            continue;
        }
        if (p.length > most_symbols) most_symbols = p.length;
        if (p.length + 2 * p.spaces > most_text) most_text = p.length + 2 * p.spaces;
    }
    eg_arena arena = {NULL, 0};
    work w = {NULL, NULL, NULL, 0};
    for (int pass = 0; pass < 2; pass++) {
        if (pass && (arena.used > SIZE_MAX / 2 || !(arena.base = malloc(arena.used))))
            return eg_fail(err, EG_ERROR_MEMORY, "no memory to encode a text of %llu bytes.", (unsigned long long)length);
        if (pass) arena.used = 0;
        w.symbols = eg_arena_take(&arena, most_symbols, sizeof *w.symbols);
        w.heap = eg_arena_take(&arena, most_symbols, 2 * sizeof *w.heap);
        w.text = eg_arena_take(&arena, most_text + 1, 1);
    }

    output out = {ids, capacity, 0};
    if (flags & EG_TEXT_BOS && !begins_with_bos) emit(&out, t->bos);
    for (s = start; next_piece(&s, &p);) {
        if (p.special >= 0) emit(&out, p.special);
        else encode_piece(t, &w, &p, &out);
    }
    free(arena.base);
    *n = out.n;
    return EG_OK;
}
