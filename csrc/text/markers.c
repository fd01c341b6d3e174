/* Control tokens in text. */
#include "markers.h"

#include <stdlib.h>

/* Gemma's. No two of them can overlap in a text. */
static const eg_marker gemma[] = {
#define MARKER(text, kind) {text, sizeof text - 1, kind}
    MARKER("<turn|>", EG_MARKER_END),
    MARKER("<eos>", EG_MARKER_END),
    MARKER("<|turn>", EG_MARKER_TURN),
    MARKER("<|channel>", EG_MARKER_OPEN_THOUGHT),
    MARKER("<channel|>", EG_MARKER_CLOSE_THOUGHT),
    MARKER("<|tool_call>", EG_MARKER_OPEN_CALL),
    MARKER("<tool_call|>", EG_MARKER_CLOSE_CALL),
    MARKER("<|tool_response>", EG_MARKER_OPEN_RESPONSE),
    MARKER("<tool_response|>", EG_MARKER_CLOSE_RESPONSE),
    MARKER("<|\"|>", EG_MARKER_QUOTE),
    MARKER("<bos>", EG_MARKER_OTHER),
    MARKER("<pad>", EG_MARKER_OTHER),
    MARKER("<|think|>", EG_MARKER_OTHER),
    MARKER("<|tool>", EG_MARKER_OTHER),
    MARKER("<tool|>", EG_MARKER_OTHER),
    MARKER("<|image>", EG_MARKER_OTHER),
    MARKER("<image|>", EG_MARKER_OTHER),
    MARKER("<|image|>", EG_MARKER_OTHER),
    MARKER("<|audio>", EG_MARKER_OTHER),
    MARKER("<audio|>", EG_MARKER_OTHER),
    MARKER("<|audio|>", EG_MARKER_OTHER),
    MARKER("<|video|>", EG_MARKER_OTHER),
};
/* Control tokens too, but a text may be about these words. */
static const eg_marker words[] = {MARKER("<unk>", EG_MARKER_OTHER), MARKER("<mask>", EG_MARKER_OTHER)};
/* The names that the small function-calling Gemma uses. */
static const eg_marker aliases[] = {
    MARKER("<start_function_call>", EG_MARKER_OPEN_CALL),
    MARKER("<end_function_call>", EG_MARKER_CLOSE_CALL),
    MARKER("<start_function_response>", EG_MARKER_OPEN_RESPONSE),
    MARKER("<end_function_response>", EG_MARKER_CLOSE_RESPONSE),
};
#undef MARKER
#define COUNT(array) (sizeof(array) / sizeof *(array))

static bool same(const eg_marker *marker, const char *text, size_t length)
{
    return marker->length == length && memcmp(marker->text, text, length) == 0;
}

size_t eg_gemma_marker_at(const char *text, size_t length)
{
    if (!length || text[0] != '<') return 0;
    for (size_t i = 0; i < COUNT(gemma) + COUNT(words); i++) {
        const eg_marker *m = i < COUNT(gemma) ? gemma + i : words + (i - COUNT(gemma));
        if (m->length <= length && memcmp(m->text, text, m->length) == 0) return m->length;
    }
    return 0;
}

bool eg_is_gemma_marker(const char *text, size_t length) { return length && eg_gemma_marker_at(text, length) == length; }

static eg_marker *known(eg_markers *m, const char *text, size_t length)
{
    for (size_t i = 0; i < m->n; i++)
        if (same(&m->items[i], text, length)) return &m->items[i];
    return NULL;
}

static int longest_first(const void *a, const void *b)
{
    const size_t x = ((const eg_marker *)a)->length, y = ((const eg_marker *)b)->length;
    return x < y ? 1 : x > y ? -1 : 0;
}

bool eg_markers_open(eg_markers *m, const char *const *others, size_t n_others, const char *const *ends, size_t n_ends)
{
    const size_t fixed = COUNT(gemma) + COUNT(aliases);
    *m = (eg_markers){0};
    if (n_others > SIZE_MAX / 64 || n_ends > SIZE_MAX / 64) return false;
    m->items = eg_chunks_take(&m->memory, (fixed + n_others + n_ends) * sizeof *m->items);
    if (!m->items) return false;
    memcpy(m->items, gemma, sizeof gemma);
    memcpy(m->items + COUNT(gemma), aliases, sizeof aliases);
    m->n = fixed;
    for (size_t i = 0; i < n_others + n_ends; i++) {
        const bool end = i >= n_others;
        const char *text = end ? ends[i - n_others] : others[i];
        const size_t length = strlen(text);
        eg_marker *there = known(m, text, length);
        if (there && end) there->kind = EG_MARKER_END;
        if (!length || there || (!end && eg_is_gemma_marker(text, length))) continue;
        const char *copy = eg_chunks_copy(&m->memory, text, length);
        if (!copy) return false;
        m->items[m->n++] = (eg_marker){copy, length, end ? EG_MARKER_END : EG_MARKER_OTHER};
    }
    qsort(m->items, m->n, sizeof *m->items, longest_first);
    m->longest = m->items[0].length;
    for (size_t i = 0; i < m->n; i++) m->first[(uint8_t)m->items[i].text[0]] = true;
    return true;
}

void eg_markers_free(eg_markers *m)
{
    eg_chunks_free(&m->memory);
    *m = (eg_markers){0};
}

const eg_marker *eg_markers_find(const eg_markers *m, const char *text, size_t length, size_t from, unsigned kinds, size_t *at)
{
    for (size_t i = from; i < length; i++) {
        if (!m->first[(uint8_t)text[i]]) continue;
        for (size_t k = 0; k < m->n; k++) {
            const eg_marker *marker = &m->items[k];
            if (!(kinds >> marker->kind & 1) || marker->length > length - i || memcmp(marker->text, text + i, marker->length))
                continue;
            *at = i;
            return marker;
        }
    }
    return NULL;
}

size_t eg_markers_possible(const eg_markers *m, const char *text, size_t length)
{
    for (size_t n = length < m->longest - 1 ? length : m->longest - 1; n; n--) {
        const char *end = text + length - n;
        if (!m->first[(uint8_t)end[0]]) continue;
        for (size_t k = 0; k < m->n; k++)
            if (m->items[k].length > n && memcmp(m->items[k].text, end, n) == 0) return n;
    }
    return 0;
}
