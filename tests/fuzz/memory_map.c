/* See memory_map.h. */
#include "memory_map.h"

#include "base/map.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    const uint8_t *data;
    size_t size;
} parts[MAX_PARTS];
static unsigned n_parts;
static char first_path[40];

const char *memory_map_set(const uint8_t *data, size_t size)
{
    n_parts = 1;
    parts[0].data = data;
    parts[0].size = size;
    for (size_t i = 4; i + 4 <= size && n_parts < MAX_PARTS; i++) {
        if (memcmp(data + i, "GGUF", 4) != 0) continue;
        parts[n_parts - 1].size = (size_t)(data + i - parts[n_parts - 1].data);
        parts[n_parts].data = data + i;
        parts[n_parts++].size = size - i;
    }
    snprintf(first_path, sizeof first_path, "part-00001-of-%05u.gguf", n_parts);
    return first_path;
}

eg_status eg_map_path(const char *path, const char *name, eg_map *out, eg_error *err)
{
    unsigned part, count;
    if (sscanf(path, "part-%5u-of-%5u.gguf", &part, &count) != 2 || part == 0 || part > n_parts)
        return eg_fail(err, EG_ERROR_FILE, "%s: there is no such file.", name);
    size_t size = parts[part - 1].size, shift = size & 1;   /* every other view is as misaligned as can be */
    if (size == 0) return eg_fail(err, EG_ERROR_FILE, "%s: the file is empty.", name);
    uint8_t *copy = malloc(size + shift);
    if (!copy) return eg_fail(err, EG_ERROR_MEMORY, "%s: out of memory.", name);
    memcpy(copy + shift, parts[part - 1].data, size);
    *out = (eg_map){.data = copy + shift, .length = size, .base = copy, .base_length = size + shift};
    return EG_OK;
}

eg_status eg_map_fd(int fd, uint64_t offset, uint64_t length, const char *name, eg_map *out, eg_error *err)
{
    (void)fd, (void)offset, (void)length, (void)out;
    return eg_fail(err, EG_ERROR_FILE, "%s: descriptors are not fuzzed.", name);
}

void eg_map_close(eg_map *map)
{
    free(map->base);
    memset(map, 0, sizeof *map);
}

void eg_map_advise(const void *data, uint64_t length, eg_advice advice) { (void)data, (void)length, (void)advice; }

bool eg_map_exists(const char *path)
{
    (void)path;
    return false;
}

void eg_map_copy(const eg_map *map, const uint8_t *at, size_t length, void *out)
{
    (void)map;
    memcpy(out, at, length);
}

void eg_map_guard(eg_map *map, const uint8_t *from) { (void)map, (void)from; }

void eg_map_unguard(eg_map *map) { (void)map; }

bool eg_map_failed(const eg_map *map)
{
    (void)map;
    return false;
}

void eg_map_release(const eg_map *map, const void *data, uint64_t length, bool drop)
{
    (void)map, (void)data, (void)length, (void)drop;
}

uint64_t eg_map_resident(const eg_map *map) { return map->length; }
