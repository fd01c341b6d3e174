/* The pages of an open GGUF file: which are in memory, what is given back, and what a failing disk leaves. */
#include <string.h>

#include "gguf_file.h"

static bool holds(const eg_map *map, const void *data)
{
    return (uintptr_t)data >= (uintptr_t)map->data && (uintptr_t)data < (uintptr_t)map->data + map->length;
}

void eg_gguf_guard(eg_gguf *file)
{
    for (size_t i = 0; i < file->n_maps; i++) {
        const uint8_t *first = file->maps[i].data + file->maps[i].length;
        for (size_t k = 0; k < file->tensors.count; k++) {
            const uint8_t *data = file->tensors.items[k].data;
            if (data && holds(&file->maps[i], data) && data < first) first = data;
        }
        eg_map_guard(&file->maps[i], first);
    }
    if (file->joined) eg_gguf_guard(file->joined);
}

bool eg_gguf_failed(const eg_gguf *file)
{
    bool failed = atomic_load(&file->failed) || (file->joined && eg_gguf_failed(file->joined));
    for (size_t i = 0; i < file->n_maps; i++) failed |= eg_map_failed(&file->maps[i]);
    return failed;
}

void eg_gguf_fail(eg_gguf *file) { atomic_store(&file->failed, true); }

eg_status eg_gguf_check(const eg_gguf *file, eg_error *err)
{
    if (!eg_gguf_failed(file)) return EG_OK;
    if (file->joined && eg_gguf_failed(file->joined)) return eg_gguf_check(file->joined, err);
    return eg_fail(err, EG_ERROR_FILE,
                   "%s: a part of the file could not be read: the disk failed, or the file was cut short while it was in use.",
                   file->name);
}

void eg_gguf_release(const eg_gguf *file, const void *data, uint64_t length, bool drop)
{
    for (const eg_map *map = file->maps; map < file->maps + file->n_maps; map++)
        if (!data) eg_map_release(map, map->data, map->length, drop);
        else if (holds(map, data)) eg_map_release(map, data, length, drop);
    if (file->joined) eg_gguf_release(file->joined, data, length, drop);
}

uint64_t eg_gguf_mapped_bytes(const eg_gguf *file)
{
    uint64_t total = file->joined ? eg_gguf_mapped_bytes(file->joined) : 0;
    for (size_t i = 0; i < file->n_maps; i++) total += file->maps[i].length;
    return total;
}

uint64_t eg_gguf_resident_bytes(const eg_gguf *file)
{
    uint64_t total = file->joined ? eg_gguf_resident_bytes(file->joined) : 0;
    for (size_t i = 0; i < file->n_maps; i++) total += eg_map_resident(&file->maps[i]);
    return total;
}

void eg_gguf_copy(const eg_gguf *file, const uint8_t *at, size_t length, void *out)
{
    for (size_t i = 0; i < file->n_maps; i++)
        if (holds(&file->maps[i], at)) {
            eg_map_copy(&file->maps[i], at, length, out);
            return;
        }
    memcpy(out, at, length);
}
