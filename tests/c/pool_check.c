/* Checks the thread pool: every index of a run is worked on once, and no two concurrent calls have the same worker number.
 * Tries many sizes, a slow thread, and two callers at once. Then the turns of callers: one at a time has it, equal ones
 * alternate, a higher priority goes first, and a cancelled one waits no longer. */
#define _POSIX_C_SOURCE 200809L
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/pool.h"
#include "base/thread.h"

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
    eg_turn turn = {0};
    if (!eg_pool_enter(pool, &turn)) return 1;
    eg_pool_run(pool, task, &j, n, chunk);
    eg_pool_leave(pool, &turn);
    for (int64_t i = 0; i < N; i++)
        if (atomic_load(&j.done[i]) != (i < n) || atomic_load(&j.wrong)) {
            fprintf(stderr, "%lld of %lld in pieces of %lld\n", (long long)i, (long long)n, (long long)chunk);
            return 1;
        }
    return 0;
}

typedef struct many {
    eg_pool *pool;
    bool wrong;
} many;

static void callers(void *context)
{
    many *m = context;
    static const int64_t sizes[] = {0, 1, 2, 3, 4, 5, 7, 64, 1000, N};
    for (int round = 0; round < 40; round++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            for (int64_t chunk = 1; chunk <= 300; chunk = chunk * 7 + 3)
                if (check(m->pool, sizes[i], chunk, round % 8 == 0)) m->wrong = true;
}

/* ---- turns ------------------------------------------------------------------------------------------------------- */

/* A caller who works in steps, and writes the number of each step down. */
typedef struct caller {
    eg_pool *pool;
    int32_t priority;
    int steps;
    atomic_bool stop;
    atomic_int *next;          /* numbers the steps of all callers */
    atomic_bool *inside;       /* whether some caller is in a step */
    int first, last, done;
    bool wrong;
    atomic_int *ready;         /* callers that have begun; NULL for one that waits for no other */
} caller;

static bool is_stopped(void *context) { return atomic_load(&((caller *)context)->stop); }

static void work_in_steps(void *context)
{
    caller *c = context;
    for (c->ready ? atomic_fetch_add(c->ready, 1) : 0; c->ready && atomic_load(c->ready) < 2;) eg_thread_yield();
    eg_turn turn = {.priority = c->priority, .stopped = is_stopped, .context = c};
    bool held = eg_pool_enter(c->pool, &turn);
    for (; held && c->done < c->steps; held = eg_pool_go_on(c->pool, &turn)) {
        if (atomic_exchange(c->inside, true)) c->wrong = true;
        for (volatile int spin = 0; spin < 300000; spin++) continue;
        atomic_store(c->inside, false);
        c->last = atomic_fetch_add(c->next, 1);
        if (!c->done++) c->first = c->last;
    }
    eg_pool_leave(c->pool, &turn);
}

static int wrong(const char *what)
{
    fprintf(stderr, "%s\n", what);
    return 1;
}

static eg_thread begin(eg_thread_main *run, void *argument)
{
    eg_thread thread;
    if (!eg_thread_create(&thread, run, argument)) exit(1);
    return thread;
}

static int check_turns(void)
{
    enum { STEPS = 100 };
    eg_pool *pool = eg_pool_create(2);
    atomic_int next = 0, ready = 0;
    atomic_bool inside = false;
    eg_thread thread[3];
    caller equal[2], high = {pool, 1, STEPS, false, &next, &inside, 0, 0, 0, false, NULL};
    for (int i = 0; i < 2; i++) equal[i] = (caller){pool, 0, STEPS, false, &next, &inside, 0, 0, 0, false, &ready};
    for (int i = 0; i < 2; i++) thread[i] = begin(work_in_steps, &equal[i]);
    for (int i = 0; i < 2; i++) eg_thread_join(thread[i]);
    if (equal[0].wrong || equal[1].wrong) return wrong("two callers had the turn at once");
    if (equal[0].first > equal[1].last || equal[1].first > equal[0].last) return wrong("equal callers did not alternate");

    /* The higher one comes while the others work, and is done before them. */
    atomic_store(&ready, 0);
    for (int i = 0; i < 2; i++) equal[i] = (caller){pool, 0, 5 * STEPS, false, &next, &inside, 0, 0, 0, false, &ready};
    for (int i = 0; i < 2; i++) thread[i] = begin(work_in_steps, &equal[i]);
    thread[2] = begin(work_in_steps, &high);
    eg_thread_join(thread[2]);
    if (high.wrong || high.last - high.first != STEPS - 1) return wrong("a lower priority went between");

    /* A cancelled caller ends while it waits, and the others go on. */
    caller waiting = {pool, -1, STEPS, false, &next, &inside, 0, 0, 0, false, NULL};
    thread[2] = begin(work_in_steps, &waiting);
    atomic_store(&waiting.stop, true);
    eg_thread_join(thread[2]);
    atomic_store(&equal[0].stop, true);
    for (int i = 0; i < 2; i++) eg_thread_join(thread[i]);
    if (waiting.done == STEPS) return wrong("a cancelled caller worked on");
    if (equal[1].done != 5 * STEPS) return wrong("a caller was lost");
    eg_pool_destroy(pool);
    return 0;
}

int main(void)
{
    if (check_turns()) return 1;
    for (unsigned threads = 1; threads <= THREADS; threads++) {
        eg_pool *pool = eg_pool_create(threads);
        many mine = {pool, false}, theirs = {pool, false};
        if (!pool) return 1;
        eg_thread other = begin(callers, &theirs);
        callers(&mine);
        eg_thread_join(other);
        eg_pool_destroy(pool);
        if (mine.wrong || theirs.wrong) return 1;
    }
    return 0;
}
