/* Things that are kept for whoever needs one next. Any thread; no locks, so a process that fork() makes may go on using them. */
#ifndef EG_BASE_IDLE_H
#define EG_BASE_IDLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

enum { EG_IDLE = 16 }; /* most things that are kept */

typedef struct eg_idle {
    _Atomic(void *) at[EG_IDLE];
} eg_idle;

/* The first thing from place `from` on, which now belongs to the caller; NULL if there is none. */
static inline void *eg_idle_take(eg_idle *idle, int from)
{
    for (int i = from; i < EG_IDLE; i++) {
        void *thing = atomic_exchange(&idle->at[i], NULL);
        if (thing) return thing;
    }
    return NULL;
}

/* Keeps a thing in the first free place. False if there is none: the thing is the caller's still. */
static inline bool eg_idle_put(eg_idle *idle, void *thing)
{
    for (int i = 0; i < EG_IDLE; i++) {
        void *none = NULL;
        if (atomic_compare_exchange_strong(&idle->at[i], &none, thing)) return true;
    }
    return false;
}

#endif
