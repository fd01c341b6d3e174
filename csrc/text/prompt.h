/* Conversations as text in Gemma 4's format, by the built-in template: what chat_template.jinja of the package writes.
 *
 * A text remembers which of its control tokens the template has written. Everything else is content: it is encoded without control
 * tokens, so text from outside cannot become one.
 */
#ifndef EG_TEXT_PROMPT_H
#define EG_TEXT_PROMPT_H

#include "json.h"

typedef struct eg_prompt_mark {
    size_t at, length;         /* in the text: a control token, or the place of media */
    int64_t media;             /* its number in the part ("media"); -1: a control token */
} eg_prompt_mark;

typedef struct eg_prompt {
    eg_string text;
    eg_prompt_mark *marks;     /* [n], in the order of the text */
    size_t n, capacity;
    bool failed;               /* out of memory */
} eg_prompt;

typedef struct eg_prompt_options {
    bool thinking;             /* asks for a thought */
    bool empty_thought;        /* without `thinking`: begins the answer with an empty one */
    const char *system;        /* instructions; NULL: none */
    const eg_json *tools;      /* a list of declarations that eg_tools_check has accepted; NULL: none */
} eg_prompt_options;

void eg_prompt_free(eg_prompt *prompt);

/* Writes messages[n], objects as eg_message_check accepts them, up to the place where the model goes on. A last turn of the model
 * stays open. */
void eg_prompt_write(eg_prompt *prompt, const eg_json *const *messages, size_t n, const eg_prompt_options *options);
/* Writes the results of tools, each a message of the role "tool", which follow the calls in the model's turn. */
void eg_prompt_write_results(eg_prompt *prompt, const eg_json *const *messages, size_t n);
/* A control token. */
void eg_prompt_mark_token(eg_prompt *prompt, const char *marker);

/* Why a message cannot be written, as the end of a sentence; NULL if it can be. */
const char *eg_message_check(const eg_json *message);
/* The same of a list of tools. */
const char *eg_tools_check(const eg_json *tools);
/* Writes the declaration of a tool, with its markers. */
void eg_prompt_write_tool(eg_prompt *prompt, const eg_json *tool);
/* Writes a value, and the members of an object without its brackets, in the order of their names without regard to case. */
void eg_prompt_write_value(eg_prompt *prompt, const eg_json *value);
void eg_prompt_write_members(eg_prompt *prompt, const eg_json *object);

void eg_prompt_put(eg_prompt *prompt, const char *text, size_t length);
static inline void eg_prompt_put_text(eg_prompt *prompt, const char *text) { eg_prompt_put(prompt, text, strlen(text)); }
/* A string between its delimiters. */
void eg_prompt_quote(eg_prompt *prompt, const char *text, size_t length);
/* The members of an object in the order of their names, [*n] of the heap; NULL without memory or members. */
const eg_json **eg_sorted_members(const eg_json *object, size_t *n);

#endif
