/* The texts of control tokens, what each means in a reply, and where they are in a text. */
#ifndef EG_TEXT_MARKERS_H
#define EG_TEXT_MARKERS_H

#include "strings.h"

typedef enum eg_marker_kind {
    EG_MARKER_OTHER,           /* without a meaning in a reply */
    EG_MARKER_QUOTE,           /* the string delimiter */
    EG_MARKER_OPEN_THOUGHT,
    EG_MARKER_CLOSE_THOUGHT,
    EG_MARKER_OPEN_CALL,
    EG_MARKER_CLOSE_CALL,
    EG_MARKER_OPEN_RESPONSE,
    EG_MARKER_CLOSE_RESPONSE,
    EG_MARKER_END,             /* of the model's turn */
    EG_MARKER_TURN
} eg_marker_kind;

typedef struct eg_marker {
    const char *text;
    size_t length;
    eg_marker_kind kind;
} eg_marker;

typedef struct eg_markers {
    eg_marker *items;          /* [n], the longest first */
    size_t n, longest;
    bool first[256];           /* bytes with which one begins */
    eg_chunks memory;
} eg_markers;

/* Makes the markers of replies: Gemma's, those of the small function-calling Gemma, and the file's own others[n_others] and
 * ends[n_ends], zero-terminated; those that end the turn are among `ends`. False without memory. Free them in any case. */
bool eg_markers_open(eg_markers *markers, const char *const *others, size_t n_others, const char *const *ends, size_t n_ends);
void eg_markers_free(eg_markers *markers);

/* The first marker in text[length] from `from` on whose kind is among `kinds` (bits 1 << kind), and its place *at; NULL if there is
 * none. */
const eg_marker *eg_markers_find(const eg_markers *markers, const char *text, size_t length, size_t from, unsigned kinds,
                                 size_t *at);

/* How many bytes at the end of text[length] may be the beginning of a marker. */
size_t eg_markers_possible(const eg_markers *markers, const char *text, size_t length);

/* Whether text[length] is one of Gemma's own control tokens, the two that texts speak about, "<unk>" and "<mask>", included. */
bool eg_is_gemma_marker(const char *text, size_t length);

/* Bytes of the control token of Gemma's that text[length] begins with; 0 if it begins with none. */
size_t eg_gemma_marker_at(const char *text, size_t length);

#endif
