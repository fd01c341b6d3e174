/* Snapshots: a session's timeline and KV cache in a file, in memory, or behind a descriptor.
 *
 * All numbers are little endian, floats in their IEEE 754 bits. A snapshot is
 *
 *     magic         8 bytes "EGSNAP\r\n": the line end shows a transfer as text, which would damage all that follows
 *     version       u32, of this format
 *     fields        as in struct header, in the order of transfer_header
 *     tokens        i32 [length]
 *     embedding, x  f32 [hidden] each, of the last evaluated token
 *     K and V       for each layer that owns them, for each position that the session still needs, in order: the rows of K
 *                   of all heads, then those of V. A row is f16 [head_dim], f32 [head_dim], or for q8 i8 [head_dim, rounded
 *                   up to 4] and f32 [head_dim / 32, rounded up]
 *     hash          u64 of everything before it
 *
 * A file is written beside the target and renamed, so that a failure leaves an older file as it was.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/numbers.h"
#include "../base/bytes.h"
#include "../base/path.h"
#include "timeline.h"

static const uint8_t MAGIC[8] = {'E', 'G', 'S', 'N', 'A', 'P', '\r', '\n'};
enum { VERSION = 2, CHUNK = 4096 };

typedef struct header {
    uint32_t kv;               /* eg_kv_type */
    uint64_t fingerprint;      /* of the model */
    uint64_t context, length, evaluated, high;   /* as in struct eg_session, */
    uint32_t picture;          /* like this */
    uint64_t random;           /* state of the sampler */
    uint32_t has_last;         /* 1: embedding and x are known; else 0 */
    uint32_t n_held;           /* bytes of an incomplete character that the detokenizer holds, 0 to 3 */
    uint8_t held[4];           /* [n_held], then zeros */
} header;

typedef struct stream {
    FILE *file;                /* NULL: memory */
    uint8_t *memory;           /* [left]; NULL without a file: bytes are counted alone */
    uint64_t left;             /* bytes of the file or memory that may be moved */
    uint64_t moved;
    bool writing, failed;
    uint64_t hash;
} stream;

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

/* Moves n bytes between data and what the stream stands for, and hashes them. */
static void transfer_bytes(stream *s, uint8_t *data, size_t n)
{
    if (s->failed || !n) return;
    s->moved += n;
    if (!s->file && !s->memory) return;
    s->failed = n > s->left;
    if (s->failed) return;
    s->left -= n;
    if (s->memory) {
        memcpy(s->writing ? s->memory : data, s->writing ? data : s->memory, n);
        s->memory += n;
    } else {
        s->failed = (s->writing ? fwrite(data, 1, n, s->file) : fread(data, 1, n, s->file)) != n;
        if (s->failed) return;
    }
    uint64_t h = s->hash;
    for (; n >= 8; n -= 8, data += 8) {
        h = (h ^ eg_bytes_get(data, 8)) * 0x100000001b3u;
        h ^= h >> 32;
    }
    for (; n; n--) h = (h ^ *data++) * 0x100000001b3u;
    s->hash = h;
}

static void transfer_u32(stream *s, uint32_t *value)
{
    uint8_t bytes[4];
    eg_bytes_put(bytes, *value, 4);
    transfer_bytes(s, bytes, 4);
    *value = (uint32_t)eg_bytes_get(bytes, 4);
}

static void transfer_u64(stream *s, uint64_t *value)
{
    uint8_t bytes[8];
    eg_bytes_put(bytes, *value, 8);
    transfer_bytes(s, bytes, 8);
    *value = eg_bytes_get(bytes, 8);
}

static bool is_big_endian(void)
{
    const uint16_t one = 1;
    uint8_t first;
    memcpy(&first, &one, 1);
    return first == 0;
}

/* n numbers of `width` bytes at `data`, which are in the byte order of the machine. */
static void transfer_numbers(stream *s, void *data, size_t n, size_t width)
{
    uint8_t *at = data, bytes[CHUNK];
    if (width == 1 || !is_big_endian()) {
        transfer_bytes(s, at, n * width);
        return;
    }
    for (size_t left = n * width, count; left && !s->failed; left -= count, at += count) {
        count = left < CHUNK ? left : CHUNK;
        for (size_t i = 0; i < count; i++) bytes[i] = at[i / width * width + width - 1 - i % width];
        transfer_bytes(s, bytes, count);
        for (size_t i = 0; i < count; i++) at[i / width * width + width - 1 - i % width] = bytes[i];
    }
}

