/* Monotonic wall clock in seconds. */
#ifndef EG_BASE_CLOCK_H
#define EG_BASE_CLOCK_H

#include "exact.h"

#ifdef _WIN32
#include "thread.h"            /* windows.h, as small as possible */

static inline double eg_clock(void)
{
    LARGE_INTEGER ticks, frequency;
    QueryPerformanceFrequency(&frequency);
    QueryPerformanceCounter(&ticks);
    return (double)ticks.QuadPart / (double)frequency.QuadPart;
}
#else
#include <time.h>

static inline double eg_clock(void)
{
    struct timespec t;
#ifdef CLOCK_MONOTONIC
    clock_gettime(CLOCK_MONOTONIC, &t);
#else
    timespec_get(&t, TIME_UTC);
#endif
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
#endif

#endif
