/* Limits that the control groups of this process set (Linux, versions 1 and 2). Reads files; owns nothing. */
#ifndef EG_BASE_CONTROL_GROUPS_H
#define EG_BASE_CONTROL_GROUPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The limit that one group sets, whose files are in `folder`; 0 for none. */
typedef uint64_t eg_control_group_limit(const char *folder);

/* The least limit of the groups that this process is in and of all above them; 0 for none. `controller` is "cpu" or "memory";
 * `root` precedes every path: "" but in tests. */
uint64_t eg_control_groups_least(const char *root, const char *controller, eg_control_group_limit *limit_of);

/* The first line of a group's file without its line break; false if there is none. */
bool eg_control_group_line(const char *folder, const char *file, char *line, size_t size);

#endif
