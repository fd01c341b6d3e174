/* Files by names in UTF-8, on every system. */
#ifndef EG_BASE_PATH_H
#define EG_BASE_PATH_H

#include <stdint.h>
#include <stdio.h>

/* As fopen, for "rb" and "wb"; the descriptor is not inherited by programs that the process starts. NULL, with errno. */
FILE *eg_path_open(const char *path, const char *mode);

/* The file behind a descriptor, from byte `offset` on; for "wb" from where the descriptor is. The descriptor stays the caller's, but
 * its position moves. NULL, with errno. */
FILE *eg_path_open_fd(int fd, uint64_t offset, const char *mode);

/* Renames a file, and replaces one that has the new name. 0, or -1 with errno. */
int eg_path_replace(const char *from, const char *to);

/* Removes a file, if it is there. */
void eg_path_remove(const char *path);

#ifdef _WIN32
#include <wchar.h>

/* A path as Windows has it, in memory that the caller frees; NULL, with the reason for GetLastError(). */
wchar_t *eg_path_wide(const char *path);
#endif

#endif
