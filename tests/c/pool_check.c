/* Checks the thread pool: every index of a run is worked on once, and no two concurrent calls have the same worker number.
 * Tries many sizes, a slow thread, and two callers at once. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/pool.h"

enum { N = 5000, THREADS = 4 };

typedef struct job {
    atomic_int done[N];
    atomic_int inside[THREADS];
    atomic_bool wrong;
    int64_t n, chunk;
    bool slow;                 /* worker 1 is slow, so that others steal from its share */
} job;

static void task(void *context, int64_t begin, int64_t end, unsigned worker)
{
    job *j = context;
    if (begin < 0 || begin >= end || end > j->n || worker >= THREADS || atomic_fetch_add(&j->inside[worker], 1)) {
        atomic_store(&j->wrong, true);
        return;
    }
    for (int64_t i = begin; i < end; i++) atomic_fetch_add(&j->done[i], 1);
    if (j->slow && worker == 1)
        for (volatile int spin = 0; spin < 20000; spin++) continue;
    atomic_fetch_sub(&j->inside[worker], 1);
}

static int check(eg_pool *pool, int64_t n, int64_t chunk, bool slow)
{
    static _Thread_local job j;
    j.n = n;
    j.chunk = chunk;
    j.slow = slow;
    for (int64_t i = 0; i < N; i++) atomic_store(&j.done[i], 0);
    eg_pool_run(pool, task, &j, n, chunk);
    for (int64_t i = 0; i < N; i++)
        if (atomic_load(&j.done[i]) != (i < n) || atomic_load(&j.wrong)) {
            fprintf(stderr, "%lld of %lld in pieces of %lld\n", (long long)i, (long long)n, (long long)chunk);
            return 1;
        }
    return 0;
}

static void *callers(void *pool)
{
    static const int64_t sizes[] = {0, 1, 2, 3, 4, 5, 7, 64, 1000, N};
    for (int round = 0; round < 40; round++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            for (int64_t chunk = 1; chunk <= 300; chunk = chunk * 7 + 3)
                if (check(pool, sizes[i], chunk, round % 8 == 0)) return pool;
    return NULL;
}

int main(void)
{
    for (unsigned threads = 1; threads <= THREADS; threads++) {
        eg_pool *pool = eg_pool_create(threads);
        pthread_t other;
        if (!pool || pthread_create(&other, NULL, callers, pool)) return 1;
        void *mine = callers(pool), *theirs;
        pthread_join(other, &theirs);
        eg_pool_destroy(pool);
        if (mine || theirs) return 1;
    }
    return 0;
}
