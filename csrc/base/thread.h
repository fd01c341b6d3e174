/* Threads, mutexes, conditions, the process's number and aligned memory: POSIX, or Windows. Functions that return bool return
 * false when the system has no memory or no room for one more thread. */
#ifndef EG_BASE_THREAD_H
#define EG_BASE_THREAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* What a thread runs. */
typedef void eg_thread_main(void *argument);

typedef struct eg_thread_start {
    eg_thread_main *run;
    void *argument;
} eg_thread_start;

#ifdef _WIN32

#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#if !defined(_WIN32_WINNT) || _WIN32_WINNT < 0x0602   /* Windows 8 */
#undef _WIN32_WINNT
#define _WIN32_WINNT 0x0602
#endif
#include <windows.h>

#include <malloc.h>
#include <process.h>

typedef SRWLOCK eg_mutex;
typedef CONDITION_VARIABLE eg_condition;
typedef HANDLE eg_thread;

static inline void eg_mutex_init(eg_mutex *m) { InitializeSRWLock(m); }
static inline void eg_mutex_destroy(eg_mutex *m) { (void)m; }
static inline void eg_mutex_lock(eg_mutex *m) { AcquireSRWLockExclusive(m); }
static inline void eg_mutex_unlock(eg_mutex *m) { ReleaseSRWLockExclusive(m); }

static inline void eg_condition_init(eg_condition *c) { InitializeConditionVariable(c); }
static inline void eg_condition_destroy(eg_condition *c) { (void)c; }
static inline void eg_condition_signal(eg_condition *c) { WakeConditionVariable(c); }
static inline void eg_condition_broadcast(eg_condition *c) { WakeAllConditionVariable(c); }
static inline void eg_condition_wait(eg_condition *c, eg_mutex *m) { SleepConditionVariableSRW(c, m, INFINITE, 0); }
static inline void eg_condition_wait_ms(eg_condition *c, eg_mutex *m, int ms) { SleepConditionVariableSRW(c, m, (DWORD)ms, 0); }

static inline unsigned __stdcall eg_thread_entry(void *own)
{
    const eg_thread_start start = *(eg_thread_start *)own;
    free(own);
    start.run(start.argument);
    return 0;
}

static inline bool eg_thread_create(eg_thread *thread, eg_thread_main *run, void *argument)
{
    eg_thread_start *start = (eg_thread_start *)malloc(sizeof *start);
    if (!start) return false;
    start->run = run;
    start->argument = argument;
    *thread = (HANDLE)_beginthreadex(NULL, 0, eg_thread_entry, start, 0, NULL);
    if (!*thread) free(start);
    return *thread != NULL;
}

static inline void eg_thread_join(eg_thread thread)
{
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
}

static inline void eg_thread_yield(void) { SwitchToThread(); }
static inline long eg_process_id(void) { return (long)GetCurrentProcessId(); }
static inline void *eg_aligned_alloc(size_t alignment, size_t size) { return _aligned_malloc(size, alignment); }
static inline void eg_aligned_free(void *memory) { _aligned_free(memory); }

#else

#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

typedef pthread_mutex_t eg_mutex;
typedef pthread_cond_t eg_condition;
typedef pthread_t eg_thread;

static inline void eg_mutex_init(eg_mutex *m) { pthread_mutex_init(m, NULL); }
static inline void eg_mutex_destroy(eg_mutex *m) { pthread_mutex_destroy(m); }
static inline void eg_mutex_lock(eg_mutex *m) { pthread_mutex_lock(m); }
static inline void eg_mutex_unlock(eg_mutex *m) { pthread_mutex_unlock(m); }

static inline void eg_condition_init(eg_condition *c) { pthread_cond_init(c, NULL); }
static inline void eg_condition_destroy(eg_condition *c) { pthread_cond_destroy(c); }
static inline void eg_condition_signal(eg_condition *c) { pthread_cond_signal(c); }
static inline void eg_condition_broadcast(eg_condition *c) { pthread_cond_broadcast(c); }
static inline void eg_condition_wait(eg_condition *c, eg_mutex *m) { pthread_cond_wait(c, m); }

/* Waits for at most ms milliseconds, fewer than 1,000. */
static inline void eg_condition_wait_ms(eg_condition *c, eg_mutex *m, int ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += ms * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_nsec -= 1000000000L;
        until.tv_sec++;
    }
    pthread_cond_timedwait(c, m, &until);
}

static inline void *eg_thread_entry(void *own)
{
    const eg_thread_start start = *(eg_thread_start *)own;
    free(own);
    start.run(start.argument);
    return NULL;
}

static inline bool eg_thread_create(eg_thread *thread, eg_thread_main *run, void *argument)
{
    eg_thread_start *start = (eg_thread_start *)malloc(sizeof *start);
    if (!start) return false;
    start->run = run;
    start->argument = argument;
    if (!pthread_create(thread, NULL, eg_thread_entry, start)) return true;
    free(start);
    return false;
}

static inline void eg_thread_join(eg_thread thread) { pthread_join(thread, NULL); }
static inline void eg_thread_yield(void) { sched_yield(); }
static inline long eg_process_id(void) { return (long)getpid(); }

/* Memory at a multiple of alignment, a power of two from sizeof(void *) on; eg_aligned_free frees it. (aligned_alloc would need
 * macOS 10.15 and Android's level 28.) */
static inline void *eg_aligned_alloc(size_t alignment, size_t size)
{
    void *memory = NULL;
    return posix_memalign(&memory, alignment, size) ? NULL : memory;
}

static inline void eg_aligned_free(void *memory) { free(memory); }

#endif
#endif
