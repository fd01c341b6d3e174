/* Reads values as models write them. Never fails but for memory: text that it does not understand becomes a string, and
 * `problem` tells when a part of an object was lost by that. */
#include "values.h"

#include "calls.h"
#include "characters.h"
#include "unescape.h"

#include <stdarg.h>

enum { QUOTE = sizeof EG_QUOTE - 1 };

/* ---- places in the text ------------------------------------------------------------------------------------------ */

static bool starts(const eg_values *r, size_t at, const char *word)
{
    const size_t n = strlen(word);
    return at <= r->length && r->length - at >= n && memcmp(r->text + at, word, n) == 0;
}

static bool quote_at(const eg_values *r, size_t at) { return starts(r, at, EG_QUOTE); }

/* Where `word` begins first from `at` on; SIZE_MAX if it does not. */
static size_t find(const eg_values *r, const char *word, size_t at)
{
    const size_t n = strlen(word);
    while (at <= r->length && r->length - at >= n) {
        const char *found = memchr(r->text + at, word[0], r->length - at - n + 1);
        if (!found) break;
        at = (size_t)(found - r->text);
        if (memcmp(found, word, n) == 0) return at;
        at++;
    }
    return SIZE_MAX;
}

static size_t space_end(const eg_values *r, size_t at) { return at + eg_leading_space(r->text + at, r->length - at); }

static bool any_of(const eg_values *r, size_t at, const char *characters)
{
    return at < r->length && r->text[at] && strchr(characters, r->text[at]) != NULL;
}

char eg_values_skip(eg_values *r)
{
    r->at = space_end(r, r->at);
    return r->at < r->length ? r->text[r->at] : '\0';
}

/* Bytes of the character at `at`. */
static size_t character(const eg_values *r, size_t at)
{
    const uint32_t n = at < r->length ? eg_utf8_character((const uint8_t *)r->text + at, r->length - at) : 1;
    return n ? n : 1;
}

/* ---- sentences --------------------------------------------------------------------------------------------------- */

const char *eg_values_sentence(eg_values *r, const char *first, ...)
{
    eg_string text = {0};
    va_list list;
    va_start(list, first);
    for (const char *part = first; part; part = va_arg(list, const char *)) eg_string_put(&text, part);
    va_end(list);
    const char *copy = text.failed ? NULL : eg_chunks_copy(r->chunks, eg_string_text(&text), text.length);
    eg_string_free(&text);
    if (!copy) r->failed = true;
    return copy;
}

const char *eg_values_shortened(eg_values *r, const char *text, size_t length)
{
    enum { MOST = 40 };
    eg_string plain = {0}, out = {0};
    for (size_t i = 0; i < length;) {
        const bool quote = length - i >= QUOTE && memcmp(text + i, EG_QUOTE, QUOTE) == 0;
        eg_string_add(&plain, quote ? "\"" : text + i, 1);
        i += quote ? QUOTE : 1;
    }
    const char *bytes = eg_string_text(&plain);
    const size_t begin = eg_leading_space(bytes, plain.length), end = eg_without_trailing_space(bytes, plain.length);
    size_t characters = 0, cut = begin;   /* cut: behind the 39th character */
    for (size_t i = begin; i < end; i++)
        if (((uint8_t)bytes[i] & 0xC0) != 0x80 && ++characters == MOST) cut = i;
    const bool cuts = characters > MOST;
    bool single = false, twofold = false;
    for (size_t i = begin; i < (cuts ? cut : end); i++) {
        single = single || bytes[i] == '\'';
        twofold = twofold || bytes[i] == '"';
    }
    const char *mark = single && !twofold ? "\"" : "'";
    eg_string_put(&out, mark);
    for (size_t i = begin; i < (cuts ? cut : end); i++) {
        const char c = bytes[i];
        if (c == '\n') eg_string_put(&out, "\\n");
        else if (c == '\t') eg_string_put(&out, "\\t");
        else if (c == '\r') eg_string_put(&out, "\\r");
        else if ((uint8_t)c < 0x20 || c == 0x7F) eg_string_put(&out, "?");
        else {
            if (c == '\\' || c == *mark) eg_string_put(&out, "\\");
            eg_string_add(&out, &c, 1);
        }
    }
    if (cuts) eg_string_put(&out, "\xE2\x80\xA6");
    eg_string_put(&out, mark);
    const char *copy = plain.failed || out.failed ? NULL : eg_chunks_copy(r->chunks, eg_string_text(&out), out.length);
    eg_string_free(&plain);
    eg_string_free(&out);
    if (!copy) r->failed = true;
    return copy;
}

