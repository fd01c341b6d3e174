/* Writes conversations: turns, values, calls and results.
 *
 *     <bos> [<|turn>system \n [<|think|> \n] SYSTEM {<|tool>declaration<tool|>} <turn|> \n] {<|turn>ROLE \n CONTENT <turn|> \n}
 *     <|turn>model \n
 *
 * Calls, results and the text after them form one turn of the model. Thoughts are left out, but for those before the calls of the
 * turn that is still open.
 */
#include "prompt.h"

#include "../base/grow.h"
#include "calls.h"
#include "characters.h"

#include <stdlib.h>

void eg_prompt_free(eg_prompt *p)
{
    eg_string_free(&p->text);
    free(p->marks);
    *p = (eg_prompt){0};
}

void eg_prompt_put(eg_prompt *p, const char *text, size_t length)
{
    if (!eg_string_add(&p->text, text, length)) p->failed = true;
}

static void mark(eg_prompt *p, const char *text, int64_t media)
{
    eg_prompt_mark *grown = eg_grow(p->marks, &p->capacity, p->n + 1, sizeof *grown);
    if (!grown) {
        p->failed = true;
        return;
    }
    p->marks = grown;
    p->marks[p->n++] = (eg_prompt_mark){p->text.length, strlen(text), media};
    eg_prompt_put_text(p, text);
}

void eg_prompt_mark_token(eg_prompt *p, const char *marker) { mark(p, marker, -1); }

