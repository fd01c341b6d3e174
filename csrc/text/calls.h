/* Tool calls in Gemma 4's notation: read tolerantly, from what models write, and written exactly.
 *
 *     call     = call:NAME{KEY:value,...}          between <|tool_call> and <tool_call|>
 *     response = response:NAME{KEY:value,...}      between <|tool_response> and <tool_response|>
 *     value    = <|"|>text<|"|> | number | true | false | null | {KEY:value,...} | [value,...]
 *
 * A string in the notation has no escapes: it ends at the next <|"|>. Models leave out the opening or closing delimiter, use the
 * quotes and constants of JSON or Python, or write whole calls as JSON or as Python; the reader understands all of these.
 */
#ifndef EG_TEXT_CALLS_H
#define EG_TEXT_CALLS_H

#include <stdbool.h>
#include <stddef.h>

#define EG_QUOTE "<|\"|>"      /* the string delimiter, one token of the vocabulary */

typedef struct eg_tool_call {
    const char *name;          /* zero-terminated, as all texts here; "" when a broken call has no name */
    size_t name_length;
    const char *arguments;     /* a JSON object, as the model wrote it, not yet checked */
    size_t arguments_length;
    const char *problem;       /* why the call is broken and must not be run; "" for a whole call */
    size_t problem_length;
} eg_tool_call;

typedef struct eg_tool_calls {
    eg_tool_call *items;       /* [n] */
    size_t n;
    const char *left_over;     /* text that belongs to no call, normally "" */
    size_t left_over_length;
    bool whole;                /* the last call was complete, with every bracket and string closed */
    void *memory;              /* of all of it */
} eg_tool_calls;

/* Reads text[length], well-formed UTF-8 from between the markers of a call. False without memory. Free the calls in any case. */
bool eg_tool_calls_read(const char *text, size_t length, eg_tool_calls *out);
void eg_tool_calls_free(eg_tool_calls *calls);

#endif