static void complain(eg_values *r, const char *what, const char *problem)
{
    if (!r->problem) r->problem = what ? eg_values_sentence(r, what, problem, NULL) : problem;
}

/* ---- keys -------------------------------------------------------------------------------------------------------- */

typedef struct key {
    size_t begin, end;         /* of the name, without quotes */
    char quote;                /* the quotes around it: '"', '\'', or 0 */
    size_t after;              /* behind the sign that follows it */
} key;

/* Whether ':' or '=' follows, after white space; then *after is the place behind it. */
static bool sign_follows(const eg_values *r, size_t at, size_t *after)
{
    at = space_end(r, at);
    if (!any_of(r, at, ":=")) return false;
    *after = at + 1;
    return true;
}

/* A name without quotes. It may be closed by a quote that was never opened. */
static bool bare_key(const eg_values *r, size_t start, key *out)
{
    if (start >= r->length || any_of(r, start, ":={}[](),<\"'")) return false;
    *out = (key){.begin = start};
    for (size_t at = start + character(r, start);;) {
        out->end = at;
        if (at >= r->length) return false;
        if (quote_at(r, at) && sign_follows(r, at + QUOTE, &out->after)) return true;
        if (any_of(r, at, "\"'") && sign_follows(r, at + 1, &out->after)) return true;
        if (sign_follows(r, at, &out->after)) return true;
        if (any_of(r, at, ":={}[](),<\"'")) return false;
        const size_t space = space_end(r, at);   /* the sign does not follow this white space */
        at = space > at ? space : at + character(r, at);
    }
}

/* The name of an entry, and the sign behind it. */
static bool match_key(const eg_values *r, size_t at, key *out)
{
    at = space_end(r, at);
    if (quote_at(r, at)) {
        *out = (key){.begin = at + QUOTE};
        for (size_t end = at + QUOTE; (end = find(r, EG_QUOTE, end)) != SIZE_MAX; end++) {
            out->end = end;
            if (sign_follows(r, end + QUOTE, &out->after)) return true;
        }
        return false;
    }
    if (any_of(r, at, "\"'")) {
        const char quote = r->text[at];
        size_t end = at + 1;
        while (end < r->length && r->text[end] != quote) end += r->text[end] == '\\' ? 2 : 1;
        *out = (key){.begin = at + 1, .end = end, .quote = quote};
        return end < r->length && sign_follows(r, end + 1, &out->after);
    }
    return bare_key(r, at, out);
}

/* A text of the chunks, unless it is one of the reader's text. */
static eg_json *string_value(eg_values *r, const char *text, size_t length)
{
    eg_json *value = eg_json_new(r->chunks, EG_JSON_STRING, text, length);
    if (!value) r->failed = true;
    return value;
}

static eg_json *unescaped(eg_values *r, size_t begin, size_t end, char quote)
{
    size_t length = end - begin;
    const char *text = eg_unescape(r->text + begin, &length, quote, r->chunks);
    if (text) return string_value(r, text, length);
    r->failed = true;
    return NULL;
}

