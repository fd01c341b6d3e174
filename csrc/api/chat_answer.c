/* Conversations: answers, from tokens to events. */
#include "chat.h"

#include "../base/structs.h"
#include "objects.h"

#include <stdio.h>

static eg_status no_memory(eg_error *err) { return eg_fail(err, EG_ERROR_MEMORY, "no memory for the answer."); }

/* ---- beginning --------------------------------------------------------------------------------------------------- */

/* Whether the timeline ends inside of a thought. */
static bool in_thought(const eg_chat *c)
{
    const eg_tokenizer *t = c->model->tokenizer;
    const int32_t opening = eg_tokenizer_find(t, "<|channel>", SIZE_MAX),
                  closing = eg_tokenizer_find(t, "<channel|>", SIZE_MAX);
    const int32_t turn = eg_tokenizer_find(t, "<|turn>", SIZE_MAX);
    for (size_t at = eg_session_position(c->session); at-- > 0;) {
        int32_t id;
        if (!eg_session_get_tokens(c->session, at, &id, 1) || id < 0) return false;
        if (id == opening) return true;
        if (id == closing || id == turn) return false;
    }
    return false;
}

static eg_status check_last(const eg_chat *c, eg_error *err)
{
    eg_chunks chunks = {0};
    const char *last = c->n ? c->messages[c->n - 1] : "null";
    const eg_json *role = eg_json_at(eg_json_read(last, strlen(last), &chunks, NULL, NULL), "role");
    const bool asks = eg_json_is(role, "user") || eg_json_is(role, "tool");
    eg_chunks_free(&chunks);
    return asks ? EG_OK
                : eg_fail(err, EG_ERROR_STATE, "there is no message to answer: the last one must be the user's or a tool's.");
}

eg_status eg_chat_begin(eg_chat *c, eg_error *err)
{
    if (!c) return eg_fail(err, EG_ERROR_ARGUMENT, "chat is NULL.");
    eg_status status = eg_chat_end_answer(c, err);
    if (!status) status = check_last(c, err);
    if (!status) status = eg_chat_feed(c, err);
    if (status) return status;
    const eg_reply_params params = {.struct_size = sizeof params, .in_thought = in_thought(c)};
    status = eg_reply_open(&params, &c->reply, err);
    c->start = eg_session_position(c->session);
    c->generated = 0;
    c->stop = EG_CHAT_STOP_NONE;
    c->finished = false;
    eg_string_clear(&c->held);
    eg_string_clear(&c->calls);
    c->n_calls = 0;
    return status;
}

/* ---- stop texts -------------------------------------------------------------------------------------------------- */

/* Where the first stop text in what is held begins; SIZE_MAX if there is none. */
static size_t find_stop(const eg_chat *c)
{
    size_t first = SIZE_MAX;
    for (size_t i = 0; i < c->n_stops; i++) {
        const size_t n = strlen(c->stops[i]);
        for (size_t at = 0; at + n <= c->held.length && at < first; at++)
            if (memcmp(c->held.bytes + at, c->stops[i], n) == 0) first = at;
    }
    return first;
}

/* Bytes at the end of what is held that may be the beginning of a stop text. */
static size_t possible_stop(const eg_chat *c)
{
    size_t longest = 0;
    for (size_t i = 0; i < c->n_stops; i++)
        for (size_t n = strlen(c->stops[i]) - 1; n > longest; n--)
            if (n <= c->held.length && memcmp(c->held.bytes + c->held.length - n, c->stops[i], n) == 0) longest = n;
    return longest;
}

