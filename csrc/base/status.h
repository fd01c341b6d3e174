/* Error reporting: eg_fail writes the sentence that a failing function leaves for its caller, and returns the status. */
#ifndef EG_BASE_STATUS_H
#define EG_BASE_STATUS_H

#include "exact.h"

#include "../edge_gemma.h"

#if defined(__GNUC__)
#define EG_PRINTF(text, args) __attribute__((format(printf, text, args)))
#else
#define EG_PRINTF(text, args)
#endif

/* Writes the formatted sentence to err (which may be NULL), as far as its struct_size goes, and returns status. Names from
 * files go in as %.*s; bytes that are not printable ASCII or valid UTF-8 are replaced by '?'. */
eg_status eg_fail(eg_error *err, eg_status status, const char *format, ...) EG_PRINTF(3, 4);

#endif