/* The name as a text of its own, trimmed and zero-terminated; NULL without memory. */
static const char *key_name(eg_values *r, const key *k, size_t *length)
{
    const char *text = r->text + k->begin;
    *length = k->end - k->begin;
    if (k->quote) text = eg_unescape(text, length, k->quote, r->chunks);
    if (text) {
        *length = eg_without_trailing_space(text, *length);
        const size_t space = eg_leading_space(text, *length);
        *length -= space;
        text = eg_chunks_copy(r->chunks, text + space, *length);
    }
    if (!text) r->failed = true;
    return text;
}

/* ---- where a value ends ------------------------------------------------------------------------------------------ */

/* Whether a value may end before `at`: at a closing bracket, at the end, or at a comma before the next entry. */
static bool ends(const eg_values *r, size_t at, char inside)
{
    at = space_end(r, at);
    if (at >= r->length || any_of(r, at, "}])")) return true;
    if (r->text[at] != ',') return false;
    if (inside == '[') return true;
    while (at < r->length) {
        const size_t after = space_end(r, at) + (any_of(r, space_end(r, at), ",") ? 1 : 0);
        if (after == at) break;
        at = after;
    }
    key next;
    return at >= r->length || any_of(r, at, "})") || match_key(r, at, &next);
}

/* Where a text without delimiters ends: at the bracket that closes what encloses it, or at a comma before an entry. */
static size_t bare_end(const eg_values *r, size_t at, char inside)
{
    size_t depth = 0;
    for (; at < r->length; at++) {
        const char c = r->text[at];
        if (c == '{' || c == '[' || c == '(') {
            depth++;
        } else if (c == '}' || c == ']' || c == ')') {
            if (!depth) break;
            depth--;
        } else if (c == ',' && !depth && ends(r, at, inside)) {
            break;
        }
    }
    return at;
}

/* The text from here to where one without delimiters ends, trimmed. */
static const char *until_end(eg_values *r, char inside, size_t *length)
{
    const char *text = r->text + r->at;
    const size_t end = bare_end(r, r->at, inside);
    *length = eg_without_trailing_space(text, end - r->at);
    const size_t space = eg_leading_space(text, *length);
    *length -= space;
    r->at = end;
    if (end >= r->length) r->open_bracket = true;
    return text + space;
}

/* ---- strings ----------------------------------------------------------------------------------------------------- */

/* The rest of a string that is not closed before the text ends. */
static eg_json *unclosed(eg_values *r, char inside)
{
    size_t n;
    r->open_string = true;
    const char *text = until_end(r, inside, &n);
    if (n && (text[n - 1] == '"' || text[n - 1] == '\'')) n--;   /* the other kind of quote may have closed it */
    return string_value(r, text, n);
}

/* The place of the comma before the entry whose value would begin at `end`; SIZE_MAX if there is no such entry. */
static size_t last_key(const eg_values *r, size_t start, size_t end)
{
    size_t comma = end;
    while (comma > start && r->text[comma - 1] != ',') comma--;
    key k;
    return comma > start && match_key(r, comma, &k) && space_end(r, k.after) == end ? comma - 1 : SIZE_MAX;
}

/* A string that begins with the delimiter. */
static eg_json *quoted(eg_values *r, char inside)
{
    const size_t start = r->at + QUOTE, end = find(r, EG_QUOTE, start);
    if (end == SIZE_MAX) {
        r->at = start;
        return unclosed(r, inside);
    }
    if (inside == '{' && !ends(r, end + QUOTE, inside)) {
        /* The next delimiter opens the string of another entry: this string was never closed. */
        const size_t entry = last_key(r, start, end);
        if (entry != SIZE_MAX) {
            r->at = entry;
            return string_value(r, r->text + start, eg_without_trailing_space(r->text + start, entry - start));
        }
    }
    r->at = end + QUOTE;
    return string_value(r, r->text + start, end - start);
}

/* Three quotes, as Python has them; NULL and nothing happens unless they are closed. */
static eg_json *triple_string(eg_values *r, char quote)
{
    const char marks[] = {quote, quote, quote, '\0'};
    if (!starts(r, r->at, marks)) return NULL;
    const size_t start = r->at + 3, end = find(r, marks, start);
    if (end == SIZE_MAX) return NULL;
    r->at = end + 3;
    return string_value(r, r->text + start, end - start);
}

