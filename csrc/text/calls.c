/* Reads the text between the markers of a call: usually one `call:NAME{...}`; also several, or calls written as JSON or as Python. */
#include "calls.h"

#include "../base/grow.h"
#include "characters.h"
#include "json.h"
#include "values.h"

#include <stdlib.h>

enum { QUOTE = sizeof EG_QUOTE - 1 };

typedef struct found_call {
    const char *name;
    size_t name_length;
    const eg_json *arguments; /* NULL: none */
    const char *problem; /* NULL: none */
} found_call;

/* All calls so far, and the reader. */
typedef struct call_reader {
    eg_values values;
    found_call *items; /* [capacity] */
    size_t n, capacity;
} call_reader;

static bool add(call_reader *r, found_call call)
{
    found_call *grown = eg_grow(r->items, &r->capacity, r->n + 1, sizeof *grown);
    if (!grown) {
        r->values.failed = true;
        return false;
    }
    r->items = grown;
    r->items[r->n++] = call;
    return true;
}

static bool begins(const eg_values *v, size_t at, const char *word)
{
    const size_t n = strlen(word);
    return v->length - at >= n && memcmp(v->text + at, word, n) == 0;
}

static size_t space_end(const eg_values *v, size_t at) { return at + eg_leading_space(v->text + at, v->length - at); }

/* ---- calls as JSON ----------------------------------------------------------------------------------------------- */

static const eg_json *first_of(const eg_json *object, const char *const *keys, size_t n)
{
    const eg_json *found = NULL;
    for (size_t i = 0; i < n && !found; i++) found = eg_json_at(object, keys[i]);
    return found;
}

/* Arguments that are JSON in a string; NULL if they are no object. */
static const eg_json *arguments_in_text(call_reader *r, const eg_json *text)
{
    eg_chunks *chunks = r->values.chunks;
    if (eg_leading_space(text->text, text->length) == text->length) return eg_json_new(chunks, EG_JSON_OBJECT, NULL, 0);
    const char *problem = NULL;
    const eg_json *value = eg_json_read(text->text, text->length, chunks, &problem, NULL);
    if (!value && problem) {
        eg_values inner = {.text = text->text, .length = text->length, .chunks = chunks};
        value = eg_values_read(&inner, '[', 0);
        eg_values_skip(&inner);
        r->values.failed = r->values.failed || inner.failed;
        if (inner.at < inner.length || inner.problem || !eg_values_complete(&inner)) value = NULL;
    }
    return value && value->type == EG_JSON_OBJECT ? value : NULL;
}

/* The members that stand beside a name where there are no arguments, as a problem; NULL if there are none. */
static const char *misplaced(call_reader *r, const eg_json *value, const eg_json *name)
{
    static const char *const others[] = {"type", "id", "index", "call_id", "tool_call_id"};
    eg_string names = {0};
    for (const eg_json *m = value->first; m; m = m->next) {
        bool known = m == name;
        for (size_t i = 0; i < sizeof others / sizeof *others; i++)
            known = known || (m->key_length == strlen(others[i]) && memcmp(m->key, others[i], m->key_length) == 0);
        if (known) continue;
        if (names.length) eg_string_put(&names, ", ");
        eg_string_add(&names, m->key, m->key_length);
    }
    const char *problem = NULL;
    if (names.length) problem = eg_values_sentence(&r->values, eg_string_text(&names), " must be inside arguments", NULL);
    if (names.failed) r->values.failed = true;
    eg_string_free(&names);
    return problem;
}

/* A call written as {"name": ..., "arguments": {...}}, possibly under "function" or "tool_call". False if it is none. */
static bool from_json(call_reader *r, const eg_json *value, found_call *out)
{
    static const char *const wrappers[] = {"function", "tool_call", "function_call"};
    static const char *const names[] = {"name", "tool", "function", "tool_name"};
    static const char *const arguments[] = {"arguments", "parameters", "args", "input"};
    for (size_t i = 0; i < sizeof wrappers / sizeof *wrappers; i++) {
        const eg_json *inner = eg_json_at(value, wrappers[i]);
        if (inner && inner->type == EG_JSON_OBJECT) value = inner;
    }
    const eg_json *name = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !name; i++) {
        name = eg_json_at(value, names[i]);
        if (name && (name->type != EG_JSON_STRING || !name->length)) name = NULL;
    }
    if (!name) return false;
    *out = (found_call){.name = name->text, .name_length = name->length};
    const eg_json *given = first_of(value, arguments, sizeof arguments / sizeof *arguments);
    if (!given) {
        out->problem = misplaced(r, value, name);
        return true;
    }
    if (given->type == EG_JSON_NULL) return true;
    out->arguments = given->type == EG_JSON_STRING ? arguments_in_text(r, given) : given;
    if (!out->arguments || out->arguments->type != EG_JSON_OBJECT) {
        out->arguments = NULL;
        out->problem = "its arguments are no object";
    }
    return true;
}

