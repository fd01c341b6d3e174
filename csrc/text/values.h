/* The tolerant reader of values in calls (calls.h), at a place in a text. */
#ifndef EG_TEXT_VALUES_H
#define EG_TEXT_VALUES_H

#include "json.h"

enum {
    EG_VALUE_DEPTH = 64, /* of nested lists and objects; deeper ones are kept as text */
    EG_VALUE_RETRIES = 100 /* how often a bracket may turn out to be text; after that all of them are */
};

typedef struct eg_values {
    const char *text;          /* well-formed UTF-8 */
    size_t length, at;
    eg_chunks *chunks;         /* own all values and texts */
    int retries;               /* brackets that were text */
    bool open_bracket;         /* a bracket was not closed */
    bool open_string;          /* a string was not closed */
    const char *problem;       /* why a part of an object was lost; NULL: nothing was */
    bool failed;               /* out of memory: values are incomplete */
} eg_values;

/* Skips white space. The next byte; 0 at the end. */
char eg_values_skip(eg_values *reader);
/* One value. `inside` tells what encloses it: '{' or '['. Text that is not understood becomes a string. NULL without memory. */
eg_json *eg_values_read(eg_values *reader, char inside, int depth);
/* The entries of an object, behind its opening bracket, up to and including `closing`, '}' or ')'. NULL without memory. */
eg_json *eg_values_read_pairs(eg_values *reader, char closing, int depth);
/* Whether every bracket and string was closed. */
static inline bool eg_values_complete(const eg_values *reader) { return !reader->open_bracket && !reader->open_string; }
/* A text in quotes and short enough for a sentence, of the reader's chunks; NULL without memory. */
const char *eg_values_shortened(eg_values *reader, const char *text, size_t length);
/* The texts of the list, which NULL ends, as one; NULL without memory. */
const char *eg_values_sentence(eg_values *reader, const char *first, ...);

#endif