/* A string in the quotes of JSON or Python. A quote is a part of the string unless a value may end there. */
static eg_json *json_string(eg_values *r, char quote, char inside)
{
    eg_json *triple = triple_string(r, quote);
    if (triple || r->failed) return triple;
    const size_t start = r->at + 1;
    size_t last = SIZE_MAX;
    size_t path_end = SIZE_MAX;   /* where the string ends if a backslash before a quote is its last character: "C:\dir\" */
    for (size_t at = start; at < r->length; at++) {
        if (quote_at(r, at)) {    /* closed by the delimiter instead */
            r->at = at + QUOTE;
            return unescaped(r, start, at, quote);
        }
        if (r->text[at] == '\\') {
            if (path_end == SIZE_MAX && at + 1 < r->length && r->text[at + 1] == quote && ends(r, at + 2, inside))
                path_end = at + 1;
            at++;
        } else if (r->text[at] == quote) {
            const bool may_end = ends(r, at + 1, inside);
            last = path_end != SIZE_MAX && !may_end ? path_end : at;   /* else this quote opens another entry's string */
            if (may_end || last == path_end) break;
        }
    }
    if (last == SIZE_MAX) last = path_end;
    if (last == SIZE_MAX) {
        size_t n;
        r->open_string = true;
        r->at = start;
        const char *text = until_end(r, inside, &n);
        return string_value(r, text, n);
    }
    r->at = last + 1;
    return unescaped(r, start, last, quote);
}

/* ---- values without delimiters ----------------------------------------------------------------------------------- */

static bool same_word(const char *text, size_t length, const char *word)
{
    if (length != strlen(word)) return false;
    for (size_t i = 0; i < length; i++)
        if ((text[i] >= 'A' && text[i] <= 'Z' ? text[i] + 32 : text[i]) != word[i]) return false;
    return true;
}

/* Whether digits[n] (with a point perhaps) times ten to the exponent is more than a double holds. */
static bool is_infinite(const char *digits, size_t n, long exponent)
{
    static const char most[] = "1797693134862315807937";   /* 2^1024 less half a step, rounded up; of 10^308 */
    char significant[sizeof most - 1];
    size_t found = 0;
    long before = 0;           /* digits before the point, from the first that is not 0 */
    bool point = false;
    for (size_t i = 0; i < n; i++) {
        if (digits[i] == '.') point = true;
        else if (found || digits[i] != '0') {
            if (found < sizeof significant) significant[found++] = digits[i];
            if (!point) before++;
        } else if (point) before--;
    }
    if (!found) return false;
    exponent += before - 1;
    if (exponent != 308) return exponent > 308;
    while (found < sizeof significant) significant[found++] = '0';
    return memcmp(significant, most, sizeof significant) >= 0;
}

