/* The JSON reader and writer. */
#include "json.h"

#include "utf8.h"

typedef struct reader {
    const char *text;
    size_t length, at;
    eg_chunks *chunks;
    const char *problem;       /* the first */
} reader;

/* ---- values ------------------------------------------------------------------------------------------------------ */

eg_json *eg_json_new(eg_chunks *chunks, eg_json_type type, const char *text, size_t length)
{
    eg_json *value = eg_chunks_take(chunks, sizeof *value);
    if (value) {
        value->type = type;
        value->text = text;
        value->length = length;
    }
    return value;
}

void eg_json_append(eg_json *list, eg_json *value)
{
    value->next = NULL;
    if (list->last) list->last->next = value;
    else list->first = value;
    list->last = value;
}

static uint32_t hash(const char *text, size_t length)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < length; i++) h = (h ^ (uint8_t)text[i]) * 16777619u;
    return h;
}

void eg_json_set(eg_json *object, const char *key, size_t key_length, eg_json *value)
{
    const uint32_t h = hash(key, key_length);
    value->key = key;
    value->key_length = key_length;
    value->key_hash = h;
    eg_json *before = NULL;
    for (eg_json *m = object->first; m; before = m, m = m->next) {
        if (m->key_hash != h || m->key_length != key_length || memcmp(m->key, key, key_length) != 0) continue;
        value->next = m->next;
        if (before) before->next = value;
        else object->first = value;
        if (object->last == m) object->last = value;
        return;
    }
    eg_json_append(object, value);
}

eg_json *eg_json_get(const eg_json *object, const char *key, size_t key_length)
{
    if (!object || object->type != EG_JSON_OBJECT) return NULL;
    const uint32_t h = hash(key, key_length);
    for (eg_json *m = object->first; m; m = m->next)
        if (m->key_hash == h && m->key_length == key_length && memcmp(m->key, key, key_length) == 0) return m;
    return NULL;
}

bool eg_json_equal(const eg_json *a, const eg_json *b)
{
    if (a->type != b->type) return false;
    if (a->type == EG_JSON_NUMBER || a->type == EG_JSON_STRING)
        return a->length == b->length && (!a->length || memcmp(a->text, b->text, a->length) == 0);
    if (a->type == EG_JSON_LIST) {
        const eg_json *x = a->first, *y = b->first;
        for (; x && y; x = x->next, y = y->next)
            if (!eg_json_equal(x, y)) return false;
        return !x && !y;
    }
    size_t members = 0;
    for (const eg_json *x = a->first; x; x = x->next, members++) {
        const eg_json *y = eg_json_get(b, x->key, x->key_length);
        if (!y || !eg_json_equal(x, y)) return false;
    }
    for (const eg_json *y = b->first; y; y = y->next) members--;
    return members == 0;
}

bool eg_json_is(const eg_json *value, const char *text)
{
    return value && value->type == EG_JSON_STRING && value->length == strlen(text) && !memcmp(value->text, text, value->length);
}

