/* The timeline of a session: tokens are appended, evaluated into the KV cache, and taken back. For the files of this folder. */
#ifndef EG_API_TIMELINE_H
#define EG_API_TIMELINE_H

#include "objects.h"

/* Frame every call that computes. Begin fails with EG_CANCELLED, and uses the request up, when one is pending; then the call
 * has nothing to end. End returns the status that it is given, and uses up a request that stopped the call. */
eg_status eg_timeline_begin(eg_session *session, eg_error *err);
eg_status eg_timeline_end(eg_session *session, eg_status status);

/* Ends a call that fed something at old_length: after a failure, what was evaluated stays, and so does what waited before. */
eg_status eg_timeline_end_feed(eg_session *session, int64_t old_length, eg_status status);

/* EG_ERROR_CONTEXT unless n more tokens fit. */
eg_status eg_timeline_check_room(const eg_session *session, size_t n, eg_error *err);

/* Appends tokens, for which there is room; they wait to be evaluated. */
void eg_timeline_append(eg_session *session, const int32_t *ids, size_t n);

/* Evaluates everything that waits. EG_CANCELLED: some of it. */
eg_status eg_timeline_settle(eg_session *session, eg_error *err);

/* Appends rows of embeddings[n, hidden], for which there is room, and evaluates them and what waited before. */
eg_status eg_timeline_append_soft(eg_session *session, const float *embeddings, size_t n, eg_error *err);

/* Appends tokens, for which there is room, and computes all of every position: see eg_session_forward. */
eg_status eg_timeline_forward(eg_session *session, const int32_t *ids, size_t n, float *logits, float *hidden, eg_error *err);

/* Makes decoder.logits those of the last token. EG_ERROR_STATE: there are none. */
eg_status eg_timeline_finish(eg_session *session, eg_error *err);

/* Goes back to `position`, within 0 and the length. EG_ERROR_STATE: it cannot; nothing changes. */
eg_status eg_timeline_rewind_to(eg_session *session, int64_t position, eg_error *err);

#endif
