/* Thread pool with work stealing.
 *
 * At most one run is open at a time. The caller, who has the turn, opens it, works itself, and closes it when no piece is left to
 * claim; workers join only while it is open. So the caller never waits for a worker that is still waking up. Workers spin for
 * about 50 us after a run and then sleep.
 *
 * A process that fork() has made has no workers: only the thread that called fork() lives on in it, and the mutexes are as
 * some other thread held them. So the pool knows the process of its workers: eg_pool_renew starts new ones in another process,
 * and destroying the pool there waits for nobody. */
#define _POSIX_C_SOURCE 200809L
#include "pool.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "clock.h"
#include "thread.h"

enum { SPINS = 4000 };   /* about 50 us: longer than the gap between two matrices, shorter than a scheduler's time slice */
enum { WAIT_MS = 5 };    /* how often a waiting caller asks whether it was cancelled */
enum { NOBODY = INT32_MIN };

/* Seconds of a turn while a caller of the same priority waits. Passing the turn on takes about 50 us, until a sleeping thread
 * runs and the activations of the other caller are in the caches. */
static const double SHARE = 0.002;

/* The indices that a worker has left: begin in the upper 32 bits, end in the lower ones, so that one compare-and-swap changes
 * both. */
typedef struct share {
    _Alignas(64) atomic_uint_least64_t left;
} share;

struct eg_pool {
    unsigned threads, started;
    atomic_uint limit;               /* threads that work, at most `threads` */
    eg_thread *handles;
    share *shares;                   /* [threads] */
    eg_mutex mutex, turns;           /* mutex guards sleeping, turns the next three */
    eg_condition wake, passed;
    eg_turn *holder, *waiting;       /* waiting: the next one first */
    atomic_int urgency;              /* priority of the first who waits, or NOBODY; changed under the mutex */
    atomic_uint sleepers;
    atomic_bool quit;
    atomic_long process;             /* whose threads the workers are; 0 while another process starts its own */
    eg_task *task;                   /* like context and chunk: changes only while no worker is active */
    void *context;
    int64_t chunk;
    _Alignas(64) atomic_uint_fast64_t epoch;   /* odd: a run is open */
    _Alignas(64) atomic_uint active;           /* workers inside a run, or checking whether one is open */
};

typedef struct start {
    eg_pool *pool;
    unsigned worker;
} start;

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb");   /* "yield" does nothing on most cores; isb takes about as long as x86's pause */
#endif
}

static uint64_t packed(int64_t begin, int64_t end) { return (uint64_t)begin << 32 | (uint64_t)end; }
static int64_t begin_of(uint64_t left) { return (int64_t)(left >> 32); }
static int64_t end_of(uint64_t left) { return (int64_t)(left & UINT32_MAX); }

/* n / parts, but at least a chunk, and at most n. */
static int64_t piece_of(const eg_pool *pool, int64_t n, int64_t parts)
{
    int64_t piece = n / parts, least = n < pool->chunk ? n : pool->chunk;
    return piece < least ? least : piece;
}

/* Claims the next piece from the front of the worker's share. Successive pieces are adjacent in memory, so what a kernel
 * prefetches beyond one piece is the beginning of the next. */
static bool claim_piece(eg_pool *pool, unsigned worker, int64_t *begin, int64_t *end)
{
    uint64_t left = atomic_load(&pool->shares[worker].left);
    do {
        *begin = begin_of(left);
        *end = *begin + piece_of(pool, end_of(left) - *begin, 4);
        if (*begin == *end) return false;
    } while (!atomic_compare_exchange_weak(&pool->shares[worker].left, &left, packed(*end, end_of(left))));
    return true;
}

/* Moves the second half of another worker's remaining share to this worker, whose own share is done. */
static bool steal(eg_pool *pool, unsigned worker)
{
    for (unsigned i = 1; i < pool->threads; i++) {
        share *other = &pool->shares[(worker + i) % pool->threads];
        uint64_t left = atomic_load(&other->left);
        while (begin_of(left) < end_of(left)) {
            int64_t from = end_of(left) - piece_of(pool, end_of(left) - begin_of(left), 2);
            if (!atomic_compare_exchange_weak(&other->left, &left, packed(begin_of(left), from))) continue;
            atomic_store(&pool->shares[worker].left, packed(from, end_of(left)));
            return true;
        }
    }
    return false;
}

