/* The timeline of a session: tokens are appended, evaluated into the KV cache, and taken back. For the files of this folder. */
#ifndef EG_API_TIMELINE_H
#define EG_API_TIMELINE_H

#include "objects.h"

/* Frame every call that computes. Begin fails with EG_CANCELLED, and uses the request up, when one is pending or comes while it
 * waits for its turn; then the call has nothing to end. rows: of the largest block (0: EG_BLOCK). End returns the status that
 * it is given, and uses up a request that stopped the call; it may be called without a begin. */
eg_status eg_timeline_begin(eg_session *session, int64_t rows, eg_error *err);
eg_status eg_timeline_end(eg_session *session, eg_status status);

/* Ends a call that fed something at old_length: after a failure, what was evaluated stays, and so does what waited before. */
eg_status eg_timeline_end_feed(eg_session *session, int64_t old_length, eg_status status);
/* The same without the end of the call. */
void eg_timeline_keep_evaluated(eg_session *session, int64_t old_length);

/* Logits are not part of a snapshot: if nothing else tells those of the last token, that token is to be evaluated again. */
void eg_timeline_forget_logits(eg_session *session);

/* EG_ERROR_CONTEXT unless n more tokens fit. */
eg_status eg_timeline_check_room(const eg_session *session, size_t n, eg_error *err);

/* The token that begins or ends sound or a picture. EG_ERROR_FORMAT: the vocabulary lacks it. */
eg_status eg_timeline_find_marker(const eg_session *session, const char *text, int32_t *id, eg_error *err);

/* Appends tokens, for which there is room; they wait to be evaluated. */
void eg_timeline_append(eg_session *session, const int32_t *ids, size_t n);

/* Evaluates everything that waits. EG_CANCELLED: some of it. */
eg_status eg_timeline_settle(eg_session *session, eg_error *err);

/* Appends rows of embeddings[n, hidden], for which there is room, and evaluates them and what waited before. both_ways: the
 * tokens of a picture that see each other, at most as many as a block of this call has. */
eg_status eg_timeline_append_soft(eg_session *session, const float *embeddings, size_t n, bool both_ways, eg_error *err);

/* Appends tokens, for which there is room, and computes all of every position: see eg_session_forward. */
eg_status eg_timeline_forward(eg_session *session, const int32_t *ids, size_t n, float *logits, float *hidden, eg_error *err);

/* EG_ERROR_STATE unless logits can follow the last token. */
eg_status eg_timeline_check_last(const eg_session *session, eg_error *err);

/* Makes session->logits those that follow the last token, which eg_timeline_check_last has accepted. */
eg_status eg_timeline_finish(eg_session *session, eg_error *err);

/* One timeline's part in a pass through the weights. */
typedef struct eg_draw {
    eg_session *session;
    const eg_sampling *options; /* how a token is drawn; NULL: none, what waits is evaluated */
    bool drawn;
    int32_t id; /* the token, */
    uint64_t random; /* the random state after it, */
    float logprob; /* and its log-probability, with options->logprobs; session->top then has `n_top` others */
    size_t n_top;
} eg_draw;

/* Evaluates all that waits in n different timelines, at most EG_BLOCK, and draws: nothing is appended. runs[n] and drawing[n] are
 * for its own use, and the work space has a row of logits for each timeline that draws. EG_CANCELLED: some was evaluated.
 * EG_ERROR_STATE: a session's options allow no token. */
eg_status eg_timeline_draw(eg_workspace *ws, eg_draw *draws, size_t n, eg_run *runs, size_t *drawing, eg_error *err);

/* Appends a token with the text that it adds (session->piece); returns the length of that. */
size_t eg_timeline_accept(eg_session *session, int32_t id, uint32_t text_flags);

/* See eg_session_verify; ids are valid and fit. The work space has EG_VERIFY + 1 rows of logits. */
enum { EG_VERIFY = 16 };
eg_status eg_timeline_verify(eg_session *session, const int32_t *ids, size_t n, const eg_sampling *options, float *logprobs,
                             size_t *kept, eg_error *err);

/* Goes back to `position`, within 0 and the length. EG_ERROR_STATE: it cannot; nothing changes. */
eg_status eg_timeline_rewind_to(eg_session *session, int64_t position, eg_error *err);

#endif
