/* edge_gemma for applications: replies of the model as text, thoughts and tool calls.
 *
 * Stands on edge_gemma.h, whose rules about objects, structs, errors and text hold here too.
 */
#ifndef EDGE_GEMMA_CHAT_H
#define EDGE_GEMMA_CHAT_H

#include "edge_gemma.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- replies ----------------------------------------------------------------------------------------------------- */

/* What the model writes between the head of its turn and the end of it, with control tokens written out, is
 *
 *     [<|channel>thought\n THOUGHT <channel|>] TEXT {<|tool_call>call:NAME{...}<tool_call|>} [<|tool_response>] [<turn|>]
 *
 * An eg_reply parses it while it is drawn. Draw with EG_TEXT_SPECIAL in eg_sampling.text_flags, and feed each token's text:
 *
 *     EG_STRUCT(eg_reply_event, event);
 *     while (!eg_session_next(session, &sampling, &token, &err) && !token.stop) {
 *         eg_reply_feed(reply, token.text, token.text_length, &err);
 *         while (!eg_reply_next(reply, &event, &err) && event.kind) show(&event);
 *     }
 *     eg_reply_finish(reply, true, &err);
 *     while (!eg_reply_next(reply, &event, &err) && event.kind) show(&event);
 *
 * Models make mistakes: they close a thought that was never opened, think inside a call, leave a call open, or write it as JSON
 * or Python. These are understood. Markers never become text, and what may become one is held back. Pieces may be cut anywhere:
 * the result does not depend on it. */
typedef struct eg_reply eg_reply;

typedef enum eg_event_kind {
    EG_EVENT_NONE = 0,
    EG_EVENT_TEXT = 1,         /* a piece of the answer */
    EG_EVENT_THOUGHT = 2,      /* a piece of a thought */
    EG_EVENT_CALL = 3,         /* a tool is called */
    EG_EVENT_BROKEN_CALL = 4   /* a call that was cut off or cannot be read; it must not be run */
} eg_event_kind;

typedef struct eg_reply_params {
    uint32_t struct_size;
    bool in_thought;           /* the prompt ended inside a thought, so the reply begins in it */
    const char *const *markers;   /* [n_markers] texts of further control tokens, which are dropped; zero-terminated */
    size_t n_markers;
    const char *const *ends;   /* [n_ends] those that end the model's turn */
    size_t n_ends;
} eg_reply_params;

/* Texts are zero-terminated, and stay valid until the next eg_reply_feed, _finish or _close. All texts of one kind together are
 * the answer, or the thoughts, but for a thought that the model never opened: it comes as text, and eg_reply_get tells it apart. */
typedef struct eg_reply_event {
    uint32_t struct_size;
    eg_event_kind kind;
    const char *text; /* of TEXT and THOUGHT: what was added; of BROKEN_CALL: the call as it is written */
    size_t text_length;
    const char *name; /* of the tool, in both kinds of calls; there need not be such a tool. "" if a broken call has none */
    const char *arguments; /* a JSON object, as the model wrote it, not yet checked */
    const char *problem; /* of BROKEN_CALL: why it is broken */
} eg_reply_event;

/* Begins a reply; params NULL: all defaults. Keeps no pointer of the caller. Any thread; a reply is used by one thread at a time. */
EG_API eg_status eg_reply_open(const eg_reply_params *params, eg_reply **out, eg_error *err);

/* Frees a reply. NULL does nothing. */
EG_API void eg_reply_close(eg_reply *reply);

/* Parses the next piece, text[length], and forgets events that were not taken. Text after the end is ignored. Bytes that are not
 * UTF-8 become U+FFFD. After EG_ERROR_MEMORY the reply is incomplete, and further calls fail as well. */
EG_API eg_status eg_reply_feed(eg_reply *reply, const char *text, size_t length, eg_error *err);

/* Ends the reply, which gives the last events. complete: the model ended it by itself. Otherwise it was cut off: what precedes the
 * lone end of a thought is then a thought even though nothing follows it. A second call does nothing. */
EG_API eg_status eg_reply_finish(eg_reply *reply, bool complete, eg_error *err);

/* Takes the next event: EG_EVENT_NONE when there is none. */
EG_API eg_status eg_reply_next(eg_reply *reply, eg_reply_event *out, eg_error *err);

/* Whether a marker has ended the model's turn. False for NULL. */
EG_API bool eg_reply_ended(const eg_reply *reply);

/* The whole answer (EG_EVENT_TEXT) or all thoughts (EG_EVENT_THOUGHT) so far, without markers, trimmed, thoughts joined by empty
 * lines: zero-terminated, valid until the next call of this function or eg_reply_close. NULL without memory. *length may be NULL. */
EG_API const char *eg_reply_get(eg_reply *reply, eg_event_kind kind, size_t *length);

#ifdef __cplusplus
}
#endif
#endif