bool eg_json_truthy(const eg_json *value)
{
    if (!value) return false;
    if (value->type == EG_JSON_STRING) return value->length > 0;
    if (value->type >= EG_JSON_LIST) return value->first != NULL;
    if (value->type != EG_JSON_NUMBER) return value->type == EG_JSON_TRUE;
    for (size_t i = 0; i < value->length && value->text[i] != 'e' && value->text[i] != 'E'; i++)
        if (value->text[i] >= '1' && value->text[i] <= '9') return true;
    return false;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static eg_json *fail(reader *r, const char *problem)
{
    if (!r->problem) r->problem = problem;
    return NULL;
}

static char peek(const reader *r) { return r->at < r->length ? r->text[r->at] : '\0'; }

static void skip(reader *r)
{
    while (r->at < r->length && strchr(" \t\r\n", r->text[r->at]) && r->text[r->at]) r->at++;
}

static bool digits(reader *r)
{
    const size_t start = r->at;
    while (peek(r) >= '0' && peek(r) <= '9') r->at++;
    return r->at > start;
}

static eg_json *number(reader *r)
{
    const size_t start = r->at;
    if (peek(r) == '-') r->at++;
    const size_t first = r->at;
    bool whole = digits(r) && (r->text[first] != '0' || r->at == first + 1);
    if (whole && peek(r) == '.') {
        r->at++;
        whole = digits(r);
    }
    if (whole && (peek(r) == 'e' || peek(r) == 'E')) {
        r->at++;
        if (peek(r) == '+' || peek(r) == '-') r->at++;
        whole = digits(r);
    }
    if (!whole) return fail(r, "a number is not written as one");
    if (r->at - start > EG_JSON_DIGITS) return fail(r, "a number is too long");
    return eg_json_new(r->chunks, EG_JSON_NUMBER, r->text + start, r->at - start);
}

/* Four hexadecimal digits at `at`; -1 if they are none. */
static int32_t hex4(const reader *r, size_t at)
{
    if (r->length - at < 4) return -1;
    int32_t code = 0;
    for (size_t i = 0; i < 4; i++) {
        const char c = r->text[at + i];
        const int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (digit < 0) return -1;
        code = code << 4 | digit;
    }
    return code;
}

/* The escape behind a backslash. */
static bool escape(reader *r, eg_string *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char c = peek(r);
    const char *known = c ? strchr(from, c) : NULL;
    if (known) {
        r->at++;
        return eg_string_add(out, to + (known - from), 1);
    }
    int32_t code = c == 'u' ? hex4(r, r->at + 1) : -1;
    if (code < 0) {
        fail(r, "a backslash does not begin an escape");
        return false;
    }
    r->at += 5;
    if (code >= 0xD800 && code < 0xDC00 && r->length - r->at >= 6 && r->text[r->at] == '\\' && r->text[r->at + 1] == 'u') {
        const int32_t low = hex4(r, r->at + 2);
        if (low >= 0xDC00 && low < 0xE000) {
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
            r->at += 6;
        }
    }
    return eg_string_add_character(out, (uint32_t)code);   /* U+FFFD for half of a pair */
}

/* The string behind its opening quote: *text and *length, of the chunks or of the text itself. */
static bool string(reader *r, const char **text, size_t *length)
{
    const size_t start = ++r->at;
    eg_string copy = {0};      /* begun at the first escape */
    bool copied = false, whole = true;
    size_t from = start;
    while (whole) {
        if (r->at >= r->length) {
            fail(r, "a string does not end");
            whole = false;
            break;
        }
        const uint8_t c = (uint8_t)r->text[r->at];
        if (c == '"') break;
        const uint32_t n = eg_utf8_character((const uint8_t *)r->text + r->at, r->length - r->at);
        if (c < 0x20 || !n) {
            fail(r, n ? "a string has a control character" : "a string is not UTF-8");
            whole = false;
        } else if (c == '\\') {
            copied = true;
            eg_string_add(&copy, r->text + from, r->at - from);
            r->at++;
            whole = escape(r, &copy);
            from = r->at;
        } else {
            r->at += n;
        }
    }
    if (whole) {
        *text = r->text + start;
        *length = r->at - start;
        if (copied) {
            eg_string_add(&copy, r->text + from, r->at - from);
            *length = copy.length;
            *text = copy.failed ? NULL : eg_chunks_copy(r->chunks, eg_string_text(&copy), copy.length);
            whole = *text != NULL;
        }
        r->at++;
    }
    eg_string_free(&copy);
    return whole;
}

static eg_json *read_value(reader *r, int depth);

static eg_json *elements(reader *r, bool object, int depth)
{
    if (depth >= EG_JSON_DEPTH) return fail(r, "lists and objects nest too deeply");
    const char closing = object ? '}' : ']';
    eg_json *whole = eg_json_new(r->chunks, object ? EG_JSON_OBJECT : EG_JSON_LIST, NULL, 0);
    r->at++;
    skip(r);
    if (!whole) return NULL;
    if (peek(r) == closing) {
        r->at++;
        return whole;
    }
    for (;;) {
        const char *key = NULL;
        size_t key_length = 0;
        skip(r);
        if (object) {
            if (peek(r) != '"') return fail(r, "a name in quotes is missing");
            if (!string(r, &key, &key_length)) return NULL;
            skip(r);
            if (peek(r) != ':') return fail(r, "a colon is missing");
            r->at++;
        }
        eg_json *value = read_value(r, depth + 1);
        if (!value) return NULL;
        if (object) eg_json_set(whole, key, key_length, value);
        else eg_json_append(whole, value);
        skip(r);
        const char c = peek(r);
        if (c != closing && c != ',') return fail(r, "a comma or a closing bracket is missing");
        r->at++;
        if (c == closing) return whole;
    }
}

static eg_json *read_value(reader *r, int depth)
{
    static const struct {
        const char *text;
        eg_json_type type;
    } words[] = {{"null", EG_JSON_NULL}, {"false", EG_JSON_FALSE}, {"true", EG_JSON_TRUE}};
    skip(r);
    const char c = peek(r);
    if (c == '{' || c == '[') return elements(r, c == '{', depth);
    if (c == '"') {
        const char *text;
        size_t length;
        return string(r, &text, &length) ? eg_json_new(r->chunks, EG_JSON_STRING, text, length) : NULL;
    }
    if (c == '-' || (c >= '0' && c <= '9')) return number(r);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const size_t n = strlen(words[i].text);
        if (r->length - r->at < n || memcmp(r->text + r->at, words[i].text, n) != 0) continue;
        r->at += n;
        return eg_json_new(r->chunks, words[i].type, NULL, 0);
    }
    return fail(r, "a value is missing");
}

