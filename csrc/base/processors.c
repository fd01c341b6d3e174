/* Counts processors; see processors.h. */
#define _GNU_SOURCE
#include "processors.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "control_groups.h"

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

unsigned eg_processors_fast(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (unsigned)n : 1;
}
#endif
