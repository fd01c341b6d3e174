/* Parsing of replies into thoughts, text and tool calls, all at once or while the reply is drawn.
 *
 * Owns the states between the markers of a model turn; calls.h owns the notation inside a call. What precedes the lone end of a
 * thought is a thought: text that was shown cannot be taken back, so the events may have shown it as text, but eg_reply_get tells
 * it apart. A call that was broken off is told as broken, and never as a call.
 */
#include "../base/grow.h"
#include "../base/structs.h"
#include "../edge_gemma_chat.h"
#include "calls.h"
#include "characters.h"
#include "markers.h"

#include <stdlib.h>

enum state { TEXT, THOUGHT, CALL, CALL_THOUGHT, RESPONSE, ROLE, ENDED };

#define BIT(kind) (1u << EG_MARKER_##kind)
enum {
    IN_CALL = BIT(OPEN_CALL) | BIT(CLOSE_CALL) | BIT(OPEN_RESPONSE) | BIT(END) | BIT(TURN) | BIT(OPEN_THOUGHT) |
              BIT(CLOSE_THOUGHT),
    IN_RESPONSE = BIT(CLOSE_RESPONSE) | BIT(END),
    ANY = ~0
};

/* A stretch of one kind, untrimmed, between two markers. */
typedef struct passage {
    bool thought;
    bool opened;               /* it follows the beginning of a channel without a name */
    eg_string text;
} passage;

/* Text of one kind, trimmed while it comes: white space is held back until other text follows it. */
typedef struct trimmed {
    bool any;                  /* something was shown */
    bool fresh; /* at the beginning of a passage: leading white space is dropped, and an empty line separates it */
    eg_string waiting; /* white space that is held back */
} trimmed;

typedef struct event {
    eg_event_kind kind;
    size_t text, length; /* in event_texts */
    eg_tool_call call;
} event;

#define LIST(type) \
    struct { \
        type *items; \
        size_t n, capacity; \
    }

/* What follows a call inside a thought: if the thought ends after it, the model only thought of calling. */
typedef struct undecided {
    bool open;
    bool goes_on; /* words follow the last call, so the thought has not ended with it */
    LIST(eg_tool_call) calls;
    eg_string words, text; /* everything, for the thought; and without the calls */
} undecided;

struct eg_reply {
    eg_markers markers;
    eg_string buffer; /* what was not read begins at `at` */
    size_t at;
    uint8_t held[4]; /* the beginning of a character */
    uint32_t n_held;
    size_t searched; /* offset in the unread: the end of a call is not before it */
    enum state state;
    eg_string call_start; /* what of a call precedes the thought inside it */
    const char *call_problem; /* NULL: none */
    bool begun; /* anything but white space and the head of the turn has come */
    trimmed text, thinking;
    LIST(passage) passages;
    size_t closed; /* 1 + the passage that the lone end of a thought follows; 0: there is none */
    undecided undecided;
    bool called; /* there was a call, whole or broken */
    LIST(event) events;
    size_t taken; /* of the events */
    eg_string event_texts;
    eg_string result; /* of eg_reply_get */
    eg_chunks memory; /* of the calls */
    bool finished, failed;
};

/* ---- growing ----------------------------------------------------------------------------------------------------- */

#define PUSH(reply, list, ...) \
    do { \
        void *more_ = eg_grow((list).items, &(list).capacity, (list).n + 1, sizeof *(list).items); \
        if (more_) { \
            (list).items = more_; \
            (list).items[(list).n++] = __VA_ARGS__; \
        } else { \
            (reply)->failed = true; \
        } \
    } while (0)

static void put(eg_reply *r, eg_string *out, const char *text, size_t n)
{
    if (!eg_string_add(out, text, n)) r->failed = true;
}

static const char *unread(const eg_reply *r) { return eg_string_text(&r->buffer) + r->at; }
static size_t left(const eg_reply *r) { return r->buffer.length - r->at; }

static const eg_marker *find(const eg_reply *r, size_t from, unsigned kinds, size_t *at)
{
    return eg_markers_find(&r->markers, unread(r), left(r), from, kinds, at);
}

/* Takes n bytes at offset `at` out of the unread. */
static void cut(eg_reply *r, size_t at, size_t n)
{
    char *place = r->buffer.bytes + r->at + at;
    memmove(place, place + n, left(r) - at - n + 1);
    r->buffer.length -= n;
}

