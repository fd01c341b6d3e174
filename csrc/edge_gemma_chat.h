/* edge_gemma for applications: replies as text, thoughts and tool calls; conversations; the voice turn.
 *
 * Stands on edge_gemma.h, whose rules about objects, structs, errors and text hold here too.
 */
#ifndef EDGE_GEMMA_CHAT_H
#define EDGE_GEMMA_CHAT_H

#include "edge_gemma.h"

#ifdef __cplusplus
extern "C" {
#endif
EG_NONNULL_BEGIN

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

typedef enum EG_ENUM eg_event_kind {
    EG_EVENT_NONE EG_NAMED(none) = 0,
    EG_EVENT_TEXT EG_NAMED(text) = 1,         /* a piece of the answer */
    EG_EVENT_THOUGHT EG_NAMED(thought) = 2,      /* a piece of a thought */
    EG_EVENT_CALL EG_NAMED(call) = 3,         /* a tool is called */
    EG_EVENT_BROKEN_CALL EG_NAMED(brokenCall) = 4, /* a call that was cut off or cannot be read; it must not be run */
    EG_EVENT_DONE EG_NAMED(done) = 5         /* of a conversation: the answer has ended */
} eg_event_kind;

/* Why an answer has ended. */
typedef enum EG_ENUM eg_chat_stop {
    EG_CHAT_STOP_NONE EG_NAMED(none) = 0,
    EG_CHAT_STOP_EOS EG_NAMED(eos) = 1, /* the model: <eos>, */
    EG_CHAT_STOP_TURN EG_NAMED(turn) = 2, /* <turn|>, */
    EG_CHAT_STOP_TOOL_RESPONSE EG_NAMED(toolResponse) = 3, /* <|tool_response>: it waits for results of tools */
    EG_CHAT_STOP_TEXT EG_NAMED(text) = 4, /* a text of eg_chat_params.stops */
    EG_CHAT_STOP_LENGTH EG_NAMED(length) = 5, /* max_tokens, or the context is full */
    EG_CHAT_STOP_CANCELLED EG_NAMED(cancelled) = 6 /* eg_chat_cancel */
} eg_chat_stop;

typedef struct eg_reply_params {
    uint32_t struct_size;
    bool in_thought;           /* the prompt ended inside a thought, so the reply begins in it */
    const char *const *EG_NULLABLE markers;   /* [n_markers] further control tokens, which are dropped; zero-terminated */
    size_t n_markers;
    const char *const *EG_NULLABLE ends;   /* [n_ends] those that end the model's turn */
    size_t n_ends;
} eg_reply_params;

/* Texts are zero-terminated, and stay valid until the next eg_reply_feed, _finish or _close. All texts of one kind together are
 * the answer, or the thoughts, but for a thought that the model never opened: it comes as text, and eg_reply_get tells it apart. */
typedef struct eg_reply_event {
    uint32_t struct_size;
    eg_event_kind kind;
    const char *EG_NULLABLE text; /* of TEXT and THOUGHT: what was added; of BROKEN_CALL: the call as it is written */
    size_t text_length;
    const char *EG_NULLABLE name; /* of the tool, which need not exist, of both kinds of calls. "": it has none */
    const char *EG_NULLABLE arguments; /* a JSON object, as the model wrote it, not yet checked */
    const char *EG_NULLABLE problem; /* of BROKEN_CALL: why it is broken */
    eg_chat_stop stop; /* of DONE; `text` is the whole answer then */
} eg_reply_event;

/* Begins a reply; params NULL: all defaults. Keeps no pointer of the caller. Any thread; a reply is used by one thread at a time. */
EG_API eg_status eg_reply_open(const eg_reply_params *EG_NULLABLE params, eg_reply **out, eg_error *EG_NULLABLE err);

/* Frees a reply. NULL does nothing. */
EG_API void eg_reply_close(eg_reply *EG_NULLABLE reply);

/* Parses the next piece, text[length], and forgets events that were not taken. Text after the end is ignored. Bytes that are not
 * UTF-8 become U+FFFD. After EG_ERROR_MEMORY the reply is incomplete, and further calls fail as well. */
EG_API eg_status eg_reply_feed(eg_reply *reply, const char *EG_NULLABLE text, size_t length, eg_error *EG_NULLABLE err);

/* Ends the reply, which gives the last events. complete: the model ended it by itself. Otherwise it was cut off: what precedes the
 * lone end of a thought is then a thought even though nothing follows it. A second call does nothing. */
EG_API eg_status eg_reply_finish(eg_reply *reply, bool complete, eg_error *EG_NULLABLE err);

/* Takes the next event: EG_EVENT_NONE when there is none. */
EG_API eg_status eg_reply_next(eg_reply *reply, eg_reply_event *out, eg_error *EG_NULLABLE err);

/* Whether a marker has ended the model's turn. False for NULL. */
EG_API bool eg_reply_ended(const eg_reply *reply);

/* The whole answer (EG_EVENT_TEXT) or all thoughts (EG_EVENT_THOUGHT) so far, without markers, trimmed, thoughts joined by empty
 * lines: zero-terminated, valid until the next call of this function or eg_reply_close. NULL without memory. *length may be NULL. */
EG_API const char *EG_NULLABLE eg_reply_get(eg_reply *reply, eg_event_kind kind, size_t *EG_NULLABLE length);

/* ---- conversations ----------------------------------------------------------------------------------------------- */

/* A conversation has instructions, tools, a history of messages, and a session of its own. Before each answer the whole prompt is
 * written and compared with what the session holds; only the difference is evaluated. That covers the next turn, an edited
 * history, an interrupted answer and the results of tools.
 *
 *     EG_STRUCT(eg_chat_params, cp);  cp.tools = "[{\"name\": \"get_time\", \"description\": \"The time\"}]";
 *     eg_chat_open(model, &cp, &chat, &err);
 *     eg_chat_add_text(chat, "user", "What time is it?", &err);
 *     eg_chat_begin(chat, &err);
 *     EG_STRUCT(eg_reply_event, event);
 *     while (!eg_chat_next(chat, NULL, &event, &err) && event.kind != EG_EVENT_DONE)
 *         if (event.kind == EG_EVENT_CALL) keep(event.name, event.arguments);
 *     eg_chat_add_result(chat, "get_time", "\"12:30\"", &err);
 *     eg_chat_begin(chat, &err);   and so on
 *
 * The prompt is that of the built-in template. Contents are text, whatever they look like: they never become control tokens. One
 * thread at a time uses a conversation; eg_chat_cancel alone may be called from another. */
typedef struct eg_chat eg_chat;

/* What to do when the prompt does not fit the context. */
typedef enum EG_ENUM eg_chat_overflow {
    EG_OVERFLOW_FAIL EG_NAMED(fail) = 0, /* eg_chat_begin returns EG_ERROR_CONTEXT; the application shortens the history */
    EG_OVERFLOW_FORGET EG_NAMED(forget) = 1 /* the model does not see the oldest turns, until a quarter is free */
} eg_chat_overflow;

typedef struct eg_chat_params {
    uint32_t struct_size;
    uint32_t context; /* as in eg_session_params */
    eg_kv_type kv;
    eg_chat_overflow overflow;
    const char *EG_NULLABLE system; /* instructions; NULL: none */
    const char *EG_NULLABLE tools; /* JSON: a list of {"name", "description", "parameters"} or {"function": those} */
    const char *const *EG_NULLABLE stops; /* [n_stops] texts that end an answer and are left out of it; zero-terminated */
    size_t n_stops;
    uint32_t max_tokens; /* of an answer; 0: as many as there is room for */
    bool thinking; /* let the model think before it answers */
    bool empty_thought; /* without `thinking`: begin answers with an empty thought, as the larger models expect */
} eg_chat_params;

/* A part of a user's message: exactly one of text, image and samples. */
typedef struct eg_chat_part {
    uint32_t struct_size; /* the same in all parts of an array, which lie so many bytes apart */
    const char *EG_NULLABLE text; /* zero-terminated */
    const eg_image *EG_NULLABLE image; /* copied, with its budget */
    const float *EG_NULLABLE samples; /* [n_samples] of 16 kHz mono; copied */
    size_t n_samples;
} eg_chat_part;

/* Opens a conversation and its session. Nothing of the parameters is kept. EG_ERROR_FORMAT: tools are no JSON, or use a part of JSON
 * Schema that a declaration cannot show: resolve references and alternatives before. */
EG_API eg_status eg_chat_open(eg_model *model, const eg_chat_params *EG_NULLABLE params, eg_chat **out,
                              eg_error *EG_NULLABLE err);

/* Takes a reference away; the last one frees the conversation and its session. No call of this reference's owner may be running.
 * NULL does nothing. Any thread. */
EG_API void eg_chat_close(eg_chat *EG_NULLABLE chat);

/* One more reference, for a thread whose calls must outlast a close: one more eg_chat_close. NULL does nothing. Any thread. */
EG_API void eg_chat_retain(eg_chat *EG_NULLABLE chat);

/* Its session, to seed it, to set its priority, and for counters; not to be fed or closed. NULL for NULL. */
EG_API eg_session *eg_chat_session(const eg_chat *chat);

/* Appends a message of text to the history. role: "user", or "assistant" for what was said before. An answer that is not done ends
 * as cancelled, as with all functions that change the history. */
EG_API eg_status eg_chat_add_text(eg_chat *chat, const char *role, const char *text, eg_error *EG_NULLABLE err);

/* Appends a user's message of parts[n], in this order. EG_ERROR_UNSUPPORTED: the model does not see, or does not hear. */
EG_API eg_status eg_chat_add_parts(eg_chat *chat, const eg_chat_part *parts, size_t n, eg_error *EG_NULLABLE err);

/* Appends the result of a tool that the last answer has called: JSON of any type; name: of the tool. One for each call, in their
 * order; for a broken call an object such as {"error": "..."}. EG_ERROR_FORMAT: it is no JSON. */
EG_API eg_status eg_chat_add_result(eg_chat *chat, const char *name, const char *json, eg_error *EG_NULLABLE err);

/* Appends a message as JSON text: {"role": "user", "content": "..."}; of the assistant also "reasoning_content" and "tool_calls", of
 * a tool {"role": "tool", "name", "content"}. It is how a history is restored. EG_ERROR_FORMAT: it is no such message. */
EG_API eg_status eg_chat_add_json(eg_chat *chat, const char *json, eg_error *EG_NULLABLE err);

/* Number of messages in the history; 0 for NULL. */
EG_API size_t eg_chat_count(const eg_chat *chat);

/* Message `index` as JSON text, valid until the history changes; NULL beyond the last. Pictures and sounds are numbers there. */
EG_API const char *EG_NULLABLE eg_chat_get(const eg_chat *chat, size_t index);

/* Shortens the history to its first n messages: to take back a turn, or, with 0, to begin anew. */
EG_API eg_status eg_chat_truncate(eg_chat *chat, size_t n, eg_error *EG_NULLABLE err);

/* Replaces the instructions; NULL: none. The next answer reads the whole conversation again. */
EG_API eg_status eg_chat_set_system(eg_chat *chat, const char *EG_NULLABLE system, eg_error *EG_NULLABLE err);

/* The prompt of the next answer as text, control tokens written out: zero-terminated, valid until the next call. *length may be
 * NULL. */
EG_API eg_status eg_chat_prompt(eg_chat *chat, const char **text, size_t *EG_NULLABLE length, eg_error *EG_NULLABLE err);

/* Begins the answer to the last message, which is the user's or a tool's: makes the session hold the prompt. EG_ERROR_STATE: there
 * is no message to answer. EG_ERROR_CONTEXT: see eg_chat_overflow. EG_CANCELLED: call it again to go on. */
EG_API eg_status eg_chat_begin(eg_chat *chat, eg_error *EG_NULLABLE err);

/* The next event of the answer, for which as many tokens are drawn as it takes. sampling: of each token, as in eg_session_next, with
 * its mask or check_token for answers of a given form; NULL: the defaults. Texts of the event are valid until the next call. With
 * EG_EVENT_DONE what was said is in the history, its calls included. EG_ERROR_STATE: no answer was begun. */
EG_API eg_status eg_chat_next(eg_chat *chat, const eg_sampling *EG_NULLABLE sampling, eg_reply_event *out,
                              eg_error *EG_NULLABLE err);

/* Ends the answer: the call that runs, or the next one. eg_chat_next then tells EG_EVENT_DONE with EG_CHAT_STOP_CANCELLED, and
 * eg_chat_begin returns EG_CANCELLED. From any thread, also a signal handler. */
EG_API void eg_chat_cancel(eg_chat *EG_NULLABLE chat);

/* ---- the voice turn ---------------------------------------------------------------------------------------------- */

/* What somebody says becomes words, and the words become an answer of a conversation:
 *
 *     eg_voice_params vp = {.struct_size = sizeof vp, .chat = chat};
 *     eg_voice_open(model, &vp, &voice, &err);
 *     while (running) {
 *         if (there is sound) eg_voice_push(voice, samples, n, &err);
 *         else if (!eg_voice_step(voice, NULL, &event, &err)) act(&event);
 *     }
 *
 * Sound is endpointed, and encoded while it is spoken. At a pause a fork transcribes it, and the answer is begun; both are kept when
 * the pause was the end of the turn, and dropped without a trace when the speaker goes on. Events of the answer wait until that is
 * decided, so no tool runs too early. All work is done in these calls: a step takes about as long as a token, so an application pushes
 * sound first, and steps when none is waiting. Somebody who speaks during an answer interrupts it.
 *
 * One thread at a time uses a voice and its conversation; eg_voice_cancel alone may be called from another. */
typedef struct eg_voice eg_voice;

typedef enum EG_ENUM eg_voice_kind {
    EG_VOICE_IDLE EG_NAMED(idle) = 0, /* nothing to do until more sound comes */
    EG_VOICE_BUSY EG_NAMED(busy) = 1, /* a piece of work was done: step again */
    EG_VOICE_SPEECH EG_NAMED(speech) = 2, /* somebody begins to speak */
    EG_VOICE_PARTIAL EG_NAMED(partial) = 3, /* text: the words so far; each replaces those before */
    EG_VOICE_PAUSE EG_NAMED(pause) = 4, /* the speaker is silent, perhaps for good */
    EG_VOICE_RESUME EG_NAMED(resume) = 5, /* and goes on */
    EG_VOICE_WORDS EG_NAMED(words) = 6, /* the turn is over. text: all of its words; "": there is no answer */
    EG_VOICE_ANSWER EG_NAMED(answer) = 7 /* an event of the answer, in `answer`; with EG_EVENT_DONE the turn is done */
} eg_voice_kind;

typedef struct eg_voice_params {
    uint32_t struct_size;
    uint32_t context; /* of a session that hears one utterance; 0: 1536 */
    eg_chat *EG_NULLABLE chat; /* that answers; the voice keeps it alive. NULL: words alone */
    const char *EG_NULLABLE request; /* what the model is asked about the sound, before it; NULL: to transcribe it */
    float silence; /* seconds that end a turn; 0: 0.7 */
    float pause; /* seconds that make a pause; 0: 0.25 */
    float min_speech; /* the shortest speech, in seconds; 0: 0.1 */
    float max_seconds; /* the longest turn; 0: 28 */
    float partial; /* seconds of sound between two partial transcripts; 0: 0.5; negative: none */
    /* The probability of speech in a block of 512 samples; called in eg_voice_push. NULL: a detector that compares the level with
     * that of the noise. */
    float (*EG_NULLABLE detect)(void *EG_NULLABLE detect_context, const float *block);
    void *EG_NULLABLE detect_context;
} eg_voice_params;

/* Texts are zero-terminated and valid until the next call. */
typedef struct eg_voice_event {
    uint32_t struct_size;
    eg_voice_kind kind;
    double time; /* seconds of sound that had come: of SPEECH the begin of speech, of PAUSE its end */
    const char *EG_NULLABLE text; /* of PARTIAL and WORDS */
    size_t text_length;
    const eg_reply_event *EG_NULLABLE answer; /* of ANSWER; else NULL */
} eg_voice_event;

/* Opens a voice, which reads its request. EG_ERROR_UNSUPPORTED: the model has no audio encoder. */
EG_API eg_status eg_voice_open(eg_model *model, const eg_voice_params *EG_NULLABLE params, eg_voice **out,
                               eg_error *EG_NULLABLE err);

/* Takes a reference away; the last one frees the voice, and gives its conversation up. No call of this reference's owner may be
 * running. NULL does nothing. Any thread. */
EG_API void eg_voice_close(eg_voice *EG_NULLABLE voice);

/* One more reference, for a thread whose calls must outlast a close: one more eg_voice_close. NULL does nothing. Any thread. */
EG_API void eg_voice_retain(eg_voice *EG_NULLABLE voice);

/* Takes samples[n], 16 kHz mono in [-1, 1]: encodes them if somebody speaks. */
EG_API eg_status eg_voice_push(eg_voice *voice, const float *EG_NULLABLE samples, size_t n, eg_error *EG_NULLABLE err);

/* The sound has ended: so has an open turn. More sound may come, as after opening. */
EG_API eg_status eg_voice_finish(eg_voice *voice, eg_error *EG_NULLABLE err);

/* Does the next piece of work, and tells the next event. sampling: of answers, as in eg_chat_next. After an error the turn is dropped.
 * EG_ERROR_CONTEXT: the turn, or the conversation, does not fit. */
EG_API eg_status eg_voice_step(eg_voice *voice, const eg_sampling *EG_NULLABLE sampling, eg_voice_event *out,
                               eg_error *EG_NULLABLE err);

/* The conversation has results of tools (eg_chat_add_result): steps go on with its answer. EG_ERROR_STATE: there is no conversation,
 * or an answer is in progress. */
EG_API eg_status eg_voice_answer(eg_voice *voice, eg_error *EG_NULLABLE err);

/* Drops the turn and ends the answer: the step that runs, or the next one. If an answer was being told, its end comes with
 * EG_CHAT_STOP_CANCELLED. From any thread, also a signal handler. */
EG_API void eg_voice_cancel(eg_voice *EG_NULLABLE voice);

EG_NONNULL_END
#ifdef __cplusplus
}
#endif
#endif
