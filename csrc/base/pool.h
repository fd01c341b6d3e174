/* Thread pool. Owns the worker threads; knows nothing of their tasks. A run covers the indices [0, n): each worker starts with
 * an equal share, and a worker that is done steals half of what another one has left, since phones mix fast and slow cores. */
#ifndef EG_BASE_POOL_H
#define EG_BASE_POOL_H

#include <stdint.h>

typedef struct eg_pool eg_pool;

/* Works on [begin, end); `worker` is below eg_pool_threads and differs between concurrent calls of one run. */
typedef void eg_task(void *context, int64_t begin, int64_t end, unsigned worker);

/* `threads` counts the caller of eg_pool_run, so threads - 1 are started. NULL if memory or threads run out. A process that
 * fork() makes may use the pool after eg_pool_renew, and destroy it. */
eg_pool *eg_pool_create(unsigned threads);
void eg_pool_destroy(eg_pool *pool);

/* Starts workers of this process's own if it was made by fork() after the pool. Called once by whatever computes for a caller
 * of the library, before its first eg_pool_run; not by eg_pool_run, since it asks the system for the number of the process. */
void eg_pool_renew(eg_pool *pool);
unsigned eg_pool_threads(const eg_pool *pool);

/* Calls task for pieces of [0, n) of at least `chunk` indices (the last piece of a share may be smaller) and returns when all
 * are done. The share of worker i begins at n * i / threads. Several threads may call this at once; a caller that finds the
 * pool busy runs its whole task on its own thread, as worker 0. */
void eg_pool_run(eg_pool *pool, eg_task *task, void *context, int64_t n, int64_t chunk);

#endif