/* ---- words ------------------------------------------------------------------------------------------------------- */

static size_t blanks(const char *text, size_t length)
{
    size_t n = 0;
    while (n < length && (text[n] == ' ' || text[n] == '\t')) n++;
    return n;
}

static size_t word_length(const char *text, size_t length)
{
    size_t at = 0;
    while (at < length) {
        const uint32_t n = eg_utf8_character((const uint8_t *)text + at, length - at);
        if (!n || !eg_is_word_code(eg_utf8_code((const uint8_t *)text + at, n))) break;
        at += n;
    }
    return at;
}

/* Whether `text` begins with `word`, as a whole word after white space: 1, 0, or -1 while that is not decided. *end: behind it. */
static int begins_with(const char *text, size_t length, const char *word, bool last, size_t *end)
{
    const size_t space = eg_leading_space(text, length), n = strlen(word);
    text += space;
    length -= space;
    *end = space + n;
    if (length > n && memcmp(text, word, n) == 0) return word_length(text + n, length - n) == 0;
    if (length > n || (length && memcmp(text, word, length) != 0)) return 0;
    return last ? length > 0 : -1; /* at the end, a part of the word is a head that was cut off */
}

/* Bytes of a thought's head without its marker at the beginning of the text: "thought" alone in a line. */
static size_t bare_head(const char *text, size_t length)
{
    static const char word[] = "thought";
    size_t at = eg_leading_space(text, length);
    if (length - at < sizeof word - 1 || memcmp(text + at, word, sizeof word - 1) != 0) return 0;
    at += sizeof word - 1;
    at += blanks(text + at, length - at);
    return at == length ? at : text[at] == '\n' ? at + 1 : 0;
}

