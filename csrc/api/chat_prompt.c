/* Conversations: from the history to what the session holds. */
#include "chat.h"

#include "../base/checked.h"
#include "../base/grow.h"
#include "../text/markers.h"
#include "../text/utf8.h"
#include "objects.h"

static eg_status no_memory(eg_error *err) { return eg_fail(err, EG_ERROR_MEMORY, "no memory for the prompt."); }

/* The units of a prompt. */
typedef struct units {
    eg_chat_unit *items;
    size_t n, capacity;
    bool failed;
} units;

/* Room for n more, at least 1. */
static eg_chat_unit *room(units *u, size_t n)
{
    size_t needed;
    eg_chat_unit *grown = eg_add_size(u->n, n, &needed) ? eg_grow(u->items, &u->capacity, needed, sizeof *grown) : NULL;
    if (!grown) {
        u->failed = true;
        return NULL;
    }
    u->items = grown;
    return u->items + u->n;
}

static void add_ids(units *u, const int32_t *ids, size_t n)
{
    eg_chat_unit *to = n ? room(u, n) : NULL;
    for (size_t i = 0; to && i < n; i++) to[i] = (eg_chat_unit){ids[i], 0};
    if (to) u->n += n;
}

/* ---- spellings --------------------------------------------------------------------------------------------------- */

bool eg_chat_is_marker(const eg_chat *c, int32_t id)
{
    char text[64];
    size_t shown, length;
    const eg_tokenizer *t = c->model->tokenizer;
    if (id < 0 || eg_tokenizer_decode(t, &id, 1, 0, text, sizeof text, &shown, NULL)) return true;
    if (!shown && !eg_tokenizer_decode(t, &id, 1, EG_TEXT_SPECIAL, text, sizeof text, &length, NULL) && length) return true;
    return shown < sizeof text && eg_is_gemma_marker(text, shown);
}

static void learn_run(eg_chat *c, const int32_t *ids, size_t n)
{
    size_t length;
    const eg_tokenizer *t = c->model->tokenizer;
    if (!n || eg_tokenizer_decode(t, ids, n, 0, NULL, 0, &length, NULL) || !length) return;
    eg_chat_spelling *s = &c->spellings[c->next_spelling];
    free(s->text);
    free(s->ids);
    *s = (eg_chat_spelling){malloc(length), length, malloc(n * sizeof *ids), n};
    if (!s->text || !s->ids || eg_tokenizer_decode(t, ids, n, 0, s->text, length, &length, NULL)) {
        free(s->text);
        free(s->ids);
        *s = (eg_chat_spelling){0};
        return;
    }
    memcpy(s->ids, ids, n * sizeof *ids);
    c->next_spelling = (c->next_spelling + 1) % EG_CHAT_SPELLINGS;
}

void eg_chat_learn(eg_chat *c, size_t start)
{
    const size_t n = eg_session_position(c->session) - start;
    int32_t *ids = n ? malloc(n * sizeof *ids) : NULL;
    if (!ids || eg_session_get_tokens(c->session, start, ids, n) != n) {
        free(ids);
        return;
    }
    size_t from = 0;
    for (size_t i = 0; i <= n; i++) {
        if (i < n && !eg_chat_is_marker(c, ids[i])) continue;
        learn_run(c, ids + from, i - from);
        from = i + 1;
    }
    free(ids);
}

/* ---- encoding ---------------------------------------------------------------------------------------------------- */

static eg_status add_text(const eg_chat *c, units *u, const char *text, size_t length, uint32_t flags, eg_error *err)
{
    if (!length) return EG_OK;
    for (size_t i = 0; !flags && i < EG_CHAT_SPELLINGS; i++) {
        const eg_chat_spelling *s = &c->spellings[i];
        if (s->length != length || memcmp(s->text, text, length) != 0) continue;
        add_ids(u, s->ids, s->n);
        return EG_OK;
    }
    int32_t *ids = length < SIZE_MAX / sizeof *ids ? malloc(length * sizeof *ids) : NULL;
    size_t n = 0;
    if (!ids) return no_memory(err);
    eg_status status = eg_tokenizer_encode(c->model->tokenizer, text, length, flags, ids, length, &n, err);
    if (!status) add_ids(u, ids, n);
    free(ids);
    return status;
}

