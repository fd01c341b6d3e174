/* Preloaded into a process: a file system that cannot share mappings. With EG_NO_MAP it cannot map files at all. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/types.h>

typedef void *map(void *, size_t, int, int, int, off_t);

static void *refuse(const char *name, void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    map *real = (map *)dlsym(RTLD_NEXT, name);
    /* Libraries are mapped privately and executable; only plain data is refused. */
    if (fd >= 0 && ((flags & MAP_SHARED) || (getenv("EG_NO_MAP") && protection == PROT_READ && length > 1000000))) {
        errno = ENODEV;
        return MAP_FAILED;
    }
    return real(address, length, protection, flags, fd, offset);
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    return refuse("mmap", address, length, protection, flags, fd, offset);
}

void *mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    return refuse("mmap64", address, length, protection, flags, fd, offset);
}