/* Appends the text of a call without markers. */
static void put_words(eg_reply *r, eg_string *out, const char *text, size_t length)
{
    size_t from = 0, at;
    const eg_marker *marker;
    while ((marker = eg_markers_find(&r->markers, text, length, from, ANY, &at))) {
        put(r, out, text + from, at - from);
        if (marker->kind == EG_MARKER_QUOTE) put(r, out, "\"", 1);
        from = at + marker->length;
    }
    put(r, out, text + from, length - from);
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

/* Adds text; what can be shown goes to `out`. */
static void trim(eg_reply *r, trimmed *t, const char *text, size_t length, eg_string *out)
{
    if (t->fresh) {
        const size_t space = eg_leading_space(text, length);
        if (space == length) return;
        text += space;
        length -= space;
        t->fresh = false;
        eg_string_clear(&t->waiting);
        if (t->any) put(r, &t->waiting, "\n\n", 2);
    }
    const size_t shown = eg_without_trailing_space(text, length);
    if (shown) {
        put(r, out, eg_string_text(&t->waiting), t->waiting.length);
        put(r, out, text, shown);
        eg_string_clear(&t->waiting);
        t->any = true;
    }
    put(r, &t->waiting, text + shown, length - shown);
}

/* Begins a passage. */
static void begin(eg_reply *r, enum state state)
{
    r->state = state;
    if (state == THOUGHT) r->thinking.fresh = true;
    PUSH(r, r->passages, (passage){.thought = state == THOUGHT});
}

/* Something follows the lone end of a thought: what precedes it was the thought. */
static void settle(eg_reply *r)
{
    if (r->closed) r->passages.items[r->closed - 1].thought = true;
    r->closed = 0;
}

static void emit(eg_reply *r, const char *text, size_t length)
{
    if (!length) return;
    const bool words = eg_leading_space(text, length) < length;
    if (r->undecided.open) {
        put(r, &r->undecided.words, text, length);
        put(r, &r->undecided.text, text, length);
        r->undecided.goes_on = r->undecided.goes_on || words;
        return;
    }
    r->begun = r->begun || words;
    if (!r->passages.n) begin(r, TEXT);
    if (r->failed) return;
    put(r, &r->passages.items[r->passages.n - 1].text, text, length);
    const size_t before = r->event_texts.length;
    const bool thought = r->state == THOUGHT;
    trim(r, thought ? &r->thinking : &r->text, text, length, &r->event_texts);
    const size_t shown = r->event_texts.length - before;
    if (!shown) return;
    if (!thought) settle(r);
    PUSH(r, r->events, (event){thought ? EG_EVENT_THOUGHT : EG_EVENT_TEXT, before, shown, {0}});
    put(r, &r->event_texts, "", 1);
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

/* Copies a call into the reply's own memory. */
static eg_tool_call kept(eg_reply *r, const eg_tool_call *call, const char *problem)
{
    if (call->problem_length) problem = call->problem;
    eg_tool_call copy = {eg_chunks_copy(&r->memory, call->name, call->name_length),
                         call->name_length,
                         eg_chunks_copy(&r->memory, call->arguments, call->arguments_length),
                         call->arguments_length,
                         eg_chunks_copy(&r->memory, problem, strlen(problem)),
                         strlen(problem)};
    if (!copy.name || !copy.arguments || !copy.problem) r->failed = true;
    return copy;
}

static void tell_call(eg_reply *r, eg_tool_call call, const char *written, size_t length)
{
    settle(r);
    r->called = true;
    const bool broken = call.problem_length > 0;
    const size_t at = r->event_texts.length;
    PUSH(r, r->events, (event){broken ? EG_EVENT_BROKEN_CALL : EG_EVENT_CALL, at, broken ? length : 0, call});
    if (broken) put(r, &r->event_texts, written, length);
    put(r, &r->event_texts, "", 1);
}

/* Decides about calls inside a thought: they were made, or the model only thought of them. Empties the undecided.
 * problem: that of these calls when the reply was cut off; "" else. */
static void decide_as(eg_reply *r, bool made, const char *problem)
{
    undecided u = r->undecided;
    r->undecided = (undecided){0};
    const bool cut_off = *problem;
    if (made && !cut_off) {
        begin(r, TEXT);
    } else {
        r->state = THOUGHT;
        emit(r, eg_string_text(&u.words), u.words.length);
    }
    for (size_t i = 0; made && i < u.calls.n && !r->failed; i++)
        tell_call(r, kept(r, &u.calls.items[i], problem), eg_string_text(&u.words), u.words.length);
    if (r->state == TEXT) emit(r, eg_string_text(&u.text), u.text.length);
    free(u.calls.items);
    eg_string_free(&u.words);
    eg_string_free(&u.text);
}

/* The same, by whether the thought went on behind them. */
static void decide(eg_reply *r)
{
    if (r->undecided.open) decide_as(r, !r->undecided.goes_on, "");
}

/* Adds a thought from inside a call. */
static void think(eg_reply *r, const char *thought, size_t length)
{
    const enum state state = r->state;
    const undecided u = r->undecided;
    r->undecided = (undecided){0};
    eg_string words = {0};
    put_words(r, &words, thought, length);
    const size_t head = bare_head(eg_string_text(&words), words.length);
    begin(r, THOUGHT);
    emit(r, eg_string_text(&words) + head, words.length - head);
    eg_string_free(&words);
    r->state = state;
    r->undecided = u;
}

/* Marks the last call as broken, or adds one that is. */
static void break_last(eg_reply *r, eg_tool_calls *calls, const char *problem)
{
    if (!calls->n) /* there is room for one */
        calls->items[calls->n++] = (eg_tool_call){"", 0, "{}", 2, "", 0};
    eg_tool_call *last = &calls->items[calls->n - 1];
    if (!problem && last->problem_length) problem = last->problem;
    if (!problem) problem = "it was broken off before its end";
    last->problem = eg_chunks_copy(&r->memory, problem, strlen(problem));
    last->problem_length = last->problem ? strlen(problem) : 0;
    if (!last->problem) r->failed = true;
    calls->left_over = "";
    calls->left_over_length = 0;
}

/* Takes the text of a call. `closed`: its end marker followed; otherwise another marker, or nothing. */
static void take_calls(eg_reply *r, const char *body, size_t length, bool closed, const char *problem)
{
    eg_tool_calls calls;
    if (!eg_tool_calls_read(body, length, &calls)) {
        r->failed = true;
        return;
    }
    if (problem || !(calls.whole || closed)) break_last(r, &calls, problem);
    if (!r->undecided.open) begin(r, TEXT);
    r->state = TEXT;
    eg_string written = {0}, rest = {0};
    put_words(r, &written, body, length);
    put_words(r, &rest, calls.left_over, calls.left_over_length);
    if (r->undecided.open) {
        for (size_t i = 0; i < calls.n && !r->failed; i++) PUSH(r, r->undecided.calls, kept(r, &calls.items[i], ""));
        put(r, &r->undecided.words, eg_string_text(&written), written.length);
        put(r, &r->undecided.text, eg_string_text(&rest), rest.length);
        r->undecided.goes_on = eg_leading_space(calls.left_over, calls.left_over_length) < calls.left_over_length;
    } else {
        for (size_t i = 0; i < calls.n && !r->failed; i++)
            tell_call(r, kept(r, &calls.items[i], ""), eg_string_text(&written), written.length);
        emit(r, eg_string_text(&rest), rest.length); /* text that is no call is shown rather than lost */
    }
    eg_string_free(&written);
    eg_string_free(&rest);
    eg_tool_calls_free(&calls);
}

static void end_call(eg_reply *r, const char *body, size_t length, bool closed)
{
    const char *problem = r->call_problem;
    r->call_problem = NULL;
    if (r->state != CALL_THOUGHT) {
        take_calls(r, body, length, closed, problem);
        return;
    }
    think(r, body, length);
    eg_string start = r->call_start;
    r->call_start = (eg_string){0};
    take_calls(r, eg_string_text(&start), start.length, false, "a thought inside it does not end");
    eg_string_free(&start);
}

static void begin_call(eg_reply *r)
{
    if (r->state == THOUGHT) r->undecided.open = true;
    r->state = CALL;
    r->searched = 0;
    r->begun = true;
}

/* Whether the text of a call is complete, so that nothing of it can follow. */
static bool is_whole(eg_reply *r, const char *body, size_t length)
{
    eg_tool_calls calls;
    if (!eg_tool_calls_read(body, length, &calls)) {
        r->failed = true;
        return false;
    }
    const bool whole = calls.whole && calls.n && !calls.left_over_length && !calls.items[calls.n - 1].problem_length;
    eg_tool_calls_free(&calls);
    return whole;
}

/* The end of a call, or of a thought in it, is not in the unread yet. The search never goes back to before a marker that was taken
 * out: what stands around it is no marker. */
static bool search_later(eg_reply *r)
{
    const size_t from = left(r) > r->markers.longest ? left(r) - r->markers.longest : 0;
    if (from > r->searched) r->searched = from;
    return false;
}

static bool step_call(eg_reply *r)
{
    size_t at;
    const eg_marker *marker = find(r, r->searched, IN_CALL, &at);
    if (!marker) return search_later(r);
    const bool opens = marker->kind == EG_MARKER_OPEN_THOUGHT, closes = marker->kind == EG_MARKER_CLOSE_THOUGHT;
    if ((opens || closes) && !is_whole(r, unread(r), at)) {
        /* A thought inside the call is taken out; where only its end is there, nobody knows where it began. */
        if (opens) {
            eg_string_clear(&r->call_start);
            put(r, &r->call_start, unread(r), at);
            r->at += at + marker->length;
            r->searched = 0;
            r->state = CALL_THOUGHT;
        } else {
            r->call_problem = "a thought ends inside it";
            cut(r, at, marker->length);
            r->searched = at;
        }
        return true;
    }
    const bool closed = marker->kind == EG_MARKER_CLOSE_CALL;
    const char *body = unread(r);
    r->at += at + (closed ? marker->length : 0);
    end_call(r, body, at, closed);
    return true;
}

static bool step_call_thought(eg_reply *r)
{
    size_t at;
    const eg_marker *marker = find(r, r->searched, IN_CALL, &at);
    if (!marker) return search_later(r);
    if (marker->kind == EG_MARKER_OPEN_THOUGHT) {
        cut(r, at, marker->length);
        r->searched = at;
        return true;
    }
    const char *thought = unread(r);
    r->at += at + (marker->kind == EG_MARKER_CLOSE_THOUGHT || marker->kind == EG_MARKER_CLOSE_CALL ? marker->length : 0);
    if (marker->kind != EG_MARKER_CLOSE_THOUGHT) {
        end_call(r, thought, at, false);
        return true;
    }
    think(r, thought, at);
    /* The call goes on: its beginning stands before what was not read. */
    eg_string whole = r->call_start;
    r->call_start = (eg_string){0};
    r->searched = whole.length;
    put(r, &whole, unread(r), left(r));
    eg_string_free(&r->buffer);
    r->buffer = whole;
    r->at = 0;
    r->state = CALL;
    return true;
}

/* ---- markers in text --------------------------------------------------------------------------------------------- */

/* Looks for the head of a thought without its marker, where the reply begins. False while it may be one. */
static bool step_head(eg_reply *r, bool last)
{
    static const char word[] = "thought";
    enum { N = sizeof word - 1 };
    const size_t space = eg_leading_space(unread(r), left(r)), n = left(r) - space;
    const char *start = unread(r) + space;
    if (!last && n <= N && memcmp(start, word, n) == 0) return false;
    size_t head = 0; /* bytes of it */
    if (n >= N && memcmp(start, word, N) == 0) {
        const size_t end = N + blanks(start + N, n - N);
        if (end < n && (start[end] == '\n' || start[end] == '<')) head = space + end;
        else if (end == n && !last) return false;
    }
    const bool begun = n && *start != '<';
    if (head && r->state == THOUGHT) {
        r->at += head;
    } else if (head) {
        size_t at;
        const eg_marker *following = find(r, 0, ANY, &at);
        if (!following && !last) return false;
        if (following && following->kind == EG_MARKER_CLOSE_THOUGHT) {
            r->at += head;
            begin(r, THOUGHT);
        }
    }
    r->begun = begun;
    return true;
}

/* Takes the marker that begins a channel, of n bytes, and its name. False while the name is not complete. */
static bool open_channel(eg_reply *r, size_t n, bool last)
{
    /* The names of channels that hold the answer itself. Every other channel holds thoughts. */
    static const char *const answers[] = {"final", "answer", "response", "message", "text"};
    const char *rest = unread(r) + n;
    const size_t length = left(r) - n;
    size_t end;
    const int thought = begins_with(rest, length, "thought", last, &end);
    if (thought < 0) return false;
    const size_t name = eg_leading_space(rest, length), word = word_length(rest + name, length - name);
    const size_t after = name + word + blanks(rest + name + word, length - name - word);
    if (!thought && !last && after == length) return false;
    const bool head = word && after < length && rest[after] == '\n';
    bool answer = false;
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++)
        answer = answer || (strlen(answers[i]) == word && memcmp(answers[i], rest + name, word) == 0);
    decide(r);
    r->at += n;
    r->begun = true;
    if (thought) {
        r->at += end < length ? end : length;
        begin(r, THOUGHT);
    } else if (head) {
        r->at += after + 1;
        begin(r, answer ? TEXT : THOUGHT);
    } else if (r->state == TEXT) {
        begin(r, TEXT);
        if (!r->failed) r->passages.items[r->passages.n - 1].opened = true;
    }
    return true;
}

/* Takes the marker that ends a thought. */
static void close_channel(eg_reply *r)
{
    if (r->undecided.open) {
        decide_as(r, false, "");
    } else if (r->state == TEXT && r->passages.n) {
        passage *p = &r->passages.items[r->passages.n - 1];
        const size_t head = bare_head(eg_string_text(&p->text), p->text.length);
        if (!p->thought && eg_leading_space(eg_string_text(&p->text), p->text.length) < p->text.length) {
            if (p->opened || head) {
                p->thought = true;
                eg_string_drop(&p->text, head);
            } else {
                r->closed = r->passages.n;
            }
        }
    }
    begin(r, TEXT);
}

/* Takes the marker at the beginning of the unread. False while it is not decided what follows it. */
static bool take_marker(eg_reply *r, const eg_marker *marker, bool last)
{
    size_t end;
    switch (marker->kind) {
    case EG_MARKER_OPEN_THOUGHT: return open_channel(r, marker->length, last);
    case EG_MARKER_OPEN_RESPONSE: {
        const int named = begins_with(unread(r) + marker->length, left(r) - marker->length, "response", last, &end);
        if (named < 0) return false;
        if (r->undecided.open) decide_as(r, true, ""); /* the model waits for the results */
        r->at += marker->length;
        if (named) { /* otherwise only the marker is dropped */
            r->at += end < left(r) ? end : left(r);
            r->state = RESPONSE;
        }
        return true;
    }
    case EG_MARKER_CLOSE_THOUGHT: close_channel(r); break;
    case EG_MARKER_OPEN_CALL: begin_call(r); break;
    case EG_MARKER_END:
        decide(r);
        r->state = ENDED;
        break;
    case EG_MARKER_TURN: {
        /* At the very beginning it is the head of the model's turn; later the model has begun somebody else's turn. */
        const bool begun = r->text.any || r->thinking.any || r->called || r->undecided.open;
        decide(r);
        r->state = begun ? ENDED : ROLE;
        break;
    }
    case EG_MARKER_QUOTE: emit(r, "\"", 1); break;
    default: break;
    }
    r->at += marker->length;
    return true;
}

static bool step_text(eg_reply *r, bool last)
{
    if (!r->begun && !step_head(r, last)) return false;
    size_t at;
    const eg_marker *marker = find(r, 0, ANY, &at);
    if (!marker) {
        size_t held = eg_markers_possible(&r->markers, unread(r), left(r));
        /* "a <" and "a <t" end a text; "a <|cha" is a marker that was cut off. */
        if (last && held && (held <= 2 || !memchr(r->buffer.bytes + r->buffer.length - held, '|', held))) held = 0;
        const size_t shown = left(r) - held;
        emit(r, unread(r), shown);
        r->at += last ? left(r) : shown;
        return false;
    }
    emit(r, unread(r), at);
    r->at += at;
    return take_marker(r, marker, last);
}

/* Consumes a part of the unread; whether another step may be possible. `last`: no text will follow. */
static bool step(eg_reply *r, bool last)
{
    size_t at;
    const eg_marker *marker;
    const char *newline;
    switch (r->state) {
    case TEXT:
    case THOUGHT: return step_text(r, last);
    case CALL: return step_call(r);
    case CALL_THOUGHT: return step_call_thought(r);
    case RESPONSE:
        marker = find(r, 0, IN_RESPONSE, &at);
        if (!marker) {
            r->at += last ? left(r) : left(r) > r->markers.longest ? left(r) - r->markers.longest : 0;
            return false;
        }
        r->at += at + (marker->kind == EG_MARKER_END ? 0 : marker->length);
        begin(r, TEXT);
        return true;
    case ROLE:
        newline = memchr(unread(r), '\n', left(r));
        if (!newline) return false;
        r->at += (size_t)(newline - unread(r)) + 1;
        r->state = TEXT;
        return true;
    default: r->at = r->buffer.length; return false;
    }
}

/* ---- the public functions ---------------------------------------------------------------------------------------- */

static eg_status out_of_memory(eg_error *err) { return eg_fail(err, EG_ERROR_MEMORY, "no memory for the reply."); }

static bool valid_texts(const char *const *texts, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!texts || !texts[i]) return false;
    return true;
}