/* ---- parts of the file ------------------------------------------------------------------------------------------- */

static void transfer_header(stream *s, header *h)
{
    transfer_u32(s, &h->kv);
    transfer_u64(s, &h->fingerprint);
    transfer_u64(s, &h->context);
    transfer_u64(s, &h->length);
    transfer_u64(s, &h->evaluated);
    transfer_u64(s, &h->high);
    transfer_u32(s, &h->picture);
    transfer_u64(s, &h->random);
    transfer_u32(s, &h->has_last);
    transfer_u32(s, &h->n_held);
    transfer_bytes(s, h->held, sizeof h->held);
}

/* The rows of K or V of all heads at one position. */
static void transfer_slot(stream *f, eg_kv_type format, const eg_layer_cache *layer, int64_t head_dim, uint8_t *slot)
{
    size_t n = (size_t)head_dim, codes = format == EG_KV_Q8 ? (n + 3) / 4 * 4 : 0;
    for (size_t at = 0; at < layer->slot_bytes; at += layer->row_bytes) {
        if (format == EG_KV_F16) transfer_numbers(f, slot + at, n, 2);
        else if (format == EG_KV_F32) transfer_numbers(f, slot + at, n, 4);
        else {
            transfer_numbers(f, slot + at, codes, 1);
            transfer_numbers(f, slot + at + codes, (n + 31) / 32, 4);
        }
    }
}

/* Everything between the header and the hash. first_of: the oldest position of each layer in the file. */
static void transfer_body(stream *f, eg_session *s, const int64_t *first_of)
{
    const eg_config *c = &s->model->config;
    const eg_cache *cache = &s->cache;
    transfer_numbers(f, s->tokens, (size_t)s->length, sizeof *s->tokens);
    transfer_numbers(f, s->last.embedding, (size_t)c->hidden, sizeof(float));
    transfer_numbers(f, s->last.x, (size_t)c->hidden, sizeof(float));
    for (int32_t l = 0; l < c->kv_layers; l++) {
        const eg_layer_cache *layer = &cache->layer[l];
        for (int64_t p = first_of[l]; p < s->evaluated; p++) {
            size_t slot = (size_t)(p % layer->capacity) * layer->slot_bytes;
            transfer_slot(f, cache->format, layer, c->layer[l].head_dim, layer->k + slot);
            transfer_slot(f, cache->format, layer, c->layer[l].head_dim, layer->v + slot);
        }
    }
}

/* The oldest position of each layer that its ring still holds after `high` positions. */
static void oldest_of(const eg_session *s, int64_t high, int64_t *first_of)
{
    for (int32_t l = 0; l < s->model->config.kv_layers; l++) first_of[l] = eg_larger(high - s->cache.layer[l].capacity, 0);
}

/* ---- saving ------------------------------------------------------------------------------------------------------ */

/* Writes the snapshot; false when the file system has failed, and errno tells why. */
static bool write_all(stream f, eg_session *s, uint64_t *size)
{
    uint8_t magic[sizeof MAGIC];
    uint32_t version = VERSION;
    header h = {.kv = s->cache.format,
                .fingerprint = eg_model_fingerprint(s->model),
                .context = (uint64_t)s->context,
                .length = (uint64_t)s->length,
                .evaluated = (uint64_t)s->evaluated,
                .high = (uint64_t)s->high,
                .picture = (uint32_t)s->picture,
                .random = s->random,
                .has_last = s->last.valid,
                .n_held = s->detokenizer.n_held};
    memcpy(h.held, s->detokenizer.held, h.n_held);
    int64_t first_of[EG_MAX_LAYERS];
    oldest_of(s, s->high, first_of);
    memcpy(magic, MAGIC, sizeof magic);
    f.writing = true;
    transfer_bytes(&f, magic, sizeof magic);
    transfer_u32(&f, &version);
    transfer_header(&f, &h);
    transfer_body(&f, s, first_of);
    uint64_t hash = f.hash;
    transfer_u64(&f, &hash);
    *size = f.moved;
    return !f.failed;
}

/* Makes the session one that can be saved. */
static eg_status prepare(eg_session *s, eg_error *err)
{
    eg_status status = eg_session_audio_check_closed(s, err);
    if (!status && s->waiting_soft) {   /* a snapshot has no place for rows of embeddings */
        status = eg_timeline_begin(s, 0, err);
        if (!status) status = eg_timeline_end(s, eg_timeline_settle(s, err));
    }
    if (!status && !s->last.valid) eg_timeline_forget_logits(s);
    return status;
}

