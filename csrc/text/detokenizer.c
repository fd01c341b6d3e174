/* Decodes tokens to text, all at once or token by token. Owns nothing; reads the tables of vocab.h. */
#include "vocab.h"

/* The bytes of one token into out[EG_TOKEN_MAX]; returns how many. */
static size_t token_bytes(const eg_tokenizer *t, int32_t id, uint32_t flags, uint8_t *out)
{
    eg_span text = eg_vocab_text(t, id);
    size_t n = 0;
    switch (t->kinds[id]) {
    case EG_KIND_CONTROL:
        if (!(flags & EG_TEXT_SPECIAL)) return 0;
        /* fall through */
    case EG_KIND_USER:
        if (text.length) memcpy(out, text.data, text.length);
        return text.length;
    case EG_KIND_BYTE: out[0] = (uint8_t)eg_vocab_byte(text); return 1;
    default:
        for (size_t i = 0; i < text.length;) {
            if (text.length - i >= 3 && !memcmp(text.data + i, EG_UTF8_SPACE, 3)) {
                out[n++] = ' ';
                i += 3;
            } else {
                out[n++] = (uint8_t)text.data[i++];
            }
        }
        return n;
    }
}

eg_status eg_tokenizer_decode(const eg_tokenizer *t, const int32_t *ids, size_t n, uint32_t flags, char *text, size_t capacity,
                              size_t *length, eg_error *err)
{
    uint8_t bytes[EG_TOKEN_MAX];
    size_t total = 0;
    if (!t || !length || (!ids && n) || (!text && capacity))
        return eg_fail(err, EG_ERROR_ARGUMENT, "eg_tokenizer_decode: a pointer is NULL.");
    if (flags & ~(uint32_t)(EG_TEXT_SPECIAL | EG_TEXT_BOS))
        return eg_fail(err, EG_ERROR_ARGUMENT, "eg_tokenizer_decode: unknown flags %#x.", (unsigned)flags);
    if (n > SIZE_MAX / EG_TOKEN_MAX)
        return eg_fail(err, EG_ERROR_ARGUMENT, "%llu tokens are too many to decode at once.", (unsigned long long)n);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= t->n_tokens)
            return eg_fail(err, EG_ERROR_ARGUMENT, "token id %ld is outside the vocabulary of %u tokens.", (long)ids[i],
                           t->n_tokens);
    for (size_t i = 0; i < n; i++) {
        size_t k = token_bytes(t, ids[i], flags, bytes);
        if (total < capacity) memcpy(text + total, bytes, k < capacity - total ? k : capacity - total);
        total += k;
    }
    *length = total;
    return EG_OK;
}

eg_status eg_tokenizer_get_pieces(const eg_tokenizer *t, uint32_t flags, uint8_t *bytes, size_t capacity, uint64_t *offsets,
                                  size_t *length, eg_error *err)
{
    uint8_t piece[EG_TOKEN_MAX];
    size_t total = 0;
    if (!t || !length || (!bytes && capacity))
        return eg_fail(err, EG_ERROR_ARGUMENT, "eg_tokenizer_get_pieces: a pointer is NULL.");
    if (flags & ~(uint32_t)(EG_TEXT_SPECIAL | EG_TEXT_BOS))
        return eg_fail(err, EG_ERROR_ARGUMENT, "eg_tokenizer_get_pieces: unknown flags %#x.", (unsigned)flags);
    if (offsets) offsets[0] = 0;
    for (uint32_t id = 0; id < t->n_tokens; id++) {
        const size_t k = token_bytes(t, (int32_t)id, flags, piece);
        if (total < capacity) memcpy(bytes + total, piece, k < capacity - total ? k : capacity - total);
        total += k;
        if (offsets) offsets[id + 1] = total;
    }
    *length = total;
    return EG_OK;
}

/* ---- streaming --------------------------------------------------------------------------------------------------- */

/* Whether `held` is empty or an incomplete character. eg_detokenizer_push keeps it so, but a state may come from a file. If
 * the next byte does not continue the character, all held bytes become one U+FFFD. */
static bool is_sound(const eg_detokenizer *state)
{
    if (state->n_held && state->n_held >= eg_utf8_length(state->held[0])) return false;   /* also bounds n_held by 3 */
    for (uint32_t i = 1; i < state->n_held; i++)
        if (!eg_utf8_continues(state->held[0], i, state->held[i])) return false;
    return true;
}

size_t eg_detokenizer_push(eg_detokenizer *state, const eg_tokenizer *t, int32_t id, uint32_t flags, char *out)
{
    uint8_t bytes[EG_TOKEN_MAX];
    size_t n = token_bytes(t, id, flags, bytes), written = is_sound(state) ? 0 : eg_detokenizer_flush(state, out);
    for (size_t i = 0; i < n;) {
        if (!state->n_held) {
            uint32_t length = eg_utf8_length(bytes[i]);
            if (length > 1) {
                state->held[state->n_held++] = bytes[i];
            } else if (length == 1) {
                out[written++] = (char)bytes[i];
            } else {
                memcpy(out + written, EG_UTF8_REPLACEMENT, 3);
                written += 3;
            }
            i++;
        } else if (eg_utf8_continues(state->held[0], state->n_held, bytes[i])) {
            state->held[state->n_held++] = bytes[i++];
            if (state->n_held == eg_utf8_length(state->held[0])) {
                memcpy(out + written, state->held, state->n_held);
                written += state->n_held;
                state->n_held = 0;
            }
        } else {
            written += eg_detokenizer_flush(state, out + written);   /* then the byte begins a character */
        }
    }
    return written;
}

size_t eg_detokenizer_flush(eg_detokenizer *state, char *out)
{
    if (!state->n_held) return 0;
    state->n_held = 0;
    memcpy(out, EG_UTF8_REPLACEMENT, 3);
    return 3;
}

size_t eg_tokenizer_piece_capacity(const eg_tokenizer *t)
{
    return 3 * ((size_t)t->longest + 3);   /* every byte, and what was held, may become U+FFFD */
}