static void put_trimmed(eg_prompt *p, const char *text, size_t length)
{
    length = eg_without_trailing_space(text, length);
    const size_t space = eg_leading_space(text, length);
    eg_prompt_put(p, text + space, length - space);
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

void eg_prompt_quote(eg_prompt *p, const char *text, size_t length)
{
    eg_prompt_mark_token(p, EG_QUOTE);
    eg_prompt_put(p, text, length);
    eg_prompt_mark_token(p, EG_QUOTE);
}

/* A character in small, for the order of names: ASCII, Latin-1, Greek and Cyrillic. */
static uint32_t small(uint32_t code)
{
    if ((code >= 'A' && code <= 'Z') || (code >= 0xC0 && code <= 0xDE && code != 0xD7) || (code >= 0x391 && code <= 0x3A9) ||
        (code >= 0x410 && code <= 0x42F))
        return code + 32;
    return code >= 0x400 && code <= 0x40F ? code + 80 : code;
}

typedef struct sorted {
    const eg_json *member;
    size_t place;
} sorted;

static int by_name(const void *a, const void *b)
{
    const eg_json *x = ((const sorted *)a)->member, *y = ((const sorted *)b)->member;
    size_t i = 0, k = 0;
    while (i < x->key_length && k < y->key_length) {
        const uint32_t m = eg_utf8_character((const uint8_t *)x->key + i, x->key_length - i);
        const uint32_t n = eg_utf8_character((const uint8_t *)y->key + k, y->key_length - k);
        const uint32_t one = m ? small(eg_utf8_code((const uint8_t *)x->key + i, m)) : 0;
        const uint32_t other = n ? small(eg_utf8_code((const uint8_t *)y->key + k, n)) : 0;
        if (one != other) return one < other ? -1 : 1;
        i += m ? m : 1;
        k += n ? n : 1;
    }
    if (i < x->key_length || k < y->key_length) return i < x->key_length ? 1 : -1;
    return ((const sorted *)a)->place < ((const sorted *)b)->place ? -1 : 1;
}

const eg_json **eg_sorted_members(const eg_json *object, size_t *n)
{
    *n = 0;
    for (const eg_json *m = object->first; m; m = m->next) ++*n;
    sorted *order = *n && *n < SIZE_MAX / 4 / sizeof *order ? malloc(*n * sizeof *order) : NULL;
    const eg_json **members = order ? malloc(*n * sizeof(const eg_json *)) : NULL;
    if (members) {
        size_t at = 0;
        for (const eg_json *m = object->first; m; m = m->next, at++) order[at] = (sorted){m, at};
        qsort(order, *n, sizeof *order, by_name);
        for (size_t i = 0; i < *n; i++) members[i] = order[i].member;
    }
    free(order);
    return members;
}

/* A name has no delimiters, so the characters that would end it are replaced. */
static void put_key(eg_prompt *p, const char *key, size_t length)
{
    for (size_t i = 0; i < length; i++) eg_prompt_put(p, key[i] && strchr(":{}[],", key[i]) ? "_" : key + i, 1);
}

void eg_prompt_write_members(eg_prompt *p, const eg_json *object)
{
    size_t n;
    const eg_json **members = eg_sorted_members(object, &n);
    if (n && !members) p->failed = true;
    for (size_t i = 0; members && i < n; i++) {
        if (i) eg_prompt_put_text(p, ",");
        put_key(p, members[i]->key, members[i]->key_length);
        eg_prompt_put_text(p, ":");
        eg_prompt_write_value(p, members[i]);
    }
    free(members);
}

void eg_prompt_write_value(eg_prompt *p, const eg_json *v)
{
    static const char *const words[] = {"null", "false", "true"};
    if (v->type <= EG_JSON_TRUE) {
        eg_prompt_put_text(p, words[v->type]);
    } else if (v->type == EG_JSON_NUMBER) {
        eg_prompt_put(p, v->text, v->length);
    } else if (v->type == EG_JSON_STRING) {
        eg_prompt_quote(p, v->text, v->length);
    } else if (v->type == EG_JSON_OBJECT) {
        eg_prompt_put_text(p, "{");
        eg_prompt_write_members(p, v);
        eg_prompt_put_text(p, "}");
    } else {
        eg_prompt_put_text(p, "[");
        for (const eg_json *item = v->first; item; item = item->next) {
            if (item != v->first) eg_prompt_put_text(p, ",");
            eg_prompt_write_value(p, item);
        }
        eg_prompt_put_text(p, "]");
    }
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

static bool is_model(const eg_json *message)
{
    const eg_json *role = eg_json_at(message, "role");
    return eg_json_is(role, "assistant") || eg_json_is(role, "model") || eg_json_is(role, "tool");
}

static const eg_json *function_of(const eg_json *call)
{
    const eg_json *function = eg_json_at(call, "function");
    return function && function->type == EG_JSON_OBJECT ? function : call;
}

static bool is_string(const eg_json *value) { return value && value->type == EG_JSON_STRING; }

static const char *check_parts(const eg_json *parts)
{
    for (const eg_json *part = parts->first; part; part = part->next) {
        const eg_json *type = eg_json_at(part, "type");
        const bool media = eg_json_is(type, "image") || eg_json_is(type, "audio");
        if (eg_json_is(type, "text") ? !is_string(eg_json_at(part, "text")) : !media)
            return "has a part that is no text, image or audio";
        if (media && !eg_json_at(part, "media")) return "has an image or audio without its data";
    }
    return NULL;
}

const char *eg_message_check(const eg_json *message)
{
    const eg_json *role = eg_json_at(message, "role"), *content = eg_json_at(message, "content");
    if (!is_model(message) && !eg_json_is(role, "user") && !eg_json_is(role, "system") && !eg_json_is(role, "developer"))
        return "has no role, or another than system, developer, user, assistant, model and tool";
    if (eg_json_is(role, "tool")) return content ? NULL : "is a result without content";
    const eg_json *calls = eg_json_at(message, "tool_calls"), *thought = eg_json_at(message, "reasoning_content");
    if (calls && calls->type != EG_JSON_NULL && calls->type != EG_JSON_LIST) return "has tool_calls that are no list";
    for (const eg_json *call = calls ? calls->first : NULL; call; call = call->next) {
        const eg_json *function = function_of(call), *arguments = eg_json_at(function, "arguments");
        if (!is_string(eg_json_at(function, "name"))) return "has a tool call without a name";
        if (arguments && arguments->type != EG_JSON_OBJECT) return "has a tool call whose arguments are no object";
    }
    if (thought && thought->type != EG_JSON_NULL && !is_string(thought)) return "has reasoning_content that is no text";
    if (content && content->type == EG_JSON_LIST) return check_parts(content);
    return is_string(content) || (is_model(message) && (!content || content->type == EG_JSON_NULL))
               ? NULL
               : "has content that is neither text nor a list of parts";
}

static void put_parts(eg_prompt *p, const eg_json *content)
{
    for (const eg_json *part = content->first; part; part = part->next) {
        const eg_json *text = eg_json_at(part, "text"), *media = eg_json_at(part, "media");
        if (text) {
            put_trimmed(p, text->text, text->length);
        } else {
            int64_t number = 0;
            for (size_t i = 0; i < media->length && number < INT32_MAX; i++) number = number * 10 + (media->text[i] - '0');
            mark(p, eg_json_is(eg_json_at(part, "type"), "image") ? "<|image|>" : "<|audio|>", number);
        }
    }
}

/* Text of the model without its thoughts, which its markers tell, trimmed. */
static void put_own_words(eg_prompt *p, const char *text, size_t length)
{
    static const char opening[] = "<|channel>", closing[] = "<channel|>";
    enum { N = sizeof opening - 1 };
    eg_string kept = {0};
    bool thought = false;
    for (size_t i = 0; i < length;) {
        const bool room = length - i >= N;
        if (!thought && room && memcmp(text + i, opening, N) == 0) thought = true;
        if (thought && room && memcmp(text + i, closing, N) == 0) {
            thought = false;
            i += N;
            continue;
        }
        if (!thought) eg_string_add(&kept, text + i, 1);
        i++;
    }
    if (kept.failed) p->failed = true;
    put_trimmed(p, eg_string_text(&kept), kept.length);
    eg_string_free(&kept);
}

static void put_call(eg_prompt *p, const eg_json *call)
{
    const eg_json *function = function_of(call), *name = eg_json_at(function, "name");
    const eg_json *arguments = eg_json_at(function, "arguments");
    eg_prompt_mark_token(p, "<|tool_call>");
    eg_prompt_put_text(p, "call:");
    eg_prompt_put(p, name->text, name->length);
    eg_prompt_put_text(p, "{");
    if (arguments) eg_prompt_write_members(p, arguments);
    eg_prompt_put_text(p, "}");
    eg_prompt_mark_token(p, "<tool_call|>");
}

/* The name of the tool that a result is of: its own, or that of the call with its id. */
static const eg_json *name_of_result(const eg_json *const *messages, size_t at)
{
    const eg_json *name = eg_json_at(messages[at], "name"), *id = eg_json_at(messages[at], "tool_call_id");
    if (is_string(name) && name->length) return name;
    for (size_t i = at; is_string(id) && i-- > 0;) {
        const eg_json *calls = eg_json_at(messages[i], "tool_calls");
        for (const eg_json *call = calls ? calls->first : NULL; call; call = call->next) {
            const eg_json *other = eg_json_at(call, "id");
            if (is_string(other) && eg_json_equal(other, id)) return eg_json_at(function_of(call), "name");
        }
    }
    return NULL;
}

static void put_result(eg_prompt *p, const eg_json *const *messages, size_t at)
{
    const eg_json *name = name_of_result(messages, at), *content = eg_json_at(messages[at], "content");
    eg_prompt_mark_token(p, "<|tool_response>");
    eg_prompt_put_text(p, "response:");
    eg_prompt_put(p, name ? name->text : "unknown", name ? name->length : 7);
    eg_prompt_put_text(p, content->type == EG_JSON_OBJECT ? "{" : "{value:");
    if (content->type == EG_JSON_OBJECT) eg_prompt_write_members(p, content);
    else eg_prompt_write_value(p, content);
    eg_prompt_put_text(p, "}");
    eg_prompt_mark_token(p, "<tool_response|>");
}

void eg_prompt_write_results(eg_prompt *p, const eg_json *const *messages, size_t n)
{
    for (size_t i = 0; i < n; i++) put_result(p, messages, i);
}

/* What stands between the head of a model's turn and its end: messages[from, to). */
static void put_body(eg_prompt *p, const eg_json *const *messages, size_t from, size_t to, bool keep_thoughts)
{
    for (size_t i = from; i < to; i++) {
        if (eg_json_is(eg_json_at(messages[i], "role"), "tool")) {
            put_result(p, messages, i);
            continue;
        }
        const eg_json *content = eg_json_at(messages[i], "content"), *calls = eg_json_at(messages[i], "tool_calls");
        const eg_json *thought = eg_json_at(messages[i], "reasoning_content");
        if (keep_thoughts && calls && calls->first && is_string(thought) && thought->length) {
            eg_prompt_mark_token(p, "<|channel>");
            eg_prompt_put_text(p, "thought\n");
            put_trimmed(p, thought->text, thought->length);
            eg_prompt_put_text(p, "\n");
            eg_prompt_mark_token(p, "<channel|>");
        }
        if (is_string(content)) put_own_words(p, content->text, content->length);
        else if (content && content->type == EG_JSON_LIST) put_parts(p, content);
        for (const eg_json *call = calls ? calls->first : NULL; call; call = call->next) put_call(p, call);
    }
}

static void begin_turn(eg_prompt *p, const char *role, size_t length)
{
    eg_prompt_mark_token(p, "<|turn>");
    eg_prompt_put(p, role, length);
    eg_prompt_put_text(p, "\n");
}

static void end_turn(eg_prompt *p)
{
    eg_prompt_mark_token(p, "<turn|>");
    eg_prompt_put_text(p, "\n");
}

static void put_system(eg_prompt *p, const eg_prompt_options *o)
{
    const bool tools = o->tools && o->tools->first;
    if (!o->thinking && !tools && !o->system) return;
    begin_turn(p, "system", 6);
    if (o->thinking) {
        eg_prompt_mark_token(p, "<|think|>");
        eg_prompt_put_text(p, "\n");
    }
    if (o->system) put_trimmed(p, o->system, strlen(o->system));
    for (const eg_json *tool = tools ? o->tools->first : NULL; tool; tool = tool->next) eg_prompt_write_tool(p, tool);
    end_turn(p);
}

void eg_prompt_write(eg_prompt *p, const eg_json *const *messages, size_t n, const eg_prompt_options *o)
{
    eg_prompt_mark_token(p, "<bos>");
    put_system(p, o);
    size_t at = 0, end;
    for (; at < n; at = end) {
        for (end = at; end < n && is_model(messages[end]);) end++;
        if (end == n && end > at) break;
        if (end == at) {
            const eg_json *role = eg_json_at(messages[at], "role"), *content = eg_json_at(messages[at], "content");
            begin_turn(p, role->text, role->length);
            if (is_string(content)) put_trimmed(p, content->text, content->length);
            else put_parts(p, content);
            end_turn(p);
            end = at + 1;
            continue;
        }
        const size_t marks = p->n, length = p->text.length;
        begin_turn(p, "model", 5);
        const size_t head = p->text.length;
        put_body(p, messages, at, end, false);
        if (p->text.length > head || p->failed) {
            end_turn(p);
        } else {               /* an answer that was interrupted in its thoughts has no body */
            p->n = marks;
            p->text.length = length;
        }
    }
    begin_turn(p, "model", 5);
    if (o->empty_thought && !o->thinking) {
        eg_prompt_mark_token(p, "<|channel>");
        eg_prompt_put_text(p, "thought\n");
        eg_prompt_mark_token(p, "<channel|>");
    }
    put_body(p, messages, at, n, true);
}
