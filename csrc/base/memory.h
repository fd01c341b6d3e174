/* How much memory this process may use, and how much it does. Owns nothing. */
#ifndef EG_BASE_MEMORY_H
#define EG_BASE_MEMORY_H

#include <stdint.h>

/* Bytes of memory that this process may use: the least of the physical memory and of what its control groups allow (memory.max
 * and memory.high of version 2, memory.limit_in_bytes of version 1). 0 where the system does not tell. `root` precedes every
 * path: "" but in tests. */
uint64_t eg_memory_allowed(const char *root);

/* Bytes of this process in memory now; 0 where the system does not tell. */
uint64_t eg_memory_resident(void);

/* Reads from a disk that the calling thread has had to wait for, as far as the system counts them: major page faults. */
long eg_memory_waits(void);

/* Where the C library can, memory that was freed goes back to the system. */
void eg_memory_trim(void);

#endif