static void work(eg_pool *pool, unsigned worker)
{
    do
        for (int64_t begin, end; claim_piece(pool, worker, &begin, &end);) pool->task(pool->context, begin, end, worker);
    while (steal(pool, worker));
}

/* Waits until the epoch differs from `seen`: spins, then sleeps. */
static uint64_t wait_for_change(eg_pool *pool, uint64_t seen)
{
    for (int i = 0; i < SPINS; i++) {
        uint64_t now = atomic_load(&pool->epoch);
        if (now != seen) return now;
        relax();
    }
    eg_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(&pool->epoch) == seen && !atomic_load(&pool->quit)) eg_condition_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->sleepers, 1);
    eg_mutex_unlock(&pool->mutex);
    return atomic_load(&pool->epoch);
}

static void worker_main(void *argument)
{
    start s = *(start *)argument;
    free(argument);
    uint64_t seen = 0;
    while (!atomic_load(&s.pool->quit)) {
        uint64_t now = wait_for_change(s.pool, seen);
        if (now & 1 && s.worker < atomic_load(&s.pool->limit)) {
            atomic_fetch_add(&s.pool->active, 1);
            /* Check again after the increment: the caller closes the run first and then waits for active == 0. If
             * the run is still open here, the caller waits for this worker. */
            if (atomic_load(&s.pool->epoch) == now) work(s.pool, s.worker);
            atomic_fetch_sub(&s.pool->active, 1);
        }
        seen = now;
    }
}

/* Starts the workers, as many as possible. False if one is missing. */
static bool start_workers(eg_pool *pool)
{
    eg_mutex_init(&pool->mutex);
    eg_mutex_init(&pool->turns);
    eg_condition_init(&pool->wake);
    eg_condition_init(&pool->passed);
    pool->holder = pool->waiting = NULL;
    atomic_store(&pool->urgency, NOBODY);
    for (pool->started = 0; pool->started + 1 < pool->threads; pool->started++) {
        start *s = malloc(sizeof *s);
        if (!s) return false;
        *s = (start){pool, pool->started + 1};
        if (!eg_thread_create(&pool->handles[pool->started], worker_main, s)) {
            free(s);
            return false;
        }
    }
    return true;
}

/* The first caller after fork() starts new workers, and those that come meanwhile wait for it. */
void eg_pool_renew(eg_pool *pool)
{
    const long here = eg_process_id();
    for (long owner; (owner = atomic_load(&pool->process)) != here;) {
        if (!owner || !atomic_compare_exchange_strong(&pool->process, &owner, 0)) {
            eg_thread_yield();
            continue;
        }
        atomic_store(&pool->sleepers, 0);
        atomic_store(&pool->active, 0);
        atomic_store(&pool->epoch, 0);
        start_workers(pool);   /* a missing worker's share is stolen by the others */
        atomic_store(&pool->process, here);
    }
}

eg_pool *eg_pool_create(unsigned threads)
{
    eg_pool *pool = eg_aligned_alloc(64, (sizeof *pool + 63) / 64 * 64);
    if (!pool) return NULL;
    *pool = (eg_pool){.threads = threads ? threads : 1};
    atomic_store(&pool->limit, pool->threads);
    atomic_store(&pool->process, eg_process_id());
    pool->shares = eg_aligned_alloc(64, pool->threads * sizeof *pool->shares);
    pool->handles = calloc(pool->threads, sizeof *pool->handles);
    if (!pool->shares || !pool->handles) {
        eg_aligned_free(pool->shares);
        free(pool->handles);
        eg_aligned_free(pool);
        return NULL;
    }
    if (!start_workers(pool)) {
        eg_pool_destroy(pool);
        return NULL;
    }
    return pool;
}

void eg_pool_destroy(eg_pool *pool)
{
    if (!pool) return;
    if (atomic_load(&pool->process) == eg_process_id()) {
        eg_mutex_lock(&pool->mutex);
        atomic_store(&pool->quit, true);
        atomic_fetch_add(&pool->epoch, 2);   /* still even: no run to join, but spinning workers wake up */
        eg_condition_broadcast(&pool->wake);
        eg_mutex_unlock(&pool->mutex);
        for (unsigned i = 0; i < pool->started; i++) eg_thread_join(pool->handles[i]);
        eg_condition_destroy(&pool->wake);
        eg_condition_destroy(&pool->passed);
        eg_mutex_destroy(&pool->turns);
        eg_mutex_destroy(&pool->mutex);
    }
    eg_aligned_free(pool->shares);
    free(pool->handles);
    eg_aligned_free(pool);
}

