/* Asks the system about memory; see memory.h. */
#define _GNU_SOURCE            /* RUSAGE_THREAD, malloc_trim */
#include "memory.h"

#include "control_groups.h"

#ifdef __linux__
#include <malloc.h>
#endif

void eg_memory_trim(void)
{
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

#ifndef _WIN32
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/* A number of bytes from a group's file, which may also say "max"; 0 for no limit. */
static uint64_t bytes_in(const char *folder, const char *file)
{
    char line[64];
    return eg_control_group_line(folder, file, line, sizeof line) ? strtoull(line, NULL, 10) : 0;
}

static uint64_t limit_of(const char *folder)
{
    static const char *const files[] = {"memory.max", "memory.high", "memory.limit_in_bytes"};
    uint64_t least = 0;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        uint64_t limit = bytes_in(folder, files[i]);
        if (limit && (!least || limit < least)) least = limit;
    }
    return least;
}

uint64_t eg_memory_allowed(const char *root)
{
    uint64_t group = eg_control_groups_least(root, "memory", limit_of), physical = 0;
#ifdef _SC_PHYS_PAGES
    const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    if (pages > 0 && size > 0) physical = (uint64_t)pages * (uint64_t)size;
#endif
    return group && (!physical || group < physical) ? group : physical;
}

uint64_t eg_memory_resident(void)
{
    unsigned long long all, resident;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f) return 0;
    const long size = sysconf(_SC_PAGESIZE);
    if (fscanf(f, "%llu %llu", &all, &resident) != 2 || size <= 0) resident = 0;
    fclose(f);
    return resident * (uint64_t)size;
}

long eg_memory_waits(void)
{
    struct rusage usage;
#ifdef RUSAGE_THREAD
    return getrusage(RUSAGE_THREAD, &usage) ? 0 : usage.ru_majflt;
#else
    return getrusage(RUSAGE_SELF, &usage) ? 0 : usage.ru_majflt;
#endif
}
#else
#include "thread.h"            /* windows.h, as small as possible */

uint64_t eg_memory_allowed(const char *root)
{
    MEMORYSTATUSEX status = {.dwLength = sizeof status};
    (void)root;
    return GlobalMemoryStatusEx(&status) ? status.ullTotalPhys : 0;
}

uint64_t eg_memory_resident(void) { return 0; }

long eg_memory_waits(void) { return 0; }
#endif
