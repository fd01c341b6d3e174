/* File views: POSIX first, Windows below. See map.h. */
#ifndef _WIN32
#define _FILE_OFFSET_BITS 64   /* files above 2 GiB on 32-bit systems */
#define _DEFAULT_SOURCE 1      /* madvise */
#define _DARWIN_C_SOURCE 1
#endif

#include "map.h"

#include <string.h>

#include "guard.h"

void eg_map_unguard(eg_map *map)
{
    eg_guard_remove(map->guard);
    map->guard = EG_GUARD_NONE;
}

bool eg_map_failed(const eg_map *map) { return eg_guard_failed(map->guard); }

/* Checks that bytes [offset, offset + *length) are inside a file of `size` bytes. A *length of 0 becomes the rest of it. */
static eg_status check_range(uint64_t size, uint64_t offset, uint64_t *length, const char *name, eg_error *err)
{
    if (size == 0) return eg_fail(err, EG_ERROR_FILE, "%s: the file is empty.", name);
    if (offset >= size || *length > size - offset)
        return eg_fail(err, EG_ERROR_ARGUMENT,
                       "%s: %llu bytes from byte %llu on were asked for, but the file has only "
                       "%llu bytes.",
                       name, (unsigned long long)*length, (unsigned long long)offset, (unsigned long long)size);
    if (*length == 0) *length = size - offset;
    return EG_OK;
}

static eg_status too_large(uint64_t length, const char *name, eg_error *err)
{
    return eg_fail(err, EG_ERROR_MEMORY, "%s: %llu bytes do not fit into the address space of this process.", name,
                   (unsigned long long)length);
}

#ifndef _WIN32

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static eg_status system_fail(eg_error *err, const char *name, const char *what, int code)
{
    char text[128] = "";
    if (strerror_r(code, text, sizeof text) != 0 || !text[0]) snprintf(text, sizeof text, "error %d", code);
    return eg_fail(err, code == ENOMEM ? EG_ERROR_MEMORY : EG_ERROR_FILE, "%s: cannot %s: %s.", name, what, text);
}

static size_t page_size(void)
{
    long size = sysconf(_SC_PAGESIZE);
    return size > 0 ? (size_t)size : 4096;
}

/* Read-only pages of a file, or MAP_FAILED. Some file systems share no pages (FUSE with direct I/O, mergerfs without a cache,
 * some network folders) but map private ones, which are the same for those who only read. */
static void *map_pages(int fd, size_t length, off_t offset)
{
    void *base = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, offset);
    if (base == MAP_FAILED && errno != ENOMEM) base = mmap(NULL, length, PROT_READ, MAP_PRIVATE, fd, offset);
    return base;
}

static eg_status map_fail(eg_error *err, const char *name, int code)
{
    if (code == ENODEV || code == EACCES || code == EINVAL || code == EPERM)
        return eg_fail(err, EG_ERROR_FILE,
                       "%s: the file system does not let this file be mapped into memory; copy it to a local disk.", name);
    return system_fail(err, name, "map the file", code);
}

eg_status eg_map_fd(int fd, uint64_t offset, uint64_t length, const char *name, eg_map *out, eg_error *err)
{
    struct stat info;
    if (fstat(fd, &info) != 0) return system_fail(err, name, "look at the file", errno);
    if (S_ISDIR(info.st_mode)) return system_fail(err, name, "map the file", EISDIR);
    if (!S_ISREG(info.st_mode))
        return eg_fail(err, EG_ERROR_FILE, "%s: this is a %s; only a regular file can be mapped.", name,
                       S_ISFIFO(info.st_mode)   ? "pipe"
                       : S_ISSOCK(info.st_mode) ? "socket"
                                                : "device");
    eg_status status = check_range((uint64_t)info.st_size, offset, &length, name, err);
    if (status) return status;
    size_t before = (size_t)(offset % page_size());
    if (length > SIZE_MAX - before) return too_large(length, name, err);
    size_t base_length = (size_t)length + before;
    void *base = map_pages(fd, base_length, (off_t)(offset - before));
    if (base == MAP_FAILED) return map_fail(err, name, errno);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    int saved = errno;
    /* Asks for huge pages: fewer TLB misses for what is read into the page cache from now on. */
    (void)madvise(base, base_length, MADV_HUGEPAGE);
    errno = saved;
#endif
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    *out = (eg_map){.data = (const uint8_t *)base + before,
                    .length = length,
                    .base = base,
                    .base_length = base_length,
                    .reader = own < 0 ? 0 : own + 1,
                    .offset = offset - before,
                    .guard = EG_GUARD_NONE};
    return EG_OK;
}

