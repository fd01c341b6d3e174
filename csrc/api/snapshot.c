/* Snapshots: a session's timeline and KV cache in a file.
 *
 * Layout (native byte order and floats, which all supported machines share): header; tokens i32[length];
 * last_embedding f32[d]; last_x f32[d]; then for each KV-owning layer the slots of K and of V of the positions that the
 * session needs, in order; at the end the FNV-1a hash of all before it. Written beside the target and renamed, so a failure
 * leaves an older file as it was.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "objects.h"

typedef struct header {
    char magic[8];
    uint64_t fingerprint;      /* of the model */
    uint32_t kv;               /* eg_kv_type */
    uint32_t has_last;
    int64_t context, length, evaluated, high;
    uint64_t random;
    eg_detokenizer detokenizer;
} header;

static const char MAGIC[8] = "EGSNAP1";

typedef struct stream {
    FILE *file;
    bool writing, failed;
    uint64_t hash;
} stream;

/* Moves n bytes between memory and the file, and hashes them. */
static void transfer(stream *s, void *data, size_t n)
{
    if (s->failed || !n) return;
    s->failed = (s->writing ? fwrite(data, 1, n, s->file) : fread(data, 1, n, s->file)) != n;
    if (s->failed) return;
    uint64_t h = s->hash;
    const uint8_t *p = data;
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        h = (h ^ word) * 0x100000001b3u;
        h ^= h >> 32;
    }
    for (; n; n--) h = (h ^ *p++) * 0x100000001b3u;
    s->hash = h;
}

/* First position of a layer that was still in its ring when `high` positions had been evaluated. */
static int64_t oldest(int64_t high, int64_t capacity) { return high > capacity ? high - capacity : 0; }

/* Everything after the header. first_of: the oldest position of each layer in the file. */
static void transfer_body(stream *f, eg_session *s, const int64_t *first_of)
{
    const eg_config *c = &s->model->config;
    transfer(f, s->tokens, (size_t)s->length * sizeof *s->tokens);
    transfer(f, s->last_embedding, (size_t)c->hidden * sizeof(float));
    transfer(f, s->last_x, (size_t)c->hidden * sizeof(float));
    for (int32_t l = 0; l < c->kv_layers; l++) {
        const eg_layer_cache *y = &s->decoder.cache.layer[l];
        for (int64_t p = first_of[l]; p < s->evaluated; p++) {
            transfer(f, y->k + (size_t)(p % y->capacity) * y->slot_bytes, y->slot_bytes);
            transfer(f, y->v + (size_t)(p % y->capacity) * y->slot_bytes, y->slot_bytes);
        }
    }
}

static void oldest_of(const eg_session *s, int64_t high, int64_t *first_of)
{
    for (int32_t l = 0; l < s->model->config.kv_layers; l++) first_of[l] = oldest(high, s->decoder.cache.layer[l].capacity);
}

eg_status eg_session_save(eg_session *s, const char *path, eg_error *err)
{
    if (!s || !path) return eg_fail(err, EG_ERROR_ARGUMENT, "session or path is NULL.");
    eg_status status = eg_session_audio_check_closed(s, err);
    if (!status && s->waiting_soft) {   /* whose rows a snapshot has no place for */
        eg_session_begin(s);
        status = eg_session_end(s, eg_session_settle(s, err));
    }
    if (status) return status;
    size_t n = strlen(path) + 6;
    char *temporary = malloc(n);
    if (!temporary) return eg_fail(err, EG_ERROR_MEMORY, "out of memory");
    snprintf(temporary, n, "%s.part", path);
    stream f = {.file = fopen(temporary, "wb"), .writing = true};
    f.failed = !f.file;
    header h = {.fingerprint = eg_model_fingerprint(s->model),
                .kv = s->decoder.cache.format,
                .has_last = s->has_last,
                .context = s->context,
                .length = s->length,
                .evaluated = s->evaluated,
                .high = s->high,
                .random = s->sampler.state,
                .detokenizer = s->detokenizer};
    memcpy(h.magic, MAGIC, sizeof h.magic);
    int64_t first_of[EG_MAX_LAYERS];
    oldest_of(s, s->high, first_of);
    transfer(&f, &h, sizeof h);
    transfer_body(&f, s, first_of);
    uint64_t hash = f.hash;
    transfer(&f, &hash, sizeof hash);
    if (f.file && fclose(f.file)) f.failed = true;
    if (!f.failed) f.failed = rename(temporary, path) != 0;
    if (f.failed) {
        status = eg_fail(err, EG_ERROR_FILE, "%s: could not be written: %s.", path, strerror(errno));
        remove(temporary);
    }
    free(temporary);
    return status;
}

