/* Read-only views of files in the address space.
 *
 * Owns the mapping and nothing else: the descriptor is not needed once the view exists. Pages are shared with every
 * other process that reads the file, stay clean, and can be evicted at any time. A file that shrinks while it is mapped
 * takes the process down with it (SIGBUS on POSIX): replace models by renaming, not by writing over them.
 */
#ifndef EG_BASE_MAP_H
#define EG_BASE_MAP_H

#include "status.h"

typedef struct eg_map {
    const uint8_t *data;       /* the bytes asked for; aligned only as well as their offset in the file */
    uint64_t length;
    void *base;                /* what the system gave: data rounded down to its granularity */
    size_t base_length;
} eg_map;

/* Map a whole file, or bytes [offset, offset + length) of an open descriptor (length 0: to its end; any alignment; the
 * descriptor stays the caller's and its position does not matter). `name` is what messages call it. Empty files,
 * directories, pipes and devices are EG_ERROR_FILE; a range outside the file is EG_ERROR_ARGUMENT. */
eg_status eg_map_path(const char *path, const char *name, eg_map *out, eg_error *err);
eg_status eg_map_fd(int fd, uint64_t offset, uint64_t length, const char *name, eg_map *out, eg_error *err);

/* Also of a zeroed eg_map. */
void eg_map_close(eg_map *map);

typedef enum eg_advice {
    EG_ADVICE_NORMAL,          /* the system's usual read-ahead */
    EG_ADVICE_RANDOM,          /* read single pages: no read-ahead */
    EG_ADVICE_WILLNEED,        /* begin to read this range now; does not wait */
    EG_ADVICE_DONTNEED         /* give the whole pages in this range back; they are read again when touched */
} eg_advice;

/* Tells the system about a range of mapped bytes. A hint: never fails, may do nothing. Any thread. */
void eg_map_advise(const void *data, uint64_t length, eg_advice advice);

/* Bytes of this view that are in this process's memory now (its share of the resident set, not the page cache);
 * 0 where the system does not tell. Reads a system file: not for inner loops. */
uint64_t eg_map_resident(const eg_map *map);

#endif