eg_status eg_map_path(const char *path, const char *name, eg_map *out, eg_error *err)
{
    int fd;
    do {
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);   /* NONBLOCK: a pipe must not wait for its writer */
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) return system_fail(err, name, "open the file", errno);
    eg_status status = eg_map_fd(fd, 0, 0, name, out, err);
    close(fd);
    return status;
}

bool eg_map_exists(const char *path) { return access(path, F_OK) == 0; }

void eg_map_guard(eg_map *map, const uint8_t *from)
{
    const uintptr_t page = page_size(), begin = (uintptr_t)from / page * page, end = (uintptr_t)map->base + map->base_length;
    eg_map_unguard(map);
    if (begin < end) map->guard = eg_guard_add((void *)begin, end - begin);
}

void eg_map_close(eg_map *map)
{
    if (map->base) eg_map_unguard(map);
    if (map->base) munmap(map->base, map->base_length);
    if (map->reader) close((int)map->reader - 1);
    memset(map, 0, sizeof *map);
}

void eg_map_copy(const eg_map *map, const uint8_t *at, size_t length, void *out)
{
    size_t done = 0;
    int saved = errno;
    while (map->reader && done < length) {
        off_t from = (off_t)(map->offset + (uint64_t)(at - (const uint8_t *)map->base) + done);
        ssize_t n = pread((int)map->reader - 1, (uint8_t *)out + done, length - done, from);
        if (n > 0) done += (size_t)n;
        else if (n == 0 || errno != EINTR) break;
    }
    errno = saved;
    memcpy((uint8_t *)out + done, at + done, length - done);
}

/* The whole pages in a range, or all pages that it touches. */
typedef struct pages {
    uintptr_t begin, end;
} pages;

static pages pages_in(const void *data, uint64_t length)
{
    uintptr_t page = page_size(), begin = (uintptr_t)data, end = begin + (uintptr_t)length;
    pages in = {(begin + page - 1) / page * page, end / page * page};
    if (in.end < in.begin) in.end = in.begin;
    return in;
}

static pages pages_around(const void *data, uint64_t length)
{
    uintptr_t page = page_size(), begin = (uintptr_t)data, end = begin + (uintptr_t)length;
    return (pages){begin / page * page, length ? (end + page - 1) / page * page : begin / page * page};
}

void eg_map_advise(const void *data, uint64_t length, eg_advice advice)
{
    const pages p = advice == EG_ADVICE_DONTNEED ? pages_in(data, length) : pages_around(data, length);
    if (p.end <= p.begin) return;
    int saved = errno;
    (void)madvise((void *)p.begin, p.end - p.begin,
                  advice == EG_ADVICE_RANDOM     ? MADV_RANDOM
                  : advice == EG_ADVICE_WILLNEED ? MADV_WILLNEED
                  : advice == EG_ADVICE_DONTNEED ? MADV_DONTNEED
                                                 : MADV_NORMAL);
#ifdef MADV_NOHUGEPAGE
    if (advice == EG_ADVICE_RANDOM || advice == EG_ADVICE_SMALL)
        (void)madvise((void *)p.begin, p.end - p.begin, MADV_NOHUGEPAGE);
#endif
    errno = saved;
}

enum { ASKED = 128 << 10 }; /* bytes that one call may ask for on every system: Linux cuts off what its read-ahead forbids */

/* Touches every page. */
static void touch(pages p)
{
    for (uintptr_t at = p.begin, page = page_size(); at < p.end; at += page) (void)*(const volatile uint8_t *)at;
}

bool eg_map_read(const void *data, uint64_t length)
{
    const pages p = pages_around(data, length);
    int saved = errno;
    bool good = true;
    for (uintptr_t at = p.begin; at < p.end; at += ASKED)
        (void)madvise((void *)at, p.end - at < ASKED ? p.end - at : ASKED, MADV_WILLNEED);
#ifdef __linux__
    enum { POPULATE_READ = 22 }; /* MADV_POPULATE_READ of Linux 5.14, which older headers lack */
    int result;
    do {
        result = p.end > p.begin ? madvise((void *)p.begin, p.end - p.begin, POPULATE_READ) : 0;
    } while (result && (errno == EINTR || errno == EAGAIN));
    if (result && errno == EINVAL) touch(p);
    else good = !result;
#else
    touch(p);
#endif
    errno = saved;
    return good;
}

