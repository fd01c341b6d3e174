/* Error text. Owns the one place where text from files and from the system is made safe to print: what leaves here is
 * valid UTF-8 without control characters, whatever went in. Knows nothing of what failed. */
#include "structs.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Bytes of the printable UTF-8 character that text[length] begins with; 0 if there is none. Overlong forms, surrogates and
 * control characters (C0 and C1) are refused: a terminal might act on them. */
static size_t printable(const unsigned char *text, size_t length)
{
    unsigned c = text[0];
    if (c >= 0x20 && c < 0x7f) return 1;
    size_t n = c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;
    if (n == 0 || n > length) return 0;
    uint32_t code = c & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((text[i] & 0xc0) != 0x80) return 0;
        code = code << 6 | (text[i] & 0x3fu);
    }
    static const uint32_t least[5] = {0, 0, 0xa0, 0x800, 0x10000};
    return code >= least[n] && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff) ? n : 0;
}

/* Bytes of err->message that the caller's struct has; 0 if that is not even one character. */
static size_t message_room(const eg_error *err)
{
    uint32_t stated = eg_struct_size(err);
    if (stated < offsetof(eg_error, message) + 2 || stated > EG_STRUCT_MOST) return 0;
    return (stated < sizeof *err ? stated : sizeof *err) - offsetof(eg_error, message);
}

eg_status eg_fail(eg_error *err, eg_status status, const char *format, ...)
{
    size_t room = err ? message_room(err) : 0;
    if (!room) return status;
    /* Longer than the message, so that a character that the message cuts off is not taken for a damaged one. */
    char text[sizeof err->message + 4];
    va_list args;
    va_start(args, format);
    int written = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (written < 0) memcpy(text, "?", 2);

    size_t length = strlen(text), out = 0;
    for (size_t i = 0; i < length;) {
        size_t n = printable((const unsigned char *)text + i, length - i);
        if (out + (n ? n : 1) >= room) break;
        if (n) memcpy(err->message + out, text + i, n);
        else err->message[out] = '?';
        out += n ? n : 1;
        i += n ? n : 1;
    }
    memset(err->message + out, 0, room - out);
    err->status = status;
    uint32_t stated = eg_struct_size(err);
    if (stated > sizeof *err) memset((uint8_t *)err + sizeof *err, 0, stated - sizeof *err);
    return status;
}
