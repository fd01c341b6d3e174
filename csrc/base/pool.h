/* Thread pool. Owns the worker threads; knows nothing of their tasks. A run covers the indices [0, n): each worker starts with
 * an equal share, and a worker that is done steals half of what another one has left, since phones mix fast and slow cores.
 * Callers who compute at the same time share the pool in turns. */
#ifndef EG_BASE_POOL_H
#define EG_BASE_POOL_H

#include <stdbool.h>
#include <stdint.h>

typedef struct eg_pool eg_pool;

/* Works on [begin, end); `worker` is below eg_pool_threads and differs between concurrent calls of one run. */
typedef void eg_task(void *context, int64_t begin, int64_t end, unsigned worker);

/* `threads` counts the caller of eg_pool_run, so threads - 1 are started. NULL if memory or threads run out. A process that
 * fork() makes may use the pool after eg_pool_renew, and destroy it. */
eg_pool *eg_pool_create(unsigned threads);
void eg_pool_destroy(eg_pool *pool);

/* Starts workers of this process's own if it was made by fork() after the pool. Called once by whatever computes for a caller
 * of the library, before it enters; not by eg_pool_run, since it asks the system for the number of the process. */
void eg_pool_renew(eg_pool *pool);
unsigned eg_pool_threads(const eg_pool *pool);

/* Lets only so many threads, the caller of eg_pool_run included, work from the next run on; within 1 and eg_pool_threads. Any
 * thread. */
void eg_pool_set_limit(eg_pool *pool, unsigned threads);
unsigned eg_pool_limit(const eg_pool *pool);

/* Turns. All threads of the pool work for one caller at a time, who has the turn. Callers who wait are served by priority, and
 * in the order of their coming among equals. */
typedef struct eg_turn {
    int32_t priority;          /* the higher goes first */
    bool (*stopped)(void *context);   /* whether the work was cancelled; NULL: it never is */
    void *context;
    bool held;                 /* these three belong to the pool */
    double since;
    struct eg_turn *next;
} eg_turn;

/* Waits for the turn. False if the work was cancelled meanwhile; then the turn is not held. The turn must stay where it is until
 * it is given back. */
bool eg_pool_enter(eg_pool *pool, eg_turn *turn);

/* Called between pieces of work of at most some milliseconds. Gives the turn to a waiting caller of higher priority, or, after two
 * milliseconds, to one of the same, and waits for the next turn. False if the work was cancelled; the turn may be lost then. */
bool eg_pool_go_on(eg_pool *pool, eg_turn *turn);

/* Gives the turn back, if it is held. */
void eg_pool_leave(eg_pool *pool, eg_turn *turn);

/* Calls task for pieces of [0, n) of at least `chunk` indices (the last piece of a share may be smaller) and returns when all
 * are done. The share of worker i begins at n * i / eg_pool_limit. The caller has the turn. */
void eg_pool_run(eg_pool *pool, eg_task *task, void *context, int64_t n, int64_t chunk);

#endif
