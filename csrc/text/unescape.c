/* Replaces escapes, and leaves backslashes that begin none. */
#include "unescape.h"

/* A path of Windows with single backslashes, such as C:\new\table.txt. */
static bool is_path(const char *t, size_t n)
{
    if (n < 4 || (t[0] | 32) < 'a' || (t[0] | 32) > 'z' || t[1] != ':') return false;
    size_t at = 2;
    while (at + 1 < n && t[at] == '\\' && t[at + 1] != '\\' && t[at + 1] != '/' && t[at + 1] != '\n')
        for (at++; at < n && t[at] != '\\' && t[at] != '/' && t[at] != '\n';) at++;
    return at > 2 && (at == n || (at + 1 == n && t[at] == '\\'));
}

/* n hexadecimal digits; -1 if they are none. */
static int32_t hex(const char *t, size_t left, size_t n)
{
    if (left < n) return -1;
    int32_t code = 0;
    for (size_t i = 0; i < n; i++) {
        const char c = t[i];
        const int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (digit < 0) return -1;
        code = code << 4 | digit;
    }
    return code;
}

typedef struct escape {
    size_t length;             /* in the text, with the backslash */
    int32_t code;              /* what it stands for; -1: it stays as it is */
    bool single;               /* a backslash and one character */
} escape;

/* The escape at t[0], a backslash with a character behind it. */
static escape read_escape(const char *t, size_t left, char quote)
{
    const int32_t code = t[1] == 'u' ? hex(t + 2, left - 2, 4) : -1;
    if (code >= 0xD800 && code < 0xDC00 && left >= 12 && t[6] == '\\' && t[7] == 'u') {
        const int32_t low = hex(t + 8, 4, 4);
        if (low >= 0xDC00 && low < 0xE000) return (escape){12, 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00), false};
    }
    if (code >= 0) return (escape){6, code >= 0xD800 && code < 0xE000 ? -1 : code, false};
    const int32_t byte = t[1] == 'x' ? hex(t + 2, left - 2, 2) : -1;
    if (byte >= 0) return (escape){4, quote == '\'' ? byte : -1, false};
    static const char from[] = "ntr\\\"'bf", to[] = "\n\t\r\\\"'\b\f";
    const char *known = t[1] ? strchr(from, t[1]) : NULL;
    if (known) return (escape){2, to[known - from], true};
    return (escape){2, quote == '"' && t[1] == '/' ? '/' : -1, true};
}

/* The first place from `at` on where an escape may begin. */
static size_t next_backslash(const char *t, size_t n, size_t at)
{
    const char *found = at < n ? memchr(t + at, '\\', n - at) : NULL;
    return found && (size_t)(found - t) + 1 < n ? (size_t)(found - t) : n;
}

const char *eg_unescape(const char *text, size_t *length, char quote, eg_chunks *chunks)
{
    const size_t n = *length;
    if (!n || !memchr(text, '\\', n) || is_path(text, n)) return text;
    bool all_known = true;     /* who leaves a backslash single means \b and \f of a pattern or a path */
    for (size_t at = next_backslash(text, n, 0); at < n;) {
        const escape e = read_escape(text + at, n - at, quote);
        if (e.single && e.code < 0) all_known = false;
        at = next_backslash(text, n, at + e.length);
    }
    eg_string out = {0};
    size_t from = 0;
    for (size_t at = next_backslash(text, n, 0); at < n;) {
        escape e = read_escape(text + at, n - at, quote);
        if (e.single && !all_known && (text[at + 1] == 'b' || text[at + 1] == 'f')) e.code = -1;
        eg_string_add(&out, text + from, at - from);
        if (e.code >= 0) eg_string_add_character(&out, (uint32_t)e.code);
        else eg_string_add(&out, text + at, e.length);
        from = at + e.length;
        at = next_backslash(text, n, from);
    }
    eg_string_add(&out, text + from, n - from);
    const char *copy = out.failed ? NULL : eg_chunks_copy(chunks, eg_string_text(&out), out.length);
    *length = out.length;
    eg_string_free(&out);
    return copy;
}