static eg_status check_header(const eg_model *model, const header *h, const char *path, eg_error *err)
{
    if (memcmp(h->magic, MAGIC, sizeof h->magic))
        return eg_fail(err, EG_ERROR_FORMAT, "%s: not a session snapshot of this version.", path);
    if (h->fingerprint != eg_model_fingerprint(model))
        return eg_fail(err, EG_ERROR_FORMAT, "%s: saved with another model file; open it with the one it was saved with.",
                       path);
    if (h->kv > EG_KV_Q8 || h->context < 1 || h->context > model->config.context || h->length < 0 || h->length > h->context ||
        h->evaluated < 0 || h->evaluated > h->length || h->high < h->evaluated || h->high > h->context ||
        h->detokenizer.n_held >= sizeof h->detokenizer.held)
        return eg_fail(err, EG_ERROR_FORMAT, "%s: the snapshot is damaged.", path);
    return EG_OK;
}

static eg_status restore(eg_model *model, FILE *file, const char *path, uint32_t context, eg_session **out, eg_error *err)
{
    stream f = {.file = file};
    header h;
    transfer(&f, &h, sizeof h);
    if (f.failed) return eg_fail(err, EG_ERROR_FORMAT, "%s: the file is too short for a session snapshot.", path);
    eg_status status = check_header(model, &h, path, err);
    if (status) return status;
    if (context && h.length > (int64_t)context)
        return eg_fail(err, EG_ERROR_CONTEXT, "%s: holds %lld tokens, more than a context of %u.", path, (long long)h.length,
                       context);
    eg_session *saved = NULL, *s = NULL;   /* `saved` is not filled: it tells how large the rings were */
    status = eg_session_create(model, h.context, (eg_kv_type)h.kv, &saved, err);
    if (!status) status = eg_session_create(model, context ? context : h.context, (eg_kv_type)h.kv, &s, err);
    if (!status) {
        int64_t first_of[EG_MAX_LAYERS];
        oldest_of(saved, h.high, first_of);
        s->length = h.length;
        s->evaluated = s->high = h.evaluated;
        s->has_last = h.has_last;
        s->sampler.state = h.random;
        s->detokenizer = h.detokenizer;
        /* Rings of another size remember no more than those of the file did. */
        for (int32_t l = 0; l < model->config.kv_layers; l++)
            if (first_of[l] > 0 && first_of[l] + s->decoder.cache.layer[l].capacity > s->high)
                s->high = first_of[l] + s->decoder.cache.layer[l].capacity;
        transfer_body(&f, s, first_of);
        uint64_t computed = f.hash, stored = 0;
        transfer(&f, &stored, sizeof stored);
        bool bad = f.failed || stored != computed || fgetc(file) != EOF;
        for (int64_t i = 0; i < s->length && !bad; i++)
            bad = s->tokens[i] < -1 || s->tokens[i] >= model->config.vocab || (i >= s->evaluated && s->tokens[i] < 0);
        if (bad) status = eg_fail(err, EG_ERROR_FORMAT, "%s: the snapshot is damaged or cut short.", path);
    }
    eg_session_close(saved);
    if (status) eg_session_close(s);
    else *out = s;
    return status;
}

eg_status eg_session_restore(eg_model *model, const char *path, uint32_t context, eg_session **out, eg_error *err)
{
    if (!model || !path || !out) return eg_fail(err, EG_ERROR_ARGUMENT, "model, path or out is NULL.");
    FILE *file = fopen(path, "rb");
    if (!file) return eg_fail(err, EG_ERROR_FILE, "%s: could not be opened: %s.", path, strerror(errno));
    eg_status status = restore(model, file, path, context, out, err);
    fclose(file);
    return status;
}
