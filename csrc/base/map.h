/* Read-only memory mappings of files.
 *
 * Owns the mapping, and a descriptor of its own for it: the caller's may be closed once the mapping exists. Pages are shared with every other
 * process that reads the file. They stay clean, so the system can evict them at any time. What happens when the disk fails, or a
 * mapped file is cut short, is a matter of guard.h.
 */
#ifndef EG_BASE_MAP_H
#define EG_BASE_MAP_H

#include <stdbool.h>

#include "status.h"

typedef struct eg_map {
    const uint8_t *data;       /* the bytes asked for; aligned only as well as their offset in the file */
    uint64_t length;
    void *base;                /* start of the mapping: data rounded down to the system's granularity */
    size_t base_length;
    intptr_t reader;           /* an open file of its own: descriptor + 1, or a HANDLE; 0 without */
    uint64_t offset;           /* of base in that file */
    int guard;                 /* guard.h */
} eg_map;

/* Map a whole file, or bytes [offset, offset + length) of an open descriptor: any alignment, and length 0 means to the end of
 * the file. The descriptor stays the caller's, and its position does not matter. Error messages call the file `name`. Empty
 * files, directories, pipes and devices are EG_ERROR_FILE; a range outside the file is EG_ERROR_ARGUMENT. */
eg_status eg_map_path(const char *path, const char *name, eg_map *out, eg_error *err);
eg_status eg_map_fd(int fd, uint64_t offset, uint64_t length, const char *name, eg_map *out, eg_error *err);

/* Whether there is something at this path, whatever it is. */
bool eg_map_exists(const char *path);

/* Removes the mapping. A zeroed eg_map is allowed. */
void eg_map_close(eg_map *map);

/* Copies length bytes of the mapping from `at` on. They are read through the file, so that their pages do not count as memory of
 * this process; where that fails, through the mapping. Any thread. */
void eg_map_copy(const eg_map *map, const uint8_t *at, size_t length, void *out);

/* Guards the pages from `from`, which is in the mapping, to its end against a disk that fails, and no others. */
void eg_map_guard(eg_map *map, const uint8_t *from);
void eg_map_unguard(eg_map *map);

/* Whether a guarded page could not be read: it and all behind it are zeros then. */
bool eg_map_failed(const eg_map *map);

typedef enum eg_advice {
    EG_ADVICE_NORMAL, /* the system's usual read-ahead */
    EG_ADVICE_RANDOM, /* read single pages: no read-ahead, no huge pages */
    EG_ADVICE_SMALL, /* the usual read-ahead, no huge pages */
    EG_ADVICE_WILLNEED, /* begin to read this range now; does not wait */
    EG_ADVICE_DONTNEED /* release the whole pages in this range; the next access reads them again */
} eg_advice;

/* Tells the system about a range of mapped bytes. A hint: never fails, may do nothing. Any thread. */
void eg_map_advise(const void *data, uint64_t length, eg_advice advice);

/* Reads a range of mapped bytes from the disk and waits for it: all of it is asked for at once, so that the disk has many
 * requests to work on, where page faults would ask for one piece at a time. False if the disk failed. Any thread. */
bool eg_map_read(const void *data, uint64_t length);

/* Gives the whole pages of a range of this mapping back: the next access reads them again. Without `drop` the system may keep
 * them in its page cache; with it they leave the cache too, unless another process has them mapped. A hint: never fails. */
void eg_map_release(const eg_map *map, const void *data, uint64_t length, bool drop);

/* Whether all pages of a range are in memory, as far as the system tells. Any thread. */
bool eg_map_is_present(const void *data, uint64_t length);

/* Bytes of this mapping in the process's resident set (not in the page cache); 0 where the system does not say. Slow, because
 * it reads a file in /proc. */
uint64_t eg_map_resident(const eg_map *map);

#endif