static bool read_json_calls(call_reader *r)
{
    const eg_json *value = eg_values_read(&r->values, '[', 0);
    const size_t before = r->n;
    if (!value) return false;
    const bool list = value->type == EG_JSON_LIST;
    for (const eg_json *item = list ? value->first : value; item; item = list ? item->next : NULL) {
        found_call call;
        if (from_json(r, item, &call)) {
            if (!add(r, call)) return false;
            continue;
        }
        r->n = before; /* not all of them are calls */
        return false;
    }
    return r->n > before;
}

/* ---- calls in the notation --------------------------------------------------------------------------------------- */

/* The end of a run of the characters that names are made of. */
static size_t name_part(const eg_values *v, size_t at)
{
    while (at < v->length) {
        const uint32_t n = eg_utf8_character((const uint8_t *)v->text + at, v->length - at);
        if (!n) break;
        const uint32_t code = eg_utf8_code((const uint8_t *)v->text + at, n);
        if (!eg_is_word_code(code) && code != '.' && code != '-' && code != '/') break;
        at += n;
    }
    return at;
}

/* NAME or NAME:NAME from `at` on; *end is behind it. */
static bool match_name_at(const eg_values *v, size_t at, size_t *begin, size_t *end)
{
    *begin = space_end(v, at);
    *end = name_part(v, *begin);
    if (*end == *begin) return false;
    for (size_t next; *end < v->length && v->text[*end] == ':' && (next = name_part(v, *end + 1)) > *end + 1;) *end = next;
    return true;
}

/* The place behind `call :` at `at`; `at` itself if it is not there. */
static size_t call_prefix(const eg_values *v, size_t at)
{
    if (!begins(v, at, "call")) return at;
    const size_t colon = space_end(v, at + 4);
    return colon < v->length && v->text[colon] == ':' ? colon + 1 : at;
}

/* The calls that begin where the reader stands. False where there is no call; the reader may have moved then. */
static bool read_calls(call_reader *r)
{
    eg_values *v = &r->values;
    const size_t start = v->at, before = r->n;
    size_t begin, end;
    if (v->text[start] == '{' || v->text[start] == '[') {
        if (!read_json_calls(r)) return false;
    } else {
        if (!match_name_at(v, call_prefix(v, start), &begin, &end) && !match_name_at(v, start, &begin, &end)) return false;
        found_call call = {.name = v->text + begin, .name_length = end - begin};
        end = space_end(v, end);
        const char following = end < v->length ? v->text[end] : '\0';
        if (following == '{' || following == '(') {
            v->at = end + 1;
            call.arguments = eg_values_read_pairs(v, following == '{' ? '}' : ')', 0);
        } else {
            /* Only a name: a call without arguments whose braces are missing or have not come yet. */
            const size_t first = space_end(v, 0);
            if (end < v->length || call_prefix(v, first) == first || start > first) return false;
            v->at = end;
            v->open_bracket = true;
        }
        if (v->failed || !add(r, call)) return false;
    }
    for (size_t i = before; i < r->n && v->problem; i++)
        if (!r->items[i].problem) r->items[i].problem = v->problem;
    v->problem = NULL;
    return true;
}

/* ---- what is left over ------------------------------------------------------------------------------------------- */

/* Whether a text behind a call may belong to its arguments: a bracket, a comma, a delimiter, or "key:". */
static bool more_arguments(const eg_values *v, size_t at)
{
    if (at < v->length && v->text[at] && strchr(",{}[])=:", v->text[at])) return true;
    if (begins(v, at, EG_QUOTE)) return true;
    if (at < v->length && (v->text[at] == '"' || v->text[at] == '\'')) at++;
    size_t end = name_part(v, at);
    for (size_t i = at; i < end; i++)
        if (v->text[i] == '/') end = i;
    if (end == at) return false;
    if (end < v->length && (v->text[end] == '"' || v->text[end] == '\'')) end++;
    end = space_end(v, end);
    return end < v->length && (v->text[end] == ':' || v->text[end] == '=');
}

static bool has(const char *text, size_t length, const char *word)
{
    const size_t n = strlen(word);
    for (size_t i = 0; i + n <= length; i++)
        if (memcmp(text + i, word, n) == 0) return true;
    return false;
}

