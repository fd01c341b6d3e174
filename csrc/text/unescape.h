/* Escapes in strings that models write between quotes. */
#ifndef EG_TEXT_UNESCAPE_H
#define EG_TEXT_UNESCAPE_H

#include "strings.h"

/* text[*length], from inside of quotes ('"' or '\''), with the escapes of JSON replaced; with '\'' also \xHH. What is no escape keeps
 * its backslash: models write regular expressions, paths and formulas without doubling it. The result is the text itself or of the
 * chunks; NULL without memory. */
const char *eg_unescape(const char *text, size_t *length, char quote, eg_chunks *chunks);

#endif