void eg_map_release(const eg_map *map, const void *data, uint64_t length, bool drop)
{
    const pages p = pages_in(data, length);
    if (p.end <= p.begin) return;
    int saved = errno;
    (void)madvise((void *)p.begin, p.end - p.begin, MADV_DONTNEED);
#ifdef POSIX_FADV_DONTNEED
    if (drop && map->reader)
        (void)posix_fadvise((int)map->reader - 1, (off_t)(map->offset + (p.begin - (uintptr_t)map->base)),
                            (off_t)(p.end - p.begin), POSIX_FADV_DONTNEED);
#else
    (void)map, (void)drop;
#endif
    errno = saved;
}

bool eg_map_is_present(const void *data, uint64_t length)
{
#ifdef __linux__
    enum { CHUNK = 1024 }; /* pages */
    unsigned char state[CHUNK];
    const pages p = pages_around(data, length);
    const uintptr_t page = page_size();
    for (uintptr_t at = p.begin; at < p.end; at += CHUNK * page) {
        const size_t n = p.end - at < CHUNK * page ? (p.end - at) / page : CHUNK;
        if (mincore((void *)at, n * page, state)) return true;
        for (size_t i = 0; i < n; i++)
            if (!(state[i] & 1)) return false;
    }
#else
    (void)data, (void)length;
#endif
    return true;
}

uint64_t eg_map_resident(const eg_map *map)
{
#ifdef __linux__
    FILE *file = map->base ? fopen("/proc/self/smaps", "re") : NULL;
    if (!file) return 0;
    uint64_t begin = (uintptr_t)map->base, end = begin + map->base_length, overlap = 0, total = 0;
    char line[512];
    bool at_start = true; /* of a line: what follows a long file name is not an entry */
    while (fgets(line, sizeof line, file)) {
        unsigned long long from, to, kilobytes;
        if (at_start && sscanf(line, "%llx-%llx ", &from, &to) == 2) {
            uint64_t first = from > begin ? from : begin, last = to < end ? to : end;
            overlap = last > first ? last - first : 0;
        } else if (at_start && overlap && sscanf(line, "Rss: %llu", &kilobytes) == 1) {
            total += kilobytes * 1024 < overlap ? kilobytes * 1024 : overlap;
        }
        at_start = strchr(line, '\n') != NULL;
    }
    fclose(file);
    return total < map->length ? total : map->length;
#else
    (void)map;
    return 0;
#endif
}

#else /* _WIN32 */

#include "path.h"
#include "thread.h"            /* windows.h, as small as possible */

#include <io.h>
#include <stdio.h>
#include <stdlib.h>

static eg_status system_fail(eg_error *err, const char *name, const char *what, DWORD code)
{
    wchar_t wide[200];
    char text[600];
    DWORD n = FormatMessageW(FORMAT_MESSAGE_FROM_SYSTEM | FORMAT_MESSAGE_IGNORE_INSERTS, NULL, code, 0, wide, 200, NULL);
    while (n && (wide[n - 1] == L'\r' || wide[n - 1] == L'\n' || wide[n - 1] == L'.' || wide[n - 1] == L' ')) n--;
    int bytes = n ? WideCharToMultiByte(CP_UTF8, 0, wide, (int)n, text, sizeof text - 1, NULL, NULL) : 0;
    if (bytes > 0) text[bytes] = 0;
    else snprintf(text, sizeof text, "error %lu", (unsigned long)code);
    return eg_fail(err, code == ERROR_NOT_ENOUGH_MEMORY ? EG_ERROR_MEMORY : EG_ERROR_FILE, "%s: cannot %s: %s.", name, what,
                   text);
}

static eg_status map_handle(HANDLE file, uint64_t offset, uint64_t length, const char *name, eg_map *out, eg_error *err)
{
    LARGE_INTEGER size;
    if (GetFileType(file) != FILE_TYPE_DISK)
        return eg_fail(err, EG_ERROR_FILE, "%s: this is a pipe or a device; only a regular file can be mapped.", name);
    if (!GetFileSizeEx(file, &size)) return system_fail(err, name, "look at the file", GetLastError());
    eg_status status = check_range((uint64_t)size.QuadPart, offset, &length, name, err);
    if (status) return status;
    SYSTEM_INFO system;
    GetSystemInfo(&system);
    size_t before = (size_t)(offset % system.dwAllocationGranularity);
    if (length > SIZE_MAX - before) return too_large(length, name, err);
    size_t base_length = (size_t)length + before;
    uint64_t start = offset - before;
    HANDLE section = CreateFileMappingW(file, NULL, PAGE_READONLY, 0, 0, NULL);
    if (!section) return system_fail(err, name, "map the file", GetLastError());
    void *base = MapViewOfFile(section, FILE_MAP_READ, (DWORD)(start >> 32), (DWORD)start, base_length);
    DWORD code = GetLastError();
    CloseHandle(section);      /* the view keeps it alive */
    if (!base) return system_fail(err, name, "map the file", code);
    HANDLE own = NULL, self = GetCurrentProcess();
    if (!DuplicateHandle(self, file, self, &own, 0, FALSE, DUPLICATE_SAME_ACCESS)) own = NULL;
    *out = (eg_map){.data = (const uint8_t *)base + before,
                    .length = length,
                    .base = base,
                    .base_length = base_length,
                    .reader = (intptr_t)own,
                    .offset = start,
                    .guard = EG_GUARD_NONE};
    return EG_OK;
}

