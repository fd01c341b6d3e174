/* Opens and closes arenas; see arena.h. */
#define _DEFAULT_SOURCE 1      /* MAP_ANONYMOUS */
#include "arena.h"

#ifdef _WIN32
#include "thread.h"            /* windows.h, as small as possible */
#else
#include <sys/mman.h>
#endif

/* Arenas from this size on have pages of their own. malloc would give the pages of a closed one to the next, and calloc would
 * touch all of them to clear them: a cache for 4,096 tokens would take the memory of 4,096 tokens from the first token on. The
 * address sanitizer sees the ends of blocks of the heap only. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EG_HEAP_ONLY 1
#endif
#endif
#if defined(EG_HEAP_ONLY) || defined(__SANITIZE_ADDRESS__)
static const size_t OWN_PAGES = SIZE_MAX;
#else
static const size_t OWN_PAGES = 1 << 17;
#endif

/* At the begin of an arena's memory. */
typedef struct header {
    size_t mapped;             /* bytes of pages of its own; 0: a block of the heap */
} header;

static header *take_pages(size_t bytes)
{
#ifdef _WIN32
    return VirtualAlloc(NULL, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
#else
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return pages == MAP_FAILED ? NULL : pages;
#endif
}

eg_arena eg_arena_open(size_t bytes, void **block)
{
    enum { BEFORE = sizeof(header) + EG_ARENA_ALIGNMENT };
    header *memory = NULL;
    if (bytes < SIZE_MAX / 2) memory = bytes >= OWN_PAGES ? take_pages(bytes + BEFORE) : calloc(1, bytes + BEFORE);
    *block = memory;
    if (!memory) return (eg_arena){NULL, 0};
    if (bytes >= OWN_PAGES) memory->mapped = bytes + BEFORE;
    uint8_t *begin = (uint8_t *)(memory + 1);
    return (eg_arena){begin + (EG_ARENA_ALIGNMENT - (uintptr_t)begin % EG_ARENA_ALIGNMENT), 0};
}

void eg_arena_close(void *block)
{
    header *memory = block;
    if (!memory) return;
    if (!memory->mapped) free(memory);
#ifdef _WIN32
    else VirtualFree(memory, 0, MEM_RELEASE);
#else
    else munmap(memory, memory->mapped);
#endif
}