unsigned eg_pool_threads(const eg_pool *pool) { return pool->threads; }

void eg_pool_set_limit(eg_pool *pool, unsigned threads) { atomic_store(&pool->limit, threads); }

unsigned eg_pool_limit(const eg_pool *pool) { return atomic_load(&pool->limit); }

/* ---- turns ------------------------------------------------------------------------------------------------------- */

static bool is_stopped(const eg_turn *turn) { return turn->stopped && turn->stopped(turn->context); }

static void set_urgency(eg_pool *pool) { atomic_store(&pool->urgency, pool->waiting ? pool->waiting->priority : NOBODY); }

static void queue(eg_pool *pool, eg_turn *turn)
{
    eg_turn **at = &pool->waiting;
    while (*at && (*at)->priority >= turn->priority) at = &(*at)->next;
    turn->next = *at;
    *at = turn;
    set_urgency(pool);
}

static void unqueue(eg_pool *pool, const eg_turn *turn)
{
    eg_turn **at = &pool->waiting;
    while (*at != turn) at = &(*at)->next;
    *at = turn->next;
    set_urgency(pool);
}

/* A request to cancel may come from a signal handler, which cannot wake anybody, so the wait is in short pieces. */
static void wait_for_turn(eg_pool *pool) { eg_condition_wait_ms(&pool->passed, &pool->turns, WAIT_MS); }

bool eg_pool_enter(eg_pool *pool, eg_turn *turn)
{
    bool stopped = false;
    eg_mutex_lock(&pool->turns);
    if (pool->holder || pool->waiting) {
        queue(pool, turn);
        while ((pool->holder || pool->waiting != turn) && !(stopped = is_stopped(turn))) wait_for_turn(pool);
        unqueue(pool, turn);
        if (stopped && !pool->holder && pool->waiting) eg_condition_broadcast(&pool->passed);
    }
    turn->held = !stopped;
    if (turn->held) pool->holder = turn;
    eg_mutex_unlock(&pool->turns);
    turn->since = eg_clock();
    return !stopped;
}

void eg_pool_leave(eg_pool *pool, eg_turn *turn)
{
    if (!turn->held) return;
    turn->held = false;
    eg_mutex_lock(&pool->turns);
    pool->holder = NULL;
    if (pool->waiting) eg_condition_broadcast(&pool->passed);
    eg_mutex_unlock(&pool->turns);
}

bool eg_pool_go_on(eg_pool *pool, eg_turn *turn)
{
    if (is_stopped(turn)) return false;
    int urgency = atomic_load_explicit(&pool->urgency, memory_order_relaxed);
    if (urgency == NOBODY || urgency < turn->priority) return true;
    if (urgency == turn->priority && eg_clock() - turn->since < SHARE) return true;
    eg_pool_leave(pool, turn);
    return eg_pool_enter(pool, turn);
}

/* ---- runs -------------------------------------------------------------------------------------------------------- */

void eg_pool_run(eg_pool *pool, eg_task *task, void *context, int64_t n, int64_t chunk)
{
    if (n <= 0) return;
    const unsigned limit = atomic_load(&pool->limit);
    if (limit == 1 || n <= chunk || n > UINT32_MAX) {
        task(context, 0, n, 0);
        return;
    }
    pool->task = task;
    pool->context = context;
    pool->chunk = chunk;
    for (unsigned i = 0; i < pool->threads; i++)
        atomic_store(&pool->shares[i].left, i < limit ? packed(n * i / limit, n * (i + 1) / limit) : packed(0, 0));
    atomic_fetch_add(&pool->epoch, 1);   /* open */
    if (atomic_load(&pool->sleepers)) {
        eg_mutex_lock(&pool->mutex);
        eg_condition_broadcast(&pool->wake);
        eg_mutex_unlock(&pool->mutex);
    }
    work(pool, 0);
    atomic_fetch_add(&pool->epoch, 1);   /* close */
    for (int i = 0; atomic_load(&pool->active); i++)
        if (i < SPINS) relax();
        else eg_thread_yield();
}