/* The text from `at` on is no call: it is left over, or it breaks the call before it, or it was meant to be one. */
static void take_left_over(call_reader *r, size_t at, bool comma, const char **text, size_t *length)
{
    eg_values *v = &r->values;
    at = space_end(v, at);
    const char *rest = v->text + at;
    const size_t n = eg_without_trailing_space(rest, v->length - at);
    if (r->n) {
        size_t brackets = 0;
        while (brackets < n && strchr("})] \t\r\n", rest[brackets]) && rest[brackets]) brackets++;
        if (brackets == n) return; /* superfluous brackets */
        if (!comma && !more_arguments(v, at)) {
            *text = rest;
            *length = n;
        } else if (!r->items[r->n - 1].problem) {
            const char *shown = eg_values_shortened(v, rest, n);
            if (shown) r->items[r->n - 1].problem = eg_values_sentence(v, shown, " stands behind its arguments", NULL);
        }
        return;
    }
    const uint32_t next = n > 4 ? eg_utf8_character((const uint8_t *)rest + 4, n - 4) : 0;
    const bool call = begins(v, at, "call") && !(next && eg_is_word_code(eg_utf8_code((const uint8_t *)rest + 4, next)));
    if (call || has(rest, n, "{") || has(rest, n, EG_QUOTE)) {
        const char *shown = eg_values_shortened(v, rest, n);
        const char *problem = shown ? eg_values_sentence(v, shown, " is no call of a tool", NULL) : NULL;
        add(r, (found_call){.name = "", .problem = problem});
    } else {
        *text = rest;
        *length = n;
    }
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */

/* The text with the delimiters that the small function-calling Gemma uses replaced, of the chunks. */
static const char *with_delimiters(const char *text, size_t *length, eg_chunks *chunks)
{
    static const char other[] = "<escape>";
    eg_string out = {0};
    size_t from = 0;
    for (size_t i = 0; i + sizeof other - 1 <= *length;) {
        if (memcmp(text + i, other, sizeof other - 1) != 0) {
            i++;
            continue;
        }
        eg_string_add(&out, text + from, i - from);
        eg_string_put(&out, EG_QUOTE);
        from = i += sizeof other - 1;
    }
    eg_string_add(&out, text + from, *length - from);
    *length = out.length;
    const char *copy = out.failed ? NULL : eg_chunks_copy(chunks, eg_string_text(&out), out.length);
    eg_string_free(&out);
    return copy;
}

/* Writes the calls as texts that the chunks own. */
static bool hand_out(const call_reader *r, eg_chunks *memory, eg_tool_calls *out)
{
    out->items = eg_chunks_take(memory, (r->n + 1) * sizeof *out->items);
    if (!out->items) return false;
    for (size_t i = 0; i < r->n; i++) {
        const found_call *from = &r->items[i];
        eg_tool_call *to = &out->items[i];
        eg_string json = {0};
        if (from->arguments) eg_json_write(from->arguments, &json);
        else eg_string_put(&json, "{}");
        to->name = eg_chunks_copy(memory, from->name, from->name_length);
        to->name_length = from->name_length;
        to->arguments = json.failed ? NULL : eg_chunks_copy(memory, eg_string_text(&json), json.length);
        to->arguments_length = json.length;
        eg_string_free(&json);
        to->problem = from->problem ? from->problem : "";
        to->problem_length = strlen(to->problem);
        if (!to->name || !to->arguments) return false;
    }
    out->n = r->n;
    return true;
}

bool eg_tool_calls_read(const char *text, size_t length, eg_tool_calls *out)
{
    eg_chunks memory = {0};
    *out = (eg_tool_calls){.left_over = ""};
    text = with_delimiters(text, &length, &memory);
    if (!text) {
        eg_chunks_free(&memory);
        return false;
    }
    call_reader r = {.values = {.text = text, .length = length, .chunks = &memory}};
    bool comma = false;
    while (eg_values_skip(&r.values), r.values.at < length && !r.values.failed) {
        const size_t start = r.values.at;
        if (!read_calls(&r)) {
            if (!r.values.failed) take_left_over(&r, start, comma, &out->left_over, &out->left_over_length);
            break;
        }
        const char c = eg_values_skip(&r.values);
        comma = (c == ',' || c == ';') && text[start] != '{' && text[start] != '[';
        if (comma) r.values.at++;
    }
    out->whole = eg_values_complete(&r.values);
    const bool done = !r.values.failed && hand_out(&r, &memory, out);
    out->memory = memory.last;
    free(r.items);
    if (!done) eg_tool_calls_free(out);
    return done;
}

void eg_tool_calls_free(eg_tool_calls *calls)
{
    eg_chunks memory = {.last = calls->memory};
    eg_chunks_free(&memory);
    *calls = (eg_tool_calls){.left_over = ""};
}