eg_status eg_reply_open(const eg_reply_params *params, eg_reply **out, eg_error *err)
{
    eg_reply_params p = {.struct_size = sizeof p};
    if (!out) return eg_fail(err, EG_ERROR_ARGUMENT, "out is NULL.");
    eg_status status = params ? eg_struct_read(params, &p, sizeof p, "eg_reply_params", err) : EG_OK;
    if (status) return status;
    if (!valid_texts(p.markers, p.n_markers) || !valid_texts(p.ends, p.n_ends))
        return eg_fail(err, EG_ERROR_ARGUMENT, "eg_reply_params: a text of markers or ends is NULL.");
    eg_reply *r = calloc(1, sizeof *r);
    if (!r) return out_of_memory(err);
    r->text.fresh = r->thinking.fresh = true;
    if (!eg_markers_open(&r->markers, p.markers, p.n_markers, p.ends, p.n_ends)) r->failed = true;
    else if (p.in_thought) begin(r, THOUGHT);
    if (r->failed) {
        eg_reply_close(r);
        return out_of_memory(err);
    }
    *out = r;
    return EG_OK;
}

void eg_reply_close(eg_reply *r)
{
    if (!r) return;
    for (size_t i = 0; i < r->passages.n; i++) eg_string_free(&r->passages.items[i].text);
    free(r->passages.items);
    free(r->events.items);
    free(r->undecided.calls.items);
    eg_string *const strings[] = {&r->buffer,          &r->call_start,     &r->text.waiting, &r->thinking.waiting,
                                  &r->undecided.words, &r->undecided.text, &r->event_texts,  &r->result};
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) eg_string_free(strings[i]);
    eg_chunks_free(&r->memory);
    eg_markers_free(&r->markers);
    free(r);
}