/* A number as JSON has it; NULL if the text is none, or there is no memory. Models also write +5, .5 and 5. */
static eg_json *number_value(eg_values *r, const char *text, size_t length)
{
    size_t at = 0;
    const bool minus = length && text[0] == '-';
    if (length > EG_JSON_DIGITS) return NULL;
    if (length && (minus || text[0] == '+')) at++;
    const size_t whole = at;
    while (at < length && text[at] >= '0' && text[at] <= '9') at++;
    const size_t whole_end = at;
    if (whole_end - whole > 1 && text[whole] == '0') return NULL;
    const bool point = at < length && text[at] == '.';
    if (point) at++;
    const size_t fraction = at;
    while (point && at < length && text[at] >= '0' && text[at] <= '9') at++;
    const size_t fraction_end = at;
    if (whole_end == whole && fraction_end == fraction) return NULL;
    long exponent = 0;
    if (at < length) {
        if (text[at] != 'e' && text[at] != 'E') return NULL;
        const bool negative = at + 1 < length && text[at + 1] == '-';
        size_t digit = at + 1 + (at + 1 < length && (negative || text[at + 1] == '+'));
        if (digit >= length) return NULL;
        for (; digit < length; digit++) {
            if (text[digit] < '0' || text[digit] > '9') return NULL;
            if (exponent < 100000) exponent = exponent * 10 + (text[digit] - '0');
        }
        if (negative) exponent = -exponent;
    }
    const bool integer = !point && at == length;
    if (!integer && is_infinite(text + whole, fraction_end - whole, exponent)) return NULL;
    eg_string digits = {0};
    if (minus && !(integer && text[whole] == '0')) eg_string_put(&digits, "-");
    if (whole_end == whole) eg_string_put(&digits, "0");
    eg_string_add(&digits, text + whole, fraction_end - whole);
    if (point && fraction_end == fraction) eg_string_put(&digits, "0");
    eg_string_add(&digits, text + at, length - at);
    const char *copy = digits.failed ? NULL : eg_chunks_copy(r->chunks, eg_string_text(&digits), digits.length);
    eg_json *value = copy ? eg_json_new(r->chunks, EG_JSON_NUMBER, copy, digits.length) : NULL;
    if (!value) r->failed = true;
    eg_string_free(&digits);
    return value;
}

/* The number or constant that the text spells; NULL if it is none, or there is no memory. */
static eg_json *constant(eg_values *r, const char *text, size_t length)
{
    static const struct {
        const char *word;
        eg_json_type type;
    } words[] = {{"true", EG_JSON_TRUE}, {"false", EG_JSON_FALSE}, {"null", EG_JSON_NULL}, {"none", EG_JSON_NULL}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (!same_word(text, length, words[i].word)) continue;
        eg_json *value = eg_json_new(r->chunks, words[i].type, NULL, 0);
        if (!value) r->failed = true;
        return value;
    }
    return number_value(r, text, length);
}

/* Whether the delimiter at `end` closes the value that begins at `start` and has no other delimiter. */
static bool closed_by_quote(eg_values *r, size_t start, size_t end, char inside)
{
    const size_t first = bare_end(r, start, inside);
    const size_t n = eg_without_trailing_space(r->text + start, end - start);
    if (!ends(r, first, inside) || (n && strchr(":=,[{(", r->text[start + n - 1])) || !ends(r, end + QUOTE, inside))
        return false;
    if (first >= end) return true;
    /* It closes this value, unless the value is a number or a constant that ends before it. */
    const size_t space = eg_leading_space(r->text + start, first - start);
    return !constant(r, r->text + start + space, eg_without_trailing_space(r->text + start + space, first - start - space));
}

/* A number, a constant, or a string whose opening delimiter is missing. */
static eg_json *bare(eg_values *r, char inside)
{
    const size_t start = r->at, end = find(r, EG_QUOTE, start);
    if (end != SIZE_MAX && closed_by_quote(r, start, end, inside)) {
        r->at = end + QUOTE;
        return string_value(r, r->text + start, end - start);
    }
    size_t n;
    const char *text = until_end(r, inside, &n);
    eg_json *value = constant(r, text, n);
    if (value || r->failed) return value;
    if (n && text[n - 1] == '"' && memchr(text, '"', n) == text + n - 1) n = eg_without_trailing_space(text, n - 1);
    return string_value(r, text, n);
}

/* ---- lists and objects ------------------------------------------------------------------------------------------- */

/* Whether a text looks like an entry of an object that got into a list: "name: ...", but no address such as "http://...". */
static bool is_entry(const eg_json *item)
{
    const char *t = item->text;
    size_t at = 0;
    if (item->type != EG_JSON_STRING || !item->length || (t[0] >= '0' && t[0] <= '9')) return false;
    while (at < item->length) {
        const uint32_t n = eg_utf8_character((const uint8_t *)t + at, item->length - at);
        if (!n || (at == 0 && n > 1) || !eg_is_word_code(eg_utf8_code((const uint8_t *)t + at, n))) break;
        at += n;
    }
    if (!at) return false;
    at += eg_leading_space(t + at, item->length - at);
    if (at >= item->length || (t[at] != ':' && t[at] != '=')) return false;
    return item->length - at < 3 || memcmp(t + at + 1, "//", 2) != 0;
}