eg_json *eg_json_read(const char *text, size_t length, eg_chunks *chunks, const char **problem, size_t *at)
{
    reader r = {text, length, 0, chunks, NULL};
    eg_json *value = read_value(&r, 0);
    skip(&r);
    if (value && r.at < length) value = fail(&r, "something follows the value");
    if (problem) *problem = value ? NULL : r.problem;
    if (at) *at = r.at;
    return value;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

void eg_json_write_string(const char *text, size_t length, eg_string *out)
{
    static const char hex[] = "0123456789abcdef";
    size_t from = 0;
    eg_string_put(out, "\"");
    for (size_t i = 0; i < length; i++) {
        const uint8_t c = (uint8_t)text[i];
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        eg_string_add(out, text + from, i - from);
        from = i + 1;
        const char *short_form = c == '"' ? "\\\"" : c == '\\' ? "\\\\" : c == '\n' ? "\\n" : c == '\t' ? "\\t" : NULL;
        const char long_form[] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15], '\0'};
        eg_string_put(out, short_form ? short_form : long_form);
    }
    eg_string_add(out, text + from, length - from);
    eg_string_put(out, "\"");
}

void eg_json_write(const eg_json *value, eg_string *out)
{
    static const char *const words[] = {"null", "false", "true"};
    if (value->type <= EG_JSON_TRUE) eg_string_put(out, words[value->type]);
    else if (value->type == EG_JSON_NUMBER) eg_string_add(out, value->text, value->length);
    else if (value->type == EG_JSON_STRING) eg_json_write_string(value->text, value->length, out);
    if (value->type < EG_JSON_LIST) return;
    const bool object = value->type == EG_JSON_OBJECT;
    eg_string_put(out, object ? "{" : "[");
    for (const eg_json *m = value->first; m; m = m->next) {
        if (m != value->first) eg_string_put(out, ",");
        if (object) {
            eg_json_write_string(m->key, m->key_length, out);
            eg_string_put(out, ":");
        }
        eg_json_write(m, out);
    }
    eg_string_put(out, object ? "}" : "]");
}
