/* Fuzzes what reads a model's words. The first byte of the input says what the rest is:
 *   0  a reply: read at once, in pieces of 1 to 8 bytes, and the second byte says how it begins and ends: the results are equal
 *   1  the text of a call: its arguments are strict JSON
 *   2  a JSON text: what is written of it is read as the same value */
#include "edge_gemma_chat.h"
#include "text/calls.h"
#include "text/json.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

#define REQUIRE(condition) \
    do { \
        if (!(condition)) abort(); \
    } while (0)

static bool is_utf8(const char *text, size_t length)
{
    for (size_t at = 0; at < length;) {
        const uint32_t n = eg_utf8_character((const uint8_t *)text + at, length - at);
        if (!n) return false;
        at += n;
    }
    return true;
}

/* A JSON text of length bytes, which must be one: what is written of it is equal to it. */
static void round_trip(const char *text, size_t length)
{
    eg_chunks chunks = {0};
    eg_string written = {0};
    eg_json *value = eg_json_read(text, length, &chunks, NULL, NULL);
    REQUIRE(value);
    eg_json_write(value, &written);
    eg_json *again = eg_json_read(eg_string_text(&written), written.length, &chunks, NULL, NULL);
    REQUIRE(again && eg_json_equal(value, again) && eg_json_equal(again, value));
    REQUIRE(is_utf8(eg_string_text(&written), written.length));
    eg_string_free(&written);
    eg_chunks_free(&chunks);
}

/* Appends what the events tell: neighbouring texts of one kind are joined. */
static void take_events(eg_reply *reply, eg_string *told, eg_event_kind *last)
{
    eg_reply_event event = {.struct_size = sizeof event};
    while (!eg_reply_next(reply, &event, NULL) && event.kind) {
        const bool call = event.kind == EG_EVENT_CALL || event.kind == EG_EVENT_BROKEN_CALL;
        REQUIRE(is_utf8(event.text, event.text_length) && event.text[event.text_length] == '\0');
        REQUIRE(call || event.text_length);
        REQUIRE((event.kind == EG_EVENT_BROKEN_CALL) == (event.problem[0] != '\0'));
        if (call || *last != event.kind) eg_string_add(told, call ? "\1c" : event.kind == EG_EVENT_TEXT ? "\1t" : "\1h", 2);
        eg_string_add(told, event.text, event.text_length);
        if (call) {
            round_trip(event.arguments, strlen(event.arguments));
            eg_string_put(told, event.name);
            eg_string_put(told, event.arguments);
            eg_string_put(told, event.problem);
        }
        *last = call ? EG_EVENT_NONE : event.kind;
    }
}

/* Everything that a reply tells, cut into pieces of `step` bytes. */
static eg_string told_in(const char *text, size_t length, size_t step, uint8_t how)
{
    static const char *const own[] = {"[END]", "<|im|>"};
    const eg_reply_params params = {.struct_size = sizeof params,
                                    .in_thought = how & 1,
                                    .markers = own,
                                    .n_markers = how & 4 ? 2 : 0,
                                    .ends = own,
                                    .n_ends = how & 4 ? 1 : 0};
    eg_reply *reply;
    eg_string told = {0};
    eg_event_kind last = EG_EVENT_NONE;
    REQUIRE(!eg_reply_open(&params, &reply, NULL));
    for (size_t at = 0; at < length; at += step) {
        const size_t n = length - at < step ? length - at : step;
        char *piece = malloc(n);   /* exact, for the address sanitizer */
        REQUIRE(piece);
        memcpy(piece, text + at, n);
        REQUIRE(!eg_reply_feed(reply, piece, n, NULL));
        free(piece);
        take_events(reply, &told, &last);
    }
    REQUIRE(!eg_reply_finish(reply, how & 2, NULL));
    take_events(reply, &told, &last);
    size_t n;
    for (int kind = EG_EVENT_TEXT; kind <= EG_EVENT_THOUGHT; kind++) {
        const char *whole = eg_reply_get(reply, (eg_event_kind)kind, &n);
        REQUIRE(whole && is_utf8(whole, n));
        eg_string_put(&told, "\1");
        eg_string_add(&told, whole, n);
    }
    REQUIRE(!eg_reply_finish(reply, true, NULL) && !eg_reply_feed(reply, "more", 4, NULL));
    eg_reply_event event = {.struct_size = sizeof event};
    REQUIRE(!eg_reply_next(reply, &event, NULL) && !event.kind);
    eg_reply_close(reply);
    return told;
}

static void read_reply(const char *text, size_t length, uint8_t how)
{
    eg_string whole = told_in(text, length, length ? length : 1, how);
    for (size_t step = 1; step <= 8; step += 1 + step % 3) {
        eg_string pieces = told_in(text, length, step, how);
        REQUIRE(pieces.length == whole.length && memcmp(eg_string_text(&pieces), eg_string_text(&whole), whole.length) == 0);
        eg_string_free(&pieces);
    }
    eg_string_free(&whole);
}

static void read_calls(const char *text, size_t length)
{
    eg_tool_calls calls;
    if (!is_utf8(text, length)) return;
    REQUIRE(eg_tool_calls_read(text, length, &calls));
    REQUIRE(is_utf8(calls.left_over, calls.left_over_length));
    for (size_t i = 0; i < calls.n; i++) {
        const eg_tool_call *call = &calls.items[i];
        round_trip(call->arguments, call->arguments_length);
        REQUIRE(is_utf8(call->name, call->name_length) && is_utf8(call->problem, call->problem_length));
        REQUIRE(call->name_length || call->problem_length);
    }
    eg_tool_calls_free(&calls);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    const char *text = (const char *)data + 2;
    if (data[0] == 0) read_reply(text, size - 2, data[1]);
    else if (data[0] == 1) read_calls(text, size - 2);
    else {
        eg_chunks chunks = {0};
        const char *problem = NULL;
        size_t at;
        if (eg_json_read(text, size - 2, &chunks, &problem, &at)) round_trip(text, size - 2);
        else REQUIRE(problem && at <= size - 2);
        eg_chunks_free(&chunks);
    }
    return 0;
}
