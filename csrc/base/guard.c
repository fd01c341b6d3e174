/* The handler of SIGBUS; see guard.h. */
#define _DEFAULT_SOURCE 1      /* MAP_ANONYMOUS, NSIG */
#define _DARWIN_C_SOURCE 1
#include "guard.h"

#ifndef _WIN32
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

enum { RANGES = 256 };

/* A free place has end 0. The handler reads without locks: begin is written before end. */
static struct {
    atomic_uintptr_t begin, end;
    atomic_bool failed;
} ranges[RANGES];

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;   /* guards the next three, and who writes to ranges */
static int used;
static bool installed;
static struct sigaction before;    /* changes only while there is no handler of ours */

/* What the host would have had without the library. */
static void pass_on(int number, siginfo_t *info, void *context)
{
    if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(number, info, context);
    } else if (before.sa_handler == SIG_IGN && info->si_code <= 0) {
        return;                /* sent by a process: ignored as it would have been; a real fault cannot be ignored */
    } else if (before.sa_handler == SIG_DFL || before.sa_handler == SIG_IGN) {
        struct sigaction standard;
        memset(&standard, 0, sizeof standard);
        standard.sa_handler = SIG_DFL;
        sigaction(number, &standard, NULL);
        /* A fault comes again by itself. What a process has sent does not, so it is sent once more, as if this handler were not. */
        if (info->si_code <= 0) kill(getpid(), number);
    } else {
        before.sa_handler(number);
    }
}

static void handle(int number, siginfo_t *info, void *context)
{
    const int saved = errno;
    const uintptr_t at = (uintptr_t)info->si_addr;
    for (int i = 0; info->si_code > 0 && i < RANGES; i++) {
        const uintptr_t end = atomic_load(&ranges[i].end), begin = atomic_load(&ranges[i].begin);
        if (at < begin || at >= end) continue;
        const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = at / page * page;
        atomic_store(&ranges[i].failed, true);
        if (mmap((void *)from, end - from, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) ==
            MAP_FAILED)
            break;
        errno = saved;
        return;
    }
    errno = saved;
    pass_on(number, info, context);
}

/* Called with the mutex. */
static bool install(void)
{
    struct sigaction ours;
    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = handle;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    sigemptyset(&ours.sa_mask);
    /* Known before the handler is there, since a fault may come at once. */
    if (!installed) installed = !sigaction(SIGBUS, NULL, &before) && !sigaction(SIGBUS, &ours, NULL);
    return installed;
}

/* Called with the mutex. A handler that somebody else has put above ours may call it, so then ours stays. */
static void uninstall(void)
{
    struct sigaction now;
    if (sigaction(SIGBUS, NULL, &now) || !(now.sa_flags & SA_SIGINFO) || now.sa_sigaction != handle) return;
    installed = sigaction(SIGBUS, &before, NULL) != 0;
}

int eg_guard_add(void *base, size_t length)
{
    int place = EG_GUARD_NONE;
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < RANGES && place < 0 && length; i++)
        if (!atomic_load(&ranges[i].end)) place = i;
    if (place >= 0 && !install()) place = EG_GUARD_NONE;
    if (place >= 0) {
        used++;
        atomic_store(&ranges[place].failed, false);
        atomic_store(&ranges[place].begin, (uintptr_t)base);
        atomic_store(&ranges[place].end, (uintptr_t)base + length);
    }
    pthread_mutex_unlock(&mutex);
    return place;
}

void eg_guard_remove(int guard)
{
    if (guard < 0) return;
    pthread_mutex_lock(&mutex);
    atomic_store(&ranges[guard].end, 0);
    atomic_store(&ranges[guard].begin, UINTPTR_MAX);
    if (--used == 0) uninstall();
    pthread_mutex_unlock(&mutex);
}

bool eg_guard_failed(int guard) { return guard >= 0 && atomic_load(&ranges[guard].failed); }
#else
int eg_guard_add(void *base, size_t length)
{
    (void)base, (void)length;
    return EG_GUARD_NONE;
}

void eg_guard_remove(int guard) { (void)guard; }

bool eg_guard_failed(int guard)
{
    (void)guard;
    return false;
}
#endif
