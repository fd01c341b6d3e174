/* Counts processors; see processors.h. */
#define _GNU_SOURCE
#include "processors.h"

#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

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

/* The first line of a file without its line break; false if there is none. */
static bool first_line(const char *path, char *line, size_t size)
{
    FILE *f = fopen(path, "re");
    if (!f) return false;
    bool found = fgets(line, (int)size, f) != NULL;
    fclose(f);
    if (found) line[strcspn(line, "\n")] = 0;
    return found;
}

/* Processors of quota / period, in thousandths; 0 for no limit. */
static unsigned long thousandths(long long quota, long long period)
{
    if (quota <= 0 || period <= 0 || quota > LLONG_MAX / 1000) return 0;
    return (unsigned long)(quota * 1000 / period);
}

/* The quota that one control group sets, in thousandths of a processor; 0 for no limit. */
static unsigned long quota_of(const char *folder)
{
    char path[PATH_MAX], line[64];
    long long quota = 0, period = 0;
    if ((size_t)snprintf(path, sizeof path, "%s/cpu.max", folder) < sizeof path && first_line(path, line, sizeof line))
        return sscanf(line, "%lld %lld", &quota, &period) == 2 ? thousandths(quota, period) : 0;   /* or "max" */
    if ((size_t)snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder) >= sizeof path) return 0;
    if (!first_line(path, line, sizeof line) || sscanf(line, "%lld", &quota) != 1) return 0;
    if ((size_t)snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder) >= sizeof path) return 0;
    if (!first_line(path, line, sizeof line) || sscanf(line, "%lld", &period) != 1) return 0;
    return thousandths(quota, period);
}

/* The least quota of a control group and all above it, up to the folder where they are mounted. A container may see the path
 * that its group has outside, and only its own group where groups are mounted: paths that do not exist are skipped. */
static unsigned long least_quota(const char *mount, const char *group)
{
    char folder[PATH_MAX];
    unsigned long least = 0;
    size_t top = strlen(mount);
    if ((size_t)snprintf(folder, sizeof folder, "%s%s", mount, group) >= sizeof folder) return 0;
    for (;;) {
        unsigned long quota = quota_of(folder);
        if (quota && (!least || quota < least)) least = quota;
        char *slash = strrchr(folder, '/');
        if (strlen(folder) <= top || !slash) return least;
        *((size_t)(slash - folder) < top ? folder + top : slash) = 0;
    }
}

unsigned eg_processors_quota(const char *root)
{
    char path[PATH_MAX], line[PATH_MAX], mount[PATH_MAX];
    if ((size_t)snprintf(path, sizeof path, "%s/proc/self/cgroup", root) >= sizeof path) return 0;
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    unsigned long least = 0;
    while (fgets(line, sizeof line, f)) {
        /* ID:CONTROLLERS:PATH; the controllers are empty in version 2. */
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group || group[1] != '/') continue;
        *group++ = 0;
        controllers++;
        bool version1 = !strncmp(controllers, "cpu", 3) && (!controllers[3] || controllers[3] == ',');
        if (*controllers && !version1) continue;
        static const char *const mounts[] = {"", "/unified", "/cpu,cpuacct", "/cpu"};
        for (size_t i = *controllers ? 2 : 0; i < (*controllers ? 4u : 2u); i++) {
            if ((size_t)snprintf(mount, sizeof mount, "%s/sys/fs/cgroup%s", root, mounts[i]) >= sizeof mount) continue;
            unsigned long quota = least_quota(mount, strcmp(group, "/") ? group : "");
            if (quota && (!least || quota < least)) least = quota;
        }
    }
    fclose(f);
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
