/* A conversation: what its files share. */
#ifndef EG_API_CHAT_H
#define EG_API_CHAT_H

#include <stdatomic.h>

#include "../edge_gemma_chat.h"
#include "../text/prompt.h"

/* A picture or recording of a message; its number is its place in the list. */
typedef struct eg_chat_media {
    bool is_image;
    eg_image image;            /* with its own pixels */
    float *samples;            /* [n] */
    size_t n;
} eg_chat_media;

/* A token of a prompt, or media that become soft tokens. */
typedef struct eg_chat_unit {
    int32_t id;                /* -1: media */
    int32_t media;
} eg_chat_unit;

/* Where media are in the session: [start, end), markers included. */
typedef struct eg_chat_span {
    size_t start, end;
    int32_t media;
} eg_chat_span;

/* The tokens that the model itself chose for a text, which has more than one spelling. */
typedef struct eg_chat_spelling {
    char *text;
    size_t length;
    int32_t *ids;              /* [n] */
    size_t n;
} eg_chat_spelling;

enum { EG_CHAT_SPELLINGS = 64 };

struct eg_chat {
    atomic_int references;     /* callers who will close it, and voices */
    eg_model *model;
    eg_session *session;
    eg_chat_overflow overflow;
    uint32_t max_tokens;
    bool thinking, empty_thought;
    char *system;              /* NULL: none */
    eg_json *tools;            /* of tool_memory; NULL: none */
    eg_chunks tool_memory;
    char **stops;              /* [n_stops] */
    size_t n_stops;
    char **messages;           /* [n] JSON texts */
    size_t n, capacity;
    size_t first;              /* messages before it are not shown */
    eg_chat_media *media;
    size_t n_media, media_capacity;
    eg_chat_span *spans;
    size_t n_spans, span_capacity;
    eg_chat_spelling spellings[EG_CHAT_SPELLINGS];
    size_t next_spelling;
    eg_string prompt;          /* of eg_chat_prompt */
    /* The answer. */
    eg_reply *reply;           /* NULL: none was begun */
    size_t start;              /* position at which it begins */
    uint32_t generated;
    eg_chat_stop stop;
    bool finished;             /* the reply was ended: its last events are left */
    eg_string held;            /* the end of the text, which may be the beginning of a stop text */
    eg_string calls;           /* of the answer, elements of a JSON list */
    size_t n_calls;
    /* After an answer that waits for results of tools: the message with the calls is messages[asked], and the model's own words end
     * at own_end. */
    bool waits;
    size_t asked, own_end;
};

/* Appends a message, which is checked and is copied. */
eg_status eg_chat_append(eg_chat *chat, const char *json, size_t length, eg_error *err);
/* Makes the session hold the prompt, with what follows own words if results of tools are all that is new. */
eg_status eg_chat_feed(eg_chat *chat, eg_error *err);
/* Ends an answer that is not done, as cancelled. */
eg_status eg_chat_end_answer(eg_chat *chat, eg_error *err);
/* Remembers which tokens the model chose from `start` on. */
void eg_chat_learn(eg_chat *chat, size_t start);
/* Whether the token is a control token, or one of Gemma's markers. */
bool eg_chat_is_marker(const eg_chat *chat, int32_t id);
/* Forgets media behind the end of the session. */
void eg_chat_drop_spans(eg_chat *chat);
/* Parses the shown messages into chunks: (*out)[*n] of the chunks. */
eg_status eg_chat_read_messages(const eg_chat *chat, size_t first, eg_chunks *chunks, const eg_json ***out, size_t *n,
                                eg_error *err);

#endif