/* The elements of a list, up to and including `closing`. */
static eg_json *items(eg_values *r, char closing, int depth)
{
    eg_json *list = eg_json_new(r->chunks, EG_JSON_LIST, NULL, 0);
    if (!list) r->failed = true;
    while (!r->failed) {
        const char c = eg_values_skip(r);
        if (r->at >= r->length) {
            r->open_bracket = true;
            return list;
        }
        if (c == '}' || c == ')' || c == ']') {
            if (c == closing) r->at++;   /* another kind of bracket closes what encloses the list: leave it there */
            for (const eg_json *item = list->first; item && c != closing; item = item->next)
                if (is_entry(item)) complain(r, NULL, "a list is not closed before the next entry");
            return list;
        }
        if (c == ',') {
            r->at++;
            continue;
        }
        const size_t before = r->at;
        eg_json *item = eg_values_read(r, '[', depth);
        if (item) eg_json_append(list, item);
        if (r->at <= before) r->at = before + character(r, before);
    }
    return NULL;
}

/* What stands in an object and has no name. */
static void nameless(eg_values *r, int depth)
{
    const size_t before = r->at;
    eg_values_read(r, '{', depth);
    if (r->at <= before) r->at = before + character(r, before);
    if (r->problem || r->failed) return;
    const char *shown = eg_values_shortened(r, r->text + before, r->at - before);
    if (shown) complain(r, shown, " has no name");
}

eg_json *eg_values_read_pairs(eg_values *r, char closing, int depth)
{
    eg_json *object = eg_json_new(r->chunks, EG_JSON_OBJECT, NULL, 0);
    if (!object) r->failed = true;
    while (!r->failed) {
        char c = eg_values_skip(r);
        if (r->at >= r->length) {
            r->open_bracket = true;
            return object;
        }
        if (c == '}' || c == ')' || c == ']') {
            r->at++;
            if (c == closing || c != ']') return object;
            complain(r, NULL, "a bracket is closed that was not open");
            continue;
        }
        key k;
        if (c == ',') {
            r->at++;
        } else if (!match_key(r, r->at, &k)) {
            nameless(r, depth);
        } else {
            size_t length;
            r->at = k.after;
            const char *name = key_name(r, &k, &length);
            if (!name) return NULL;
            eg_values_skip(r);
            if (r->at >= r->length || any_of(r, r->at, "},)]")) complain(r, name, " has no value");
            eg_json *value = eg_values_read(r, '{', depth);
            if (!value) return NULL;
            const eg_json *before = eg_json_get(object, name, length);
            if (before && !eg_json_equal(before, value)) complain(r, name, " is given twice");
            eg_json_set(object, name, length, value);
        }
    }
    return NULL;
}

eg_json *eg_values_read(eg_values *r, char inside, int depth)
{
    const char c = eg_values_skip(r);
    if (quote_at(r, r->at)) return quoted(r, inside);
    if (c == '"' || c == '\'') return json_string(r, c, inside);
    if ((c == '{' || c == '[' || c == '(') && depth < EG_VALUE_DEPTH && r->retries < EG_VALUE_RETRIES) {
        const size_t start = r->at++;
        eg_json *nested = c == '{' ? eg_values_read_pairs(r, '}', depth + 1) : items(r, c == '[' ? ']' : ')', depth + 1);
        if (r->failed) return NULL;
        if (ends(r, r->at, inside) || r->open_bracket) return nested;
        r->retries++;          /* or the work could double with each bracket */
        r->at = start;         /* the bracket only begins a text without delimiters, such as "[sic] word" */
    }
    return bare(r, inside);
}
