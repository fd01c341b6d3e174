/* JSON as a tree of values: a strict reader (RFC 8259) and a compact writer.
 *
 * Numbers are kept as the digits that stand for them, so no number loses precision here. Nesting is bounded, and so is the length
 * of a number. A text is read into eg_chunks, which own all values.
 */
#ifndef EG_TEXT_JSON_H
#define EG_TEXT_JSON_H

#include "strings.h"

enum {
    EG_JSON_DEPTH = 200,       /* of lists and objects in each other */
    EG_JSON_DIGITS = 300       /* bytes of a number */
};

typedef enum eg_json_type {
    EG_JSON_NULL,
    EG_JSON_FALSE,
    EG_JSON_TRUE,
    EG_JSON_NUMBER,
    EG_JSON_STRING,
    EG_JSON_LIST,
    EG_JSON_OBJECT
} eg_json_type;

typedef struct eg_json eg_json;
struct eg_json {
    eg_json_type type;
    uint32_t key_hash;
    const char *text;          /* a string, or a number as it is written; not zero-terminated */
    size_t length;
    const char *key;           /* of an object's member; NULL of others */
    size_t key_length;
    eg_json *first, *last;     /* elements, members */
    eg_json *next;             /* in the same list or object */
};

/* Reads text[length], which is one value and white space. A key that is given twice has its last value, as in most readers. NULL:
 * *problem is a phrase such as "a string does not end" (at byte *at), or NULL without memory. */
eg_json *eg_json_read(const char *text, size_t length, eg_chunks *chunks, const char **problem, size_t *at);

/* Appends a value. Keys keep their order. */
void eg_json_write(const eg_json *value, eg_string *out);
/* Appends a string in its quotes. Only what JSON demands is escaped. */
void eg_json_write_string(const char *text, size_t length, eg_string *out);

/* Makes a value; NULL without memory. text[length] is not copied. */
eg_json *eg_json_new(eg_chunks *chunks, eg_json_type type, const char *text, size_t length);
/* Appends an element. */
void eg_json_append(eg_json *list, eg_json *value);
/* Sets a member, in the place of one of the same name. The key is not copied. */
void eg_json_set(eg_json *object, const char *key, size_t key_length, eg_json *value);
/* The member of that name; NULL if there is none, or `object` is NULL or no object. */
eg_json *eg_json_get(const eg_json *object, const char *key, size_t key_length);
static inline eg_json *eg_json_at(const eg_json *object, const char *key) { return eg_json_get(object, key, strlen(key)); }
/* Whether two values are equal; numbers by their digits. */
bool eg_json_equal(const eg_json *a, const eg_json *b);
/* Whether it is a string that equals `text`. */
bool eg_json_is(const eg_json *value, const char *text);
/* Whether it counts as true: not NULL, null, false, 0, "", or empty. */
bool eg_json_truthy(const eg_json *value);

#endif