eg_status eg_map_fd(int fd, uint64_t offset, uint64_t length, const char *name, eg_map *out, eg_error *err)
{
    intptr_t handle = fd < 0 ? -1 : _get_osfhandle(fd);
    if (handle == -1 || handle == -2) return system_fail(err, name, "look at the file", ERROR_INVALID_HANDLE);
    return map_handle((HANDLE)handle, offset, length, name, out, err);
}

bool eg_map_exists(const char *path)
{
    wchar_t *wide = eg_path_wide(path);
    bool exists = wide && GetFileAttributesW(wide) != INVALID_FILE_ATTRIBUTES;
    free(wide);
    return exists;
}

eg_status eg_map_path(const char *path, const char *name, eg_map *out, eg_error *err)
{
    wchar_t *wide = eg_path_wide(path);
    if (!wide) return system_fail(err, name, "open the file", GetLastError());
    DWORD attributes = GetFileAttributesW(wide);
    bool directory = attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_DIRECTORY);
    HANDLE file = directory ? INVALID_HANDLE_VALUE
                            : CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, NULL, OPEN_EXISTING,
                                          FILE_ATTRIBUTE_NORMAL, NULL);
    const DWORD code = directory ? ERROR_SUCCESS : GetLastError();
    free(wide);
    if (directory) return eg_fail(err, EG_ERROR_FILE, "%s: cannot map the file: Is a directory.", name);
    if (file == INVALID_HANDLE_VALUE) return system_fail(err, name, "open the file", code);
    eg_status status = map_handle(file, 0, 0, name, out, err);
    CloseHandle(file);
    return status;
}

void eg_map_guard(eg_map *map, const uint8_t *from) { (void)map, (void)from; }

void eg_map_close(eg_map *map)
{
    if (map->base) UnmapViewOfFile(map->base);
    if (map->reader) CloseHandle((HANDLE)map->reader);
    memset(map, 0, sizeof *map);
}

void eg_map_copy(const eg_map *map, const uint8_t *at, size_t length, void *out)
{
    uint64_t from = map->offset + (uint64_t)(at - (const uint8_t *)map->base);
    OVERLAPPED place = {.Offset = (DWORD)from, .OffsetHigh = (DWORD)(from >> 32)};
    DWORD done = 0;
    if (!map->reader || length > MAXDWORD || !ReadFile((HANDLE)map->reader, out, (DWORD)length, &done, &place)) done = 0;
    memcpy((uint8_t *)out + done, at + done, length - done);
}

void eg_map_advise(const void *data, uint64_t length, eg_advice advice)
{
    if (length == 0) return;
    if (advice == EG_ADVICE_WILLNEED) {
        WIN32_MEMORY_RANGE_ENTRY range = {(void *)(uintptr_t)data, (SIZE_T)length};
        PrefetchVirtualMemory(GetCurrentProcess(), 1, &range, 0);
    } else if (advice == EG_ADVICE_DONTNEED) {
        /* Pages that were never locked leave the working set: what MADV_DONTNEED is elsewhere. */
        VirtualUnlock((void *)(uintptr_t)data, (SIZE_T)length);
    }
}

bool eg_map_read(const void *data, uint64_t length)
{
    eg_map_advise(data, length, EG_ADVICE_WILLNEED);
    for (uint64_t at = 0; at < length; at += 4096) (void)*((const volatile uint8_t *)data + at);
    return true;
}

void eg_map_release(const eg_map *map, const void *data, uint64_t length, bool drop)
{
    (void)map, (void)drop;
    eg_map_advise(data, length, EG_ADVICE_DONTNEED);
}

bool eg_map_is_present(const void *data, uint64_t length)
{
    (void)data, (void)length;
    return true;
}

uint64_t eg_map_resident(const eg_map *map)
{
    (void)map;
    return 0;
}

#endif
