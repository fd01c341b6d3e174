/* Hashes the directory of a GGUF file and samples of its data; see digest.h. */
#include "digest.h"

#include "../base/bytes.h"

static uint64_t hash(uint64_t h, const void *data, size_t n)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;   /* FNV-1a */
    return h;
}

static uint64_t hash_number(uint64_t h, uint64_t value, int bytes)
{
    uint8_t little_endian[8];
    eg_bytes_put(little_endian, value, bytes);
    return hash(h, little_endian, (size_t)bytes);
}

/* Copied, since the mapping would bring in the pages around it. */
uint64_t eg_digest_add(uint64_t h, const eg_gguf *file, const uint8_t *at, size_t n)
{
    uint8_t sample[EG_DIGEST_SAMPLE];
    eg_gguf_copy(file, at, n, sample);
    return hash(h, sample, n);
}

uint64_t eg_gguf_digest(const eg_gguf *file, uint64_t samples)
{
    uint64_t h = 0xcbf29ce484222325u, count = eg_gguf_tensor_count(file);
    uint64_t step = samples && samples < count ? count / samples : 1;
    for (uint64_t i = 0; i < count; i++) {
        const eg_gguf_tensor *t = eg_gguf_tensor_at(file, i);
        h = hash(h, t->name.data, t->name.length);
        h = hash_number(h, t->type_id, 4);
        for (int d = 0; d < 4; d++) h = hash_number(h, (uint64_t)t->dims[d], 8);
        if (i % step == 0 && t->data && t->bytes)
            h = eg_digest_add(h, file, t->data + t->bytes / 2,
                              t->bytes - t->bytes / 2 < EG_DIGEST_SAMPLE ? 1 : EG_DIGEST_SAMPLE);
    }
    return h;
}