/* Content between two control tokens. The head of a turn is encoded by itself, so that the words after it are found among the
 * spellings. This changes no token: no token has both a newline and another character. */
static eg_status add_content(const eg_chat *c, units *u, const char *text, size_t length, eg_error *err)
{
    size_t head = 0;
    while (head < length && text[head] >= 'a' && text[head] <= 'z') head++;
    if (head && head < length && text[head] == '\n')
        while (head < length && text[head] == '\n') head++;
    else head = 0;
    eg_status status = add_text(c, u, text, head, 0, err);
    return status ? status : add_text(c, u, text + head, length - head, 0, err);
}

static eg_status encode(const eg_chat *c, const eg_prompt *p, units *u, eg_error *err)
{
    const char *text = eg_string_text(&p->text);
    size_t at = 0;
    eg_status status = EG_OK;
    for (size_t i = 0; i <= p->n && !status; i++) {
        const size_t end = i < p->n ? p->marks[i].at : p->text.length;
        status = add_content(c, u, text + at, end - at, err);
        if (status || i == p->n) break;
        const eg_prompt_mark *m = &p->marks[i];
        at = m->at + m->length;
        if (m->media < 0) {
            status = add_text(c, u, text + m->at, m->length, EG_TEXT_SPECIAL, err);
        } else if ((uint64_t)m->media >= c->n_media) {
            status = eg_fail(err, EG_ERROR_STATE, "a message names a picture or sound that is not there.");
        } else {
            eg_chat_unit *to = room(u, 1);
            if (to) *to = (eg_chat_unit){-1, (int32_t)m->media};
            if (to) u->n++;
        }
    }
    return status ? status : u->failed ? no_memory(err) : EG_OK;
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

eg_status eg_chat_read_messages(const eg_chat *c, size_t first, eg_chunks *chunks, const eg_json ***out, size_t *n,
                                eg_error *err)
{
    *n = c->n - first;
    const eg_json **found = eg_chunks_take(chunks, (*n + 1) * sizeof *found);
    if (!found) return no_memory(err);
    for (size_t i = 0; i < *n; i++) {
        found[i] = eg_json_read(c->messages[first + i], strlen(c->messages[first + i]), chunks, NULL, NULL);
        if (!found[i]) return no_memory(err);
    }
    *out = found;
    return EG_OK;
}

static bool is_role(const eg_json *message, const char *role) { return eg_json_is(eg_json_at(message, "role"), role); }

/* Writes the prompt of the messages from chat->first on. */
static eg_status write_prompt(const eg_chat *c, eg_prompt *p, size_t first, eg_error *err)
{
    eg_chunks chunks = {0};
    const eg_json **messages;
    size_t n;
    eg_status status = eg_chat_read_messages(c, first, &chunks, &messages, &n, err);
    const eg_prompt_options options = {c->thinking, c->empty_thought, c->system, c->tools};
    if (!status) eg_prompt_write(p, messages, n, &options);
    if (!status && p->failed) status = no_memory(err);
    eg_chunks_free(&chunks);
    return status;
}

eg_status eg_chat_prompt(eg_chat *c, const char **text, size_t *length, eg_error *err)
{
    if (!c || !text) return eg_fail(err, EG_ERROR_ARGUMENT, "chat or text is NULL.");
    eg_prompt p = {0};
    eg_status status = write_prompt(c, &p, c->first, err);
    if (!status) {
        eg_string_free(&c->prompt);
        c->prompt = p.text;
        p.text = (eg_string){0};
        *text = eg_string_text(&c->prompt);
        if (length) *length = c->prompt.length;
    }
    eg_prompt_free(&p);
    return status;
}

/* Tokens that units take. */
static size_t tokens_of(const eg_chat *c, const units *u)
{
    size_t n = 0;
    for (size_t i = 0; i < u->n; i++) {
        size_t soft = 0;
        const eg_chat_media *m = u->items[i].id < 0 ? &c->media[u->items[i].media] : NULL;
        if (m && m->is_image) eg_image_tokens(c->model, m->image.width, m->image.height, m->image.max_tokens, &soft, NULL);
        else if (m) soft = eg_audio_token_count(c->model, m->n);
        n += m ? soft + 2 : 1;
    }
    return n;
}

/* The next message of a user behind `first`, where the shown history may begin; `first` if there is none. */
static size_t next_turn(const eg_chat *c, size_t first)
{
    for (size_t i = first + 1; i < c->n; i++) {
        eg_chunks chunks = {0};
        const bool user = is_role(eg_json_read(c->messages[i], strlen(c->messages[i]), &chunks, NULL, NULL), "user");
        eg_chunks_free(&chunks);
        if (user) return i;
    }
    return first;
}

/* The units of the whole prompt, shortened as the overflow policy says. */
static eg_status whole_prompt(eg_chat *c, units *u, eg_error *err)
{
    const size_t context = eg_session_context(c->session);
    size_t most = context - 1;
    for (size_t first = c->first;;) {
        eg_prompt p = {0};
        u->n = 0;
        eg_status status = write_prompt(c, &p, first, err);
        if (!status) status = encode(c, &p, u, err);
        eg_prompt_free(&p);
        if (status) return status;
        const size_t n = tokens_of(c, u), next = n > most ? next_turn(c, first) : first;
        if (n <= most || (next == first && n < context)) {
            c->first = first;
            return EG_OK;
        }
        if (c->overflow == EG_OVERFLOW_FAIL || next == first)
            return eg_fail(err, EG_ERROR_CONTEXT, "the conversation has %zu tokens, and the context has room for %zu.", n,
                           context);
        first = next;
        most = context / 4 * 3;   /* once something is forgotten, there is room for some turns */
    }
}

/* ---- feeding ----------------------------------------------------------------------------------------------------- */

void eg_chat_drop_spans(eg_chat *c)
{
    const size_t position = eg_session_position(c->session);
    while (c->n_spans && c->spans[c->n_spans - 1].end > position) c->n_spans--;
}

/* How many of the units the session holds, and how many tokens these take. */
static size_t common(const eg_chat *c, const units *u, const int32_t *held, size_t n_held, size_t *tokens)
{
    size_t at = 0, span = 0, i = 0;
    for (; i < u->n; i++) {
        if (u->items[i].id >= 0) {
            if (at >= n_held || held[at] != u->items[i].id) break;
            at++;
            continue;
        }
        while (span < c->n_spans && c->spans[span].start < at) span++;
        if (span == c->n_spans || c->spans[span].start != at || c->spans[span].media != u->items[i].media) break;
        at = c->spans[span].end;
    }
    *tokens = at;
    return i;
}

static eg_status feed_media(eg_chat *c, int32_t number, eg_error *err)
{
    const eg_chat_media *m = &c->media[number];
    eg_chat_span *grown = eg_grow(c->spans, &c->span_capacity, c->n_spans + 1, sizeof *grown);
    if (!grown) return no_memory(err);
    c->spans = grown;
    const size_t start = eg_session_position(c->session);
    eg_status status = m->is_image ? eg_session_feed_image(c->session, &m->image, err)
                                   : eg_session_feed_audio(c->session, m->samples, m->n, NULL, err);
    if (!status) c->spans[c->n_spans++] = (eg_chat_span){start, eg_session_position(c->session), number};
    return status;
}

static eg_status feed(eg_chat *c, const eg_chat_unit *items, size_t n, eg_error *err)
{
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    eg_status status = ids ? EG_OK : no_memory(err);
    for (size_t at = 0; at < n && !status;) {
        size_t run = 0;
        while (at + run < n && items[at + run].id >= 0) {
            ids[run] = items[at + run].id;
            run++;
        }
        if (run) status = eg_session_feed_tokens(c->session, ids, run, err);
        at += run;
        if (!status && at < n) status = feed_media(c, items[at++].media, err);
    }
    free(ids);
    return status;
}

/* Makes the session hold exactly these units. */
static eg_status sync(eg_chat *c, const units *u, eg_error *err)
{
    const size_t n = eg_session_position(c->session);
    int32_t *held = malloc((n + 1) * sizeof *held);
    if (!held) return no_memory(err);
    eg_session_get_tokens(c->session, 0, held, n);
    size_t at, same = common(c, u, held, n, &at);
    free(held);
    if (same == u->n && at < n && same && u->items[same - 1].id >= 0) {
        same--;                /* the last token is fed again, for the logits that follow it */
        at--;
    }
    eg_status status = EG_OK;
    if (at < n && (status = eg_session_rewind_to(c->session, at, err)) == EG_ERROR_STATE) {
        status = eg_session_rewind_to(c->session, 0, err);
        same = 0;
    }
    eg_chat_drop_spans(c);
    return status ? status : feed(c, u->items + same, u->n - same, err);
}

/* The control token `end` if the model's own words leave `begin` open; else NULL. */
static const char *left_open(const eg_chat *c, const int32_t *ids, size_t n, const char *begin, const char *end)
{
    const int32_t opening = eg_tokenizer_find(c->model->tokenizer, begin, strlen(begin));
    const int32_t closing = eg_tokenizer_find(c->model->tokenizer, end, strlen(end));
    while (n && ids[n - 1] != opening && ids[n - 1] != closing) n--;
    return n && ids[n - 1] == opening && opening >= 0 ? end : NULL;
}

/* After the model's own words, in which it has called tools, their results are fed: the words stay as they are. */
static eg_status feed_results(eg_chat *c, units *u, eg_error *err)
{
    const size_t n_own = c->own_end - c->start;
    int32_t *own = malloc((n_own + 1) * sizeof *own);
    if (!own) return no_memory(err);
    eg_session_get_tokens(c->session, c->start, own, n_own);
    eg_chunks chunks = {0};
    eg_prompt p = {0};
    const eg_json **messages;
    size_t n;
    const char *ends[] = {left_open(c, own, n_own, "<|channel>", "<channel|>"),
                          left_open(c, own, n_own, "<|tool_call>", "<tool_call|>")};
    for (size_t i = 0; i < 2; i++)
        if (ends[i]) eg_prompt_mark_token(&p, ends[i]);
    eg_status status = eg_chat_read_messages(c, c->asked + 1, &chunks, &messages, &n, err);
    if (!status) eg_prompt_write_results(&p, messages, n);
    if (!status && p.failed) status = no_memory(err);
    if (!status) status = encode(c, &p, u, err);
    if (!status && eg_session_position(c->session) > c->own_end) status = eg_session_rewind_to(c->session, c->own_end, err);
    if (!status) status = feed(c, u->items, u->n, err);
    eg_prompt_free(&p);
    eg_chunks_free(&chunks);
    free(own);
    return status;
}

/* Whether results of tools are all that came after the message with the calls. */
static bool only_results(const eg_chat *c)
{
    bool only = c->waits && c->n > c->asked + 1;
    for (size_t i = c->asked + 1; only && i < c->n; i++) {
        eg_chunks chunks = {0};
        only = is_role(eg_json_read(c->messages[i], strlen(c->messages[i]), &chunks, NULL, NULL), "tool");
        eg_chunks_free(&chunks);
    }
    return only;
}

eg_status eg_chat_feed(eg_chat *c, eg_error *err)
{
    units u = {0};
    eg_status status = EG_ERROR_STATE;
    if (only_results(c)) {
        status = feed_results(c, &u, err);
        /* What does not fit behind the words may fit a prompt that is written anew; a cut that cannot be made again is one, too. */
        if (status == EG_OK || status == EG_CANCELLED) c->waits = false;
    }
    if (status == EG_ERROR_STATE || status == EG_ERROR_CONTEXT) {
        u.n = 0;
        status = whole_prompt(c, &u, err);
        if (!status) status = sync(c, &u, err);
    }
    c->waits = false;
    free(u.items);
    return status;
}