static void forget_events(eg_reply *r)
{
    r->events.n = r->taken = 0;
    eg_string_clear(&r->event_texts);
    eg_string_drop(&r->buffer, r->at);
    r->at = 0;
}

/* Appends text as whole characters; a beginning of one is held back. */
static void put_characters(eg_reply *r, const char *text, size_t length)
{
    for (size_t at = 0; at < length;) {
        if (!r->n_held) { /* a run of whole characters */
            size_t end = at;
            uint32_t n;
            while (end < length && (n = eg_utf8_character((const uint8_t *)text + end, length - end))) end += n;
            put(r, &r->buffer, text + at, end - at);
            at = end;
            if (at == length) return;
        }
        const uint8_t byte = (uint8_t)text[at];
        const uint32_t whole = eg_utf8_length(r->n_held ? r->held[0] : byte);
        if (r->n_held ? !eg_utf8_continues(r->held[0], r->n_held, byte) : !whole) {
            put(r, &r->buffer, EG_UTF8_REPLACEMENT, 3);
            if (!r->n_held) at++;
            r->n_held = 0;
            continue;
        }
        r->held[r->n_held++] = byte;
        at++;
        if (r->n_held < whole) continue;
        put(r, &r->buffer, (const char *)r->held, r->n_held);
        r->n_held = 0;
    }
}

