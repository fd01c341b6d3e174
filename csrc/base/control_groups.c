/* Finds the control groups of this process; see control_groups.h. */
#define _POSIX_C_SOURCE 200809L
#include "control_groups.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#ifdef __linux__
bool eg_control_group_line(const char *folder, const char *file, char *line, size_t size)
{
    char path[PATH_MAX];
    if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, file) >= sizeof path) return false;
    FILE *f = fopen(path, "re");
    if (!f) return false;
    bool found = fgets(line, (int)size, f) != NULL;
    fclose(f);
    if (found) line[strcspn(line, "\n")] = 0;
    return found;
}

/* The least limit of a group and all above it, up to the folder where they are mounted. A container may see the path that its
 * group has outside, and only its own group where groups are mounted: paths that do not exist are skipped. */
static uint64_t least_of_levels(const char *mount, const char *group, eg_control_group_limit *limit_of)
{
    char folder[PATH_MAX];
    uint64_t least = 0;
    size_t top = strlen(mount);
    if ((size_t)snprintf(folder, sizeof folder, "%s%s", mount, group) >= sizeof folder) return 0;
    for (;;) {
        uint64_t limit = limit_of(folder);
        if (limit && (!least || limit < least)) least = limit;
        char *slash = strrchr(folder, '/');
        if (strlen(folder) <= top || !slash) return least;
        *((size_t)(slash - folder) < top ? folder + top : slash) = 0;
    }
}

/* Whether `name` is in a list such as "cpu,cpuacct". */
static bool is_listed(const char *list, const char *name)
{
    for (size_t n = strlen(name); *list; list += strcspn(list, ","), list += *list == ',')
        if (!strncmp(list, name, n) && (!list[n] || list[n] == ',')) return true;
    return false;
}

uint64_t eg_control_groups_least(const char *root, const char *controller, eg_control_group_limit *limit_of)
{
    char path[PATH_MAX], line[PATH_MAX], mount[PATH_MAX];
    if ((size_t)snprintf(path, sizeof path, "%s/proc/self/cgroup", root) >= sizeof path) return 0;
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    uint64_t least = 0;
    while (fgets(line, sizeof line, f)) {
        /* ID:CONTROLLERS:PATH; the controllers are empty in version 2. */
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group || group[1] != '/') continue;
        *group++ = 0;
        controllers++;
        if (*controllers && !is_listed(controllers, controller)) continue;
        /* A controller of version 1 is mounted under its own name or that of its list. */
        const char *const mounts[] = {*controllers ? controllers : "", *controllers ? controller : "unified"};
        for (size_t i = 0; i < sizeof mounts / sizeof *mounts; i++) {
            if ((size_t)snprintf(mount, sizeof mount, "%s/sys/fs/cgroup%s%s", root, *mounts[i] ? "/" : "", mounts[i]) >=
                sizeof mount)
                continue;
            uint64_t limit = least_of_levels(mount, strcmp(group, "/") ? group : "", limit_of);
            if (limit && (!least || limit < least)) least = limit;
        }
    }
    fclose(f);
    return least;
}
#else
bool eg_control_group_line(const char *folder, const char *file, char *line, size_t size)
{
    (void)folder, (void)file, (void)line, (void)size;
    return false;
}

uint64_t eg_control_groups_least(const char *root, const char *controller, eg_control_group_limit *limit_of)
{
    (void)root, (void)controller, (void)limit_of;
    return 0;
}
#endif
