/* Well-formed UTF-8, one character at a time. Follows Unicode table 3-7: no overlong forms, no surrogates, at most
 * U+10FFFF. */
#ifndef EG_TEXT_UTF8_H
#define EG_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* U+2581 stands for a space in the vocabulary; U+FFFD replaces bytes that cannot be decoded. */
#define EG_UTF8_SPACE "\xE2\x96\x81"
#define EG_UTF8_REPLACEMENT "\xEF\xBF\xBD"

/* Bytes of a character that begins with `lead`; 0 if no character does. */
static inline uint32_t eg_utf8_length(uint8_t lead)
{
    return lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
}

/* Whether `byte` may stand at place `index` (1..3) of the character that begins with `lead`. */
static inline bool eg_utf8_continues(uint8_t lead, uint32_t index, uint8_t byte)
{
    uint8_t low = 0x80, high = 0xBF;
    if (index == 1) {
        if (lead == 0xE0) low = 0xA0;
        else if (lead == 0xED) high = 0x9F;
        else if (lead == 0xF0) low = 0x90;
        else if (lead == 0xF4) high = 0x8F;
    }
    return byte >= low && byte <= high;
}

/* Bytes of the whole character at text[length], length > 0; 0 if there is none. */
static inline uint32_t eg_utf8_character(const uint8_t *text, size_t length)
{
    uint32_t n = eg_utf8_length(text[0]);
    if (n > length) return 0;
    for (uint32_t i = 1; i < n; i++)
        if (!eg_utf8_continues(text[0], i, text[i])) return 0;
    return n;
}

#endif