eg_status eg_reply_feed(eg_reply *r, const char *text, size_t length, eg_error *err)
{
    if (!r || (!text && length)) return eg_fail(err, EG_ERROR_ARGUMENT, "reply or text is NULL.");
    if (length == SIZE_MAX) length = strlen(text);
    forget_events(r);
    if (!r->finished && r->state != ENDED && !r->failed) {
        put_characters(r, text, length);
        while (!r->failed && step(r, false)) continue;
    }
    return r->failed ? out_of_memory(err) : EG_OK;
}

eg_status eg_reply_finish(eg_reply *r, bool complete, eg_error *err)
{
    if (!r) return eg_fail(err, EG_ERROR_ARGUMENT, "reply is NULL.");
    forget_events(r);
    if (!r->finished && !r->failed) {
        r->finished = true;
        if (r->n_held && r->state != ENDED) put(r, &r->buffer, EG_UTF8_REPLACEMENT, 3);
        while (!r->failed && step(r, true)) continue;
        if (!r->failed && (r->state == CALL || r->state == CALL_THOUGHT)) end_call(r, unread(r), left(r), false);
        if (!r->failed && r->undecided.open)
            decide_as(r, !r->undecided.goes_on, complete ? "" : "the answer was cut off before the thought around it ended");
        if (!complete) settle(r);
    }
    return r->failed ? out_of_memory(err) : EG_OK;
}

