/* Plain chat turns in Gemma 4's format, without a template engine.
 *
 * Owns eg_chat_render of the public header. For messages of text alone it gives what chat_template.jinja of the Python package
 * gives. That package renders tools, audio and images.
 *
 *     <bos> {<|turn>ROLE \n CONTENT <turn|> \n} [<|turn>model \n]
 */
#include "../base/checked.h"
#include "../base/structs.h"
#include "utf8.h"

#include <string.h>

#define THOUGHT_BEGIN "<|channel>"
#define THOUGHT_END "<channel|>"

/* Writes the bytes that fit and counts all of them. */
typedef struct writer {
    char *text;        /* [capacity] */
    size_t capacity, length;
    bool overflow;     /* the length does not fit a size_t */
} writer;

static void put(writer *w, const char *bytes, size_t n)
{
    if (w->length < w->capacity && n) {
        size_t room = w->capacity - w->length;
        memcpy(w->text + w->length, bytes, n < room ? n : room);
    }
    if (!eg_add_size(w->length, n, &w->length)) w->overflow = true;
}

static void put_text(writer *w, const char *text) { put(w, text, strlen(text)); }

/* Whether the character text[n] is white space (n from eg_utf8_character): Unicode's White_Space and the four ASCII
 * separators, like Python's str.strip. */
static bool is_space(const uint8_t *text, uint32_t n)
{
    if (n == 1) return (text[0] >= 0x09 && text[0] <= 0x0D) || (text[0] >= 0x1C && text[0] <= 0x20);
    if (n == 2) return text[0] == 0xC2 && (text[1] == 0x85 || text[1] == 0xA0);
    if (n != 3) return false;
    uint32_t code = (text[0] & 0x0Fu) << 12 | (text[1] & 0x3Fu) << 6 | (text[2] & 0x3Fu);
    return code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F ||
           code == 0x205F || code == 0x3000;
}

/* The next stretch of the content from *at on that is not a thought, as [*begin, *end); false at the end. A thought ends at
 * the next THOUGHT_END or at the end of the content; a THOUGHT_END without a beginning is dropped. Without `is_model`
 * everything is kept. */
static bool next_kept(const char **at, bool is_model, const char **begin, const char **end)
{
    const char *from = *at;
    if (!from) return false;
    *begin = from;
    *end = from + strlen(from);
    *at = NULL;
    if (is_model) {
        const char *close = strstr(from, THOUGHT_END);
        if (close) {
            *end = close;
            *at = close + strlen(THOUGHT_END);
        }
        const char *open = strstr(from, THOUGHT_BEGIN);
        if (open && open < *end) *end = open;
    }
    return true;
}

/* Writes `content` without its thoughts, trimmed. The first loop finds where the trimmed text begins and ends, the second loop
 * writes it. */
static void put_content(writer *w, const char *content, bool is_model)
{
    const char *first = NULL, *last = NULL;   /* begin and end of the trimmed text */
    const char *at = content, *begin, *end;
    while (next_kept(&at, is_model, &begin, &end)) {
        for (const char *c = begin; c < end;) {
            uint32_t n = eg_utf8_character((const uint8_t *)c, (size_t)(end - c));
            if (!is_space((const uint8_t *)c, n)) {
                if (!first) first = c;
                last = c + (n ? n : 1);
            }
            c += n ? n : 1;
        }
    }
    at = content;
    while (first && next_kept(&at, is_model, &begin, &end)) {
        const char *from = begin > first ? begin : first, *to = end < last ? end : last;
        if (from < to) put(w, from, (size_t)(to - from));
    }
}

static bool is_role(const char *role)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant", "model"};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (!strcmp(role, roles[i])) return true;
    return false;
}

/* Message i of the caller's array: struct_size of the first one, the distance between two, may be another than ours. */
static eg_status read_message(const eg_chat_message *messages, size_t i, eg_chat_message *out, eg_error *err)
{
    uint32_t stride = eg_struct_size(messages);
    const void *message = (const uint8_t *)messages + i * stride;
    if (i && eg_struct_size(message) != stride)
        return eg_fail(err, EG_ERROR_ARGUMENT, "messages[%zu].struct_size is %u, but that of messages[0] is %u.", i,
                       (unsigned)eg_struct_size(message), (unsigned)stride);
    return eg_struct_read(message, out, sizeof *out, "eg_chat_message", err);
}

static eg_status check_messages(const eg_chat_message *messages, size_t n, eg_error *err)
{
    for (size_t i = 0; i < n; i++) {
        eg_chat_message m;
        eg_status status = read_message(messages, i, &m, err);
        if (status) return status;
        if (!m.role || !m.content) return eg_fail(err, EG_ERROR_ARGUMENT, "messages[%zu] has no role or no content.", i);
        if (!is_role(m.role))
            return eg_fail(err, EG_ERROR_ARGUMENT,
                           "messages[%zu] has the role %.40s; it must be system, developer, user, assistant or model.", i,
                           m.role);
    }
    return EG_OK;
}

eg_status eg_chat_render(const eg_chat_message *messages, size_t n, uint32_t flags, char *text, size_t capacity, size_t *length,
                         eg_error *err)
{
    const uint32_t known = EG_CHAT_GENERATION | EG_CHAT_THINKING | EG_CHAT_EMPTY_THOUGHT;
    if ((n && !messages) || !length || (capacity && !text))
        return eg_fail(err, EG_ERROR_ARGUMENT, "eg_chat_render: messages, text and length must not be NULL.");
    if (flags & ~known)
        return eg_fail(err, EG_ERROR_ARGUMENT, "eg_chat_render: unknown flags 0x%x.", (unsigned)(flags & ~known));
    eg_status status = check_messages(messages, n, err);
    if (status) return status;

    writer w = {text, capacity, 0, false};
    eg_chat_message m = {0};
    bool thinking = flags & EG_CHAT_THINKING;
    if (n) read_message(messages, 0, &m, NULL);
    bool has_system = n && (!strcmp(m.role, "system") || !strcmp(m.role, "developer"));
    put_text(&w, "<bos>");
    if (thinking || has_system) {
        put_text(&w, "<|turn>system\n");
        if (thinking) put_text(&w, "<|think|>\n");
        if (has_system) put_content(&w, m.content, false);
        put_text(&w, "<turn|>\n");
    }
    for (size_t i = has_system ? 1 : 0; i < n; i++) {
        read_message(messages, i, &m, NULL);
        bool is_model = !strcmp(m.role, "assistant") || !strcmp(m.role, "model");
        put_text(&w, "<|turn>");
        put_text(&w, is_model ? "model" : m.role);
        put_text(&w, "\n");
        put_content(&w, m.content, is_model);
        put_text(&w, "<turn|>\n");
    }
    if (flags & EG_CHAT_GENERATION) {
        put_text(&w, "<|turn>model\n");
        if ((flags & EG_CHAT_EMPTY_THOUGHT) && !thinking) put_text(&w, THOUGHT_BEGIN "thought\n" THOUGHT_END);
    }
    if (w.overflow) return eg_fail(err, EG_ERROR_ARGUMENT, "the conversation is longer than this machine can address.");
    if (w.length < capacity) text[w.length] = '\0';
    *length = w.length;
    return EG_OK;
}
