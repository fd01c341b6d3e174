/* Thread pool: every thread has an even share of an index and helps others when it is done, because phones have unequal
 * cores. */
#ifndef EG_BASE_POOL_H
#define EG_BASE_POOL_H

#include <stdint.h>

typedef struct eg_pool eg_pool;

/* Works on [begin, end); `worker` is below eg_pool_threads and differs between concurrent calls of one run. */
typedef void eg_task(void *context, int64_t begin, int64_t end, unsigned worker);

/* threads includes the caller of eg_pool_run, so threads - 1 are started. NULL: out of memory or of threads. */
eg_pool *eg_pool_create(unsigned threads);
void eg_pool_destroy(eg_pool *pool);
unsigned eg_pool_threads(const eg_pool *pool);

/* Calls task for [0, n) in pieces of at least `chunk` (the last one of a share may be smaller) and returns when all are done.
 * Worker i begins at n * i / threads. Workers spin briefly for the next run and then sleep. May be called from several
 * threads at once: whoever finds the pool busy does everything itself, as worker 0. */
void eg_pool_run(eg_pool *pool, eg_task *task, void *context, int64_t n, int64_t chunk);

/* How many threads suit this process: the fast cores it may run on, one thread each. At least 1. */
unsigned eg_pool_fast_cores(void);

#endif
