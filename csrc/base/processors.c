/* Counts processors; see processors.h. */
#define _GNU_SOURCE
#define _DARWIN_C_SOURCE 1
#include "processors.h"

#if defined(_WIN32)
#include "thread.h"            /* windows.h, as small as possible */

#include <stdlib.h>
#else
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "control_groups.h"
#endif
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

#ifdef __linux__
/* A number from a file in /sys about one processor; -1 if there is no such file. */
static long cpu_number(int cpu, const char *what)
{
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/%s", cpu, what);
    FILE *f = fopen(path, "r");
    long value = -1;
    if (f) {
        if (fscanf(f, "%ld", &value) != 1) value = -1;
        fclose(f);
    }
    return value;
}

/* ---- quotas of control groups ---- */

/* Processors of quota / period, in thousandths; 0 for no limit. */
static uint64_t thousandths(long long quota, long long period)
{
    if (quota <= 0 || period <= 0 || quota > LLONG_MAX / 1000) return 0;
    return (uint64_t)(quota * 1000 / period);
}

/* The quota that one control group sets, in thousandths of a processor; 0 for no limit. */
static uint64_t quota_of(const char *folder)
{
    char line[64];
    long long quota = 0, period = 0;
    if (eg_control_group_line(folder, "cpu.max", line, sizeof line))
        return sscanf(line, "%lld %lld", &quota, &period) == 2 ? thousandths(quota, period) : 0;   /* or "max" */
    if (!eg_control_group_line(folder, "cpu.cfs_quota_us", line, sizeof line) || sscanf(line, "%lld", &quota) != 1) return 0;
    if (!eg_control_group_line(folder, "cpu.cfs_period_us", line, sizeof line) || sscanf(line, "%lld", &period) != 1) return 0;
    return thousandths(quota, period);
}

unsigned eg_processors_quota(const char *root)
{
    const uint64_t least = eg_control_groups_least(root, "cpu", quota_of);
    return least ? (least < 1000 ? 1 : (unsigned)(least / 1000)) : 0;
}

static unsigned fast_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set)) return 1;
    long fastest = -1;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &set)) {
            long capacity = cpu_number(cpu, "cpu_capacity");
            if (capacity > fastest) fastest = capacity;
        }
    unsigned cores = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &set)) continue;
        /* Skip little cores (below half of the fastest), which would slow every layer down, and second hardware
         * threads, which add nothing where memory or the vector units are the limit. The list of siblings begins with
         * the lowest number. */
        if (fastest > 0 && cpu_number(cpu, "cpu_capacity") * 2 < fastest) continue;
        long first = cpu_number(cpu, "topology/thread_siblings_list");
        if (first >= 0 && first != cpu && first < CPU_SETSIZE && CPU_ISSET((int)first, &set)) continue;
        cores++;
    }
    return cores ? cores : 1;
}

unsigned eg_processors_fast(void)
{
    unsigned cores = fast_cores(), quota = eg_processors_quota("");
    return quota && quota < cores ? quota : cores;
}
#else
unsigned eg_processors_quota(const char *root)
{
    (void)root;
    return 0;
}

#if defined(_WIN32)
/* Physical cores of the highest efficiency class, which is the fastest, that this process may run on. */
unsigned eg_processors_fast(void)
{
    DWORD_PTR allowed = 0, all;
    DWORD bytes = 0;
    GetLogicalProcessorInformationEx(RelationProcessorCore, NULL, &bytes);
    char *cores = bytes ? malloc(bytes) : NULL;
    unsigned found = 0, fastest = 0;
    if (cores && GetLogicalProcessorInformationEx(RelationProcessorCore, (void *)cores, &bytes)) {
        const bool limited = GetProcessAffinityMask(GetCurrentProcess(), &allowed, &all) && allowed && allowed != all;
        for (DWORD at = 0; at < bytes;) {
            const SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX *core = (const void *)(cores + at);
            const unsigned class = ((const BYTE *)&core->Processor)[1];   /* EfficiencyClass, which older headers lack */
            at += core->Size;
            if (limited && !(core->Processor.GroupMask[0].Mask & allowed)) continue;
            if (class > fastest) fastest = class, found = 0;
            found += class == fastest;
        }
    }
    free(cores);
    return found ? found : 1;
}
#else
unsigned eg_processors_fast(void)
{
#ifdef __APPLE__
    /* Level 0 has the fast cores; processors without levels have one kind. */
    const char *const names[] = {"hw.perflevel0.physicalcpu", "hw.physicalcpu"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int cores = 0;
        size_t size = sizeof cores;
        if (!sysctlbyname(names[i], &cores, &size, NULL, 0) && cores > 0) return (unsigned)cores;
    }
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (unsigned)n : 1;
}
#endif
#endif