eg_status eg_session_save(eg_session *s, const char *path, eg_error *err)
{
    uint64_t size;
    if (!s || !path) return eg_fail(err, EG_ERROR_ARGUMENT, "session or path is NULL.");
    eg_status status = prepare(s, err);
    if (status) return status;
    size_t n = strlen(path) + 6;
    char *temporary = malloc(n);
    if (!temporary) return eg_fail(err, EG_ERROR_MEMORY, "out of memory.");
    snprintf(temporary, n, "%s.part", path);
    FILE *file = eg_path_open(temporary, "wb");
    bool done = file && write_all((stream){.file = file, .left = UINT64_MAX}, s, &size);
    if (file && fclose(file)) done = false;
    if (done) done = eg_path_replace(temporary, path) == 0;
    if (!done) {
        status = eg_fail(err, EG_ERROR_FILE, "%s: could not be written: %s.", path, strerror(errno));
        eg_path_remove(temporary);
    }
    free(temporary);
    return status;
}

eg_status eg_session_save_to_memory(eg_session *s, void *bytes, size_t capacity, size_t *size, eg_error *err)
{
    uint64_t needed;
    if (!s || !size || (!bytes && capacity)) return eg_fail(err, EG_ERROR_ARGUMENT, "session, bytes or size is NULL.");
    eg_status status = prepare(s, err);
    if (status) return status;
    write_all((stream){0}, s, &needed);
    if (needed > SIZE_MAX)
        return eg_fail(err, EG_ERROR_MEMORY, "a snapshot of %llu bytes does not fit the address space.",
                       (unsigned long long)needed);
    if (needed <= capacity) write_all((stream){.memory = bytes, .left = needed}, s, &needed);
    *size = (size_t)needed;
    return EG_OK;
}

eg_status eg_session_save_to_fd(eg_session *s, int fd, eg_error *err)
{
    uint64_t size;
    if (!s) return eg_fail(err, EG_ERROR_ARGUMENT, "session is NULL.");
    eg_status status = prepare(s, err);
    if (status) return status;
    FILE *file = eg_path_open_fd(fd, 0, "wb");
    bool done = file && write_all((stream){.file = file, .left = UINT64_MAX}, s, &size);
    if (file && fclose(file)) done = false;
    return done ? EG_OK
                : eg_fail(err, EG_ERROR_FILE, "descriptor %d: the snapshot could not be written: %s.", fd, strerror(errno));
}

/* ---- restoring --------------------------------------------------------------------------------------------------- */

/* Reads and checks everything before the tokens. */
static eg_status read_header(stream *f, const eg_model *model, const char *path, header *h, eg_error *err)
{
    uint8_t magic[sizeof MAGIC] = {0};
    uint32_t version = 0;
    transfer_bytes(f, magic, sizeof magic);
    if (f->failed || memcmp(magic, MAGIC, sizeof magic))
        return eg_fail(err, EG_ERROR_FORMAT, "%s: this is no session snapshot.", path);
    transfer_u32(f, &version);
    if (!f->failed && version != VERSION)
        return eg_fail(err, EG_ERROR_UNSUPPORTED,
                       "%s: the snapshot has version %u of the format, but this version of the library reads version %d alone.",
                       path, (unsigned)version, VERSION);
    transfer_header(f, h);
    if (f->failed) return eg_fail(err, EG_ERROR_FORMAT, "%s: the snapshot is cut short.", path);
    if (h->fingerprint != eg_model_fingerprint(model))
        return eg_fail(err, EG_ERROR_FORMAT, "%s: saved with another model file; open it with the one it was saved with.",
                       path);
    const struct {
        const char *field;
        bool valid;
    } checks[] = {
        {"kv", h->kv <= EG_KV_Q8},
        {"context", h->context >= 1 && h->context <= (uint64_t)model->config.context},
        {"length", h->length <= h->context},
        {"evaluated", h->evaluated <= h->length},
        {"high", h->high >= h->evaluated && h->high <= h->context},
        {"picture", h->picture >= 1 && h->picture <= EG_PICTURE},
        {"has_last", h->has_last <= (h->evaluated > 0)},
        {"n_held", h->n_held < sizeof h->held},
    };
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++)
        if (!checks[i].valid)
            return eg_fail(err, EG_ERROR_FORMAT, "%s: the snapshot is damaged: its field '%s' is out of range.", path,
                           checks[i].field);
    return EG_OK;
}

