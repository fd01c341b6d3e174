/* Kinds of characters in well-formed UTF-8: white space, and what words and names are made of. */
#ifndef EG_TEXT_CHARACTERS_H
#define EG_TEXT_CHARACTERS_H

#include "utf8.h"

/* The code of the character of n bytes (from eg_utf8_character) at `text`. */
static inline uint32_t eg_utf8_code(const uint8_t *text, uint32_t n)
{
    static const uint8_t lead[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    uint32_t code = text[0] & lead[n];
    for (uint32_t i = 1; i < n; i++) code = code << 6 | (text[i] & 0x3Fu);
    return code;
}

/* Unicode's White_Space and the four ASCII separators, like Python's str.strip. */
static inline bool eg_is_space_code(uint32_t code)
{
    if (code < 0x80) return (code >= 0x09 && code <= 0x0D) || (code >= 0x1C && code <= 0x20);
    return code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
           code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

/* Letters, digits and the underscore. Beyond ASCII everything counts but space, punctuation and pictures: names that are not
 * English are names. */
static inline bool eg_is_word_code(uint32_t code)
{
    if (code < 0x80)
        return (code >= '0' && code <= '9') || (code >= 'A' && code <= 'Z') || (code >= 'a' && code <= 'z') || code == '_';
    if (eg_is_space_code(code) || code == 0xD7 || code == 0xF7) return false;
    if (code < 0xC0) return code == 0xAA || code == 0xB5 || code == 0xBA;
    return !(code >= 0x2000 && code < 0x2070) && !(code >= 0x20A0 && code < 0x20D0) && !(code >= 0x2190 && code < 0x2460) &&
           !(code >= 0x2500 && code < 0x2C00) && !(code >= 0x3001 && code < 0x3005) && !(code >= 0x3008 && code < 0x3021) &&
           !(code >= 0xD800 && code < 0xF900) && !(code >= 0xFF00 && code < 0xFF10) && !(code >= 0xFF1A && code < 0xFF21) &&
           !(code >= 0x1F000 && code < 0x20000) && code < 0xE0000;
}

/* Bytes of the white space at text[length] and behind it. */
static inline size_t eg_leading_space(const char *text, size_t length)
{
    size_t at = 0;
    while (at < length) {
        uint32_t n = eg_utf8_character((const uint8_t *)text + at, length - at);
        if (!n || !eg_is_space_code(eg_utf8_code((const uint8_t *)text + at, n))) break;
        at += n;
    }
    return at;
}

/* The length of text[length] without white space at its end. */
static inline size_t eg_without_trailing_space(const char *text, size_t length)
{
    while (length) {
        size_t at = length - 1;
        while (at && ((uint8_t)text[at] & 0xC0) == 0x80 && length - at < 4) at--;
        uint32_t n = eg_utf8_character((const uint8_t *)text + at, length - at);
        if (n != length - at || !eg_is_space_code(eg_utf8_code((const uint8_t *)text + at, n))) break;
        length = at;
    }
    return length;
}

#endif