/* Parses what is held, up to `length`. */
static eg_status pass_on(eg_chat *c, size_t length, eg_error *err)
{
    if (!length) return EG_OK;
    eg_status status = eg_reply_feed(c->reply, c->held.bytes, length, err);
    eg_string_drop(&c->held, length);
    return status;
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

static bool by_model(eg_chat_stop stop)
{
    return stop == EG_CHAT_STOP_EOS || stop == EG_CHAT_STOP_TURN || stop == EG_CHAT_STOP_TOOL_RESPONSE;
}

/* The answer has ended: what is held is its last text. */
static eg_status end(eg_chat *c, eg_chat_stop stop, eg_error *err)
{
    c->stop = stop;
    return pass_on(c, c->held.length, err);
}

/* Draws a token and parses its text. */
static eg_status draw(eg_chat *c, const eg_sampling *sampling, eg_error *err)
{
    eg_sampling options = {.struct_size = sizeof options};
    eg_sampling_default(&options);
    if (c->max_tokens && c->generated >= c->max_tokens) return end(c, EG_CHAT_STOP_LENGTH, err);
    eg_status status = sampling ? eg_struct_read(sampling, &options, sizeof options, "eg_sampling", err) : EG_OK;
    if (status) return status;
    options.text_flags = EG_TEXT_SPECIAL;
    eg_token token = {.struct_size = sizeof token};
    status = eg_session_next(c->session, &options, &token, err);
    if (status == EG_CANCELLED) return end(c, EG_CHAT_STOP_CANCELLED, err);
    if (status == EG_ERROR_CONTEXT) return end(c, EG_CHAT_STOP_LENGTH, err);
    if (status) return status;
    c->generated++;
    if (!eg_string_add(&c->held, token.text, token.text_length)) return no_memory(err);
    if (token.stop) return end(c, (eg_chat_stop)token.stop, err);
    const size_t found = find_stop(c);
    if (found != SIZE_MAX) {
        c->held.length = found;
        return end(c, EG_CHAT_STOP_TEXT, err);
    }
    status = pass_on(c, c->held.length - possible_stop(c), err);
    if (!status && eg_reply_ended(c->reply)) c->stop = EG_CHAT_STOP_TURN;
    return status;
}

/* ---- ending ------------------------------------------------------------------------------------------------------ */

static void keep_call(eg_chat *c, const eg_reply_event *e)
{
    char id[40];
    snprintf(id, sizeof id, "%s{\"id\":\"call_%zu\"", c->n_calls ? "," : "", c->n + c->n_calls);
    c->n_calls++;
    eg_string_put(&c->calls, id);
    eg_string_put(&c->calls, ",\"type\":\"function\",\"function\":{\"name\":");
    eg_json_write_string(e->name, strlen(e->name), &c->calls);
    eg_string_put(&c->calls, ",\"arguments\":");
    eg_string_put(&c->calls, e->arguments);
    eg_string_put(&c->calls, "}}");
}

/* Puts what was said into the history. */
static eg_status remember(eg_chat *c, eg_error *err)
{
    eg_string json = {0};
    size_t length = 0, thought_length = 0;
    eg_string_put(&json, "{\"role\":\"assistant\",\"content\":");
    const char *text = eg_reply_get(c->reply, EG_EVENT_TEXT, &length);
    if (text) eg_json_write_string(text, length, &json);
    const char *thought = text ? eg_reply_get(c->reply, EG_EVENT_THOUGHT, &thought_length) : NULL;
    if (thought && thought_length) {
        eg_string_put(&json, ",\"reasoning_content\":");
        eg_json_write_string(thought, thought_length, &json);
    }
    if (c->n_calls) {
        eg_string_put(&json, ",\"tool_calls\":[");
        eg_string_add(&json, eg_string_text(&c->calls), c->calls.length);
        eg_string_put(&json, "]");
    }
    eg_string_put(&json, "}");
    eg_status status = !text || !thought || json.failed || c->calls.failed ? no_memory(err) : EG_OK;
    const bool said = length || thought_length || c->n_calls;
    if (!status && said) status = eg_chat_append(c, json.bytes, json.length, err);
    eg_string_free(&json);
    if (status) return status;
    /* The model's own words end before the token that ended them. */
    size_t end = eg_session_position(c->session);
    int32_t id;
    while (end > c->start && by_model(c->stop) && eg_session_get_tokens(c->session, end - 1, &id, 1) &&
           eg_tokenizer_stop_of(c->model->tokenizer, id) != EG_STOP_NONE)
        end--;
    c->waits = said && c->n_calls;
    c->asked = c->n - 1;
    c->own_end = end;
    eg_chat_learn(c, c->start);
    return EG_OK;
}

/* Keeps the calls among the events that nobody has taken. */
static eg_status keep_calls(eg_chat *c, eg_error *err)
{
    eg_status status;
    eg_reply_event event = {.struct_size = sizeof event};
    while (!(status = eg_reply_next(c->reply, &event, err)) && event.kind)
        if (event.kind == EG_EVENT_CALL) keep_call(c, &event);
    return status;
}

eg_status eg_chat_end_answer(eg_chat *c, eg_error *err)
{
    if (!c->reply) return EG_OK;
    eg_status status = keep_calls(c, err);
    if (!c->finished) {
        if (!status && !c->stop) status = end(c, EG_CHAT_STOP_CANCELLED, err);
        if (!status) status = keep_calls(c, err);
        if (!status) status = eg_reply_finish(c->reply, by_model(c->stop), err);
        if (!status) status = keep_calls(c, err);
    }
    if (!status) status = remember(c, err);
    eg_reply_close(c->reply);
    c->reply = NULL;
    return status;
}

/* Tells the end. */
static eg_status tell_done(eg_chat *c, eg_reply_event *event, eg_error *err)
{
    size_t length = 0;
    const char *text = eg_reply_get(c->reply, EG_EVENT_TEXT, &length);
    eg_string_clear(&c->prompt);
    if (!text || !eg_string_add(&c->prompt, text, length)) return no_memory(err);
    *event = (eg_reply_event){
        .struct_size = sizeof *event, .kind = EG_EVENT_DONE, .name = "", .arguments = "{}", .problem = ""};
    event->stop = c->stop;
    event->text = eg_string_text(&c->prompt);
    event->text_length = length;
    return eg_chat_end_answer(c, err);
}

eg_status eg_chat_next(eg_chat *c, const eg_sampling *sampling, eg_reply_event *out, eg_error *err)
{
    if (!c) return eg_fail(err, EG_ERROR_ARGUMENT, "chat is NULL.");
    eg_status status = eg_struct_check(out, "eg_reply_event", err);
    if (status) return status;
    if (!c->reply) return eg_fail(err, EG_ERROR_STATE, "no answer was begun: call eg_chat_begin.");
    eg_reply_event event = {.struct_size = sizeof event};
    while (!(status = eg_reply_next(c->reply, &event, err)) && !event.kind) {
        if (c->finished) {
            status = tell_done(c, &event, err);
            break;
        }
        c->finished = c->stop != EG_CHAT_STOP_NONE;
        status = c->finished ? eg_reply_finish(c->reply, by_model(c->stop), err) : draw(c, sampling, err);
        if (status) break;
    }
    if (!status && event.kind == EG_EVENT_CALL) keep_call(c, &event);
    if (!status) eg_struct_write(out, &event, sizeof event);
    return status;
}