static bool tokens_are_valid(const eg_session *s)
{
    for (int64_t i = 0; i < s->length; i++)
        if (s->tokens[i] < (i < s->evaluated ? -1 : 0) || s->tokens[i] >= s->model->config.vocab) return false;
    return true;
}

static bool at_end(const stream *f) { return !f->left || (f->file && fgetc(f->file) == EOF); }

/* Fills the empty session s from the file behind its header; `saved` has rings of the size that the file was saved from. */
static bool read_body(stream *f, const header *h, const eg_session *saved, eg_session *s)
{
    int64_t first_of[EG_MAX_LAYERS];
    oldest_of(saved, (int64_t)h->high, first_of);
    s->length = (int64_t)h->length;
    s->evaluated = s->high = (int64_t)h->evaluated;
    s->last = (eg_last){h->has_last, -1, s->evaluated - 1, s->last.embedding, s->last.x};
    s->random = h->random;
    s->detokenizer.n_held = h->n_held;
    memcpy(s->detokenizer.held, h->held, h->n_held);
    /* Rings of another size remember no more than those of the file did. */
    for (int32_t l = 0; l < s->model->config.kv_layers; l++)
        if (first_of[l] > 0) s->high = eg_larger(s->high, first_of[l] + s->cache.layer[l].capacity);
    transfer_body(f, s, first_of);
    if (s->last.valid) s->last.id = s->tokens[s->evaluated - 1];
    uint64_t computed = f->hash, stored = 0;
    transfer_u64(f, &stored);
    return !f->failed && stored == computed && at_end(f) && tokens_are_valid(s);
}

/* name: where the snapshot is, for sentences. */
static eg_status restore(eg_model *model, stream f, const char *name, uint32_t context, eg_session **out, eg_error *err)
{
    header h = {0};
    eg_status status = read_header(&f, model, name, &h, err);
    if (status) return status;
    if (context && h.length > context)
        return eg_fail(err, EG_ERROR_CONTEXT, "%s: holds %llu tokens, more than a context of %u.", name,
                       (unsigned long long)h.length, context);
    eg_session *saved = NULL, *s = NULL;
    eg_session_params params = {.context = (uint32_t)h.context, .kv = (eg_kv_type)h.kv, .picture = h.picture};
    status = eg_session_create(model, &params, &saved, err);
    if (context) params.context = context;
    if (!status) status = eg_session_create(model, &params, &s, err);
    if (!status && !read_body(&f, &h, saved, s))
        status = eg_fail(err, EG_ERROR_FORMAT, "%s: the snapshot is damaged or cut short.", name);
    eg_session_close(saved);
    if (status) eg_session_close(s);
    else *out = s;
    return status;
}

eg_status eg_session_restore(eg_model *model, const char *path, uint32_t context, eg_session **out, eg_error *err)
{
    if (!model || !path || !out) return eg_fail(err, EG_ERROR_ARGUMENT, "model, path or out is NULL.");
    FILE *file = eg_path_open(path, "rb");
    if (!file) return eg_fail(err, EG_ERROR_FILE, "%s: could not be opened: %s.", path, strerror(errno));
    eg_status status = restore(model, (stream){.file = file, .left = UINT64_MAX}, path, context, out, err);
    fclose(file);
    return status;
}

eg_status eg_session_restore_from_memory(eg_model *model, const void *bytes, size_t size, uint32_t context, eg_session **out,
                                         eg_error *err)
{
    if (!model || !bytes || !out) return eg_fail(err, EG_ERROR_ARGUMENT, "model, bytes or out is NULL.");
    const stream f = {.memory = (uint8_t *)bytes, .left = size};   /* which is read alone */
    return restore(model, f, "snapshot in memory", context, out, err);
}

eg_status eg_session_restore_from_fd(eg_model *model, int fd, uint64_t offset, uint64_t length, uint32_t context,
                                     eg_session **out, eg_error *err)
{
    char name[40];
    if (!model || !out) return eg_fail(err, EG_ERROR_ARGUMENT, "model or out is NULL.");
    snprintf(name, sizeof name, "descriptor %d", fd);
    FILE *file = eg_path_open_fd(fd, offset, "rb");
    if (!file) return eg_fail(err, EG_ERROR_FILE, "%s: could not be read: %s.", name, strerror(errno));
    const stream f = {.file = file, .left = length ? length : UINT64_MAX};
    eg_status status = restore(model, f, name, context, out, err);
    fclose(file);
    return status;
}