eg_status eg_reply_next(eg_reply *r, eg_reply_event *out, eg_error *err)
{
    eg_reply_event told = {.kind = EG_EVENT_NONE, .text = "", .name = "", .arguments = "{}", .problem = ""};
    if (!r) return eg_fail(err, EG_ERROR_ARGUMENT, "reply is NULL.");
    eg_status status = eg_struct_check(out, "eg_reply_event", err);
    if (status) return status;
    if (r->failed) return out_of_memory(err);
    if (r->taken < r->events.n) {
        const event *e = &r->events.items[r->taken++];
        told.kind = e->kind;
        told.text = eg_string_text(&r->event_texts) + e->text;
        told.text_length = e->length;
        if (e->call.name) {
            told.name = e->call.name;
            told.arguments = e->call.arguments;
            told.problem = e->call.problem;
        }
    }
    eg_struct_write(out, &told, sizeof told);
    return EG_OK;
}

bool eg_reply_ended(const eg_reply *r) { return r && r->state == ENDED; }

const char *eg_reply_get(eg_reply *r, eg_event_kind kind, size_t *length)
{
    if (!r || r->failed) return NULL;
    trimmed whole = {.fresh = true};
    eg_string_clear(&r->result);
    for (size_t i = 0; i < r->passages.n; i++) {
        const passage *p = &r->passages.items[i];
        if (p->thought != (kind == EG_EVENT_THOUGHT)) continue;
        if (p->thought) whole.fresh = true;
        trim(r, &whole, eg_string_text(&p->text), p->text.length, &r->result);
    }
    eg_string_free(&whole.waiting);
    if (length) *length = r->result.length;
    return r->failed ? NULL : eg_string_text(&r->result);
}
