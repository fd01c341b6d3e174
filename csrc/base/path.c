/* Files by names in UTF-8; see path.h. */
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64
#include "path.h"

#ifndef _WIN32
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

FILE *eg_path_open(const char *path, const char *mode)
{
    int fd;
    do {
        fd = open(path, (*mode == 'w' ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY) | O_CLOEXEC, 0666);
    } while (fd < 0 && errno == EINTR);
    FILE *file = fd < 0 ? NULL : fdopen(fd, mode);
    if (!file && fd >= 0) close(fd);
    return file;
}

FILE *eg_path_open_fd(int fd, uint64_t offset, const char *mode)
{
    const off_t at = (off_t)offset;
    if (at < 0 || (uint64_t)at != offset) {
        errno = EINVAL;
        return NULL;
    }
    const int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    FILE *file = own < 0 || (*mode == 'r' && lseek(own, at, SEEK_SET) < 0) ? NULL : fdopen(own, mode);
    if (!file && own >= 0) {
        const int why = errno;
        close(own);
        errno = why;
    }
    return file;
}

int eg_path_replace(const char *from, const char *to) { return rename(from, to); }

void eg_path_remove(const char *path) { unlink(path); }

#else
#include "thread.h"            /* windows.h, as small as possible */

#include <errno.h>
#include <fcntl.h>
#include <io.h>
#include <stdlib.h>

wchar_t *eg_path_wide(const char *path)
{
    int units = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, NULL, 0);
    if (units <= 0) return NULL;
    wchar_t *wide = malloc((size_t)units * sizeof *wide);
    if (wide) MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, units);
    else SetLastError(ERROR_NOT_ENOUGH_MEMORY);
    return wide;
}

FILE *eg_path_open(const char *path, const char *mode)
{
    wchar_t *wide = eg_path_wide(path);
    FILE *file = wide ? _wfopen(wide, *mode == 'w' ? L"wbN" : L"rbN") : NULL;
    if (!wide) errno = EILSEQ;
    free(wide);
    return file;
}

FILE *eg_path_open_fd(int fd, uint64_t offset, const char *mode)
{
    if (offset > INT64_MAX) {
        errno = EINVAL;
        return NULL;
    }
    const int own = _dup(fd);
    if (own >= 0) _setmode(own, _O_BINARY);
    FILE *file = own < 0 || (*mode == 'r' && _lseeki64(own, (int64_t)offset, SEEK_SET) < 0) ? NULL : _fdopen(own, mode);
    if (!file && own >= 0) {
        const int why = errno;
        _close(own);
        errno = why;
    }
    return file;
}

int eg_path_replace(const char *from, const char *to)
{
    wchar_t *old = eg_path_wide(from), *new = eg_path_wide(to);
    BOOL done = old && new && MoveFileExW(old, new, MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH);
    if (!done) errno = old && new ? EACCES : EILSEQ;
    free(old);
    free(new);
    return done ? 0 : -1;
}

void eg_path_remove(const char *path)
{
    wchar_t *wide = eg_path_wide(path);
    if (wide) DeleteFileW(wide);
    free(wide);
}
#endif
