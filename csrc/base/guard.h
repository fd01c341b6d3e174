/* What happens when a page of a mapped file cannot be read, because the disk fails or the file was cut short.
 *
 * The system then sends SIGBUS to the thread that reads, whose default ends the process. While ranges are guarded there is a
 * handler: in a guarded range the page that failed, and all behind it, become zeros, and the range counts as failed. The thread
 * goes on with the zeros; whoever computes asks eg_guard_failed before results leave the library. So no thread is stopped in
 * the middle of something, and no lock stays held. A fault anywhere else goes to the handler that was there before.
 *
 * The handler is installed with the first guarded range and removed after the last one, if no other was put above it meanwhile.
 * It is the one thing of the engine that belongs to the whole process: POSIX has no handler of a smaller scope. */
#ifndef EG_BASE_GUARD_H
#define EG_BASE_GUARD_H

#include <stdbool.h>
#include <stddef.h>

enum { EG_GUARD_NONE = -1 };

/* Guards whole pages of a mapping. Returns what the range is called from now on, or EG_GUARD_NONE where it cannot be guarded:
 * no such signal, too many ranges, no handler allowed. Any thread. */
int eg_guard_add(void *base, size_t length);

/* Ends that; before the range is unmapped. Nothing for EG_GUARD_NONE. Any thread, but none reads the range. */
void eg_guard_remove(int guard);

/* Whether a page of the range could not be read. False for EG_GUARD_NONE. */
bool eg_guard_failed(int guard);

#endif
