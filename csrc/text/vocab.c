/* Opens a vocabulary: checks the file's metadata and builds the tables of vocab.h. Owns their memory, and the file if it was
 * opened by path. Knows nothing of encoding or decoding.
 *
 * There is one pass over the tokens and one over the merges. Merges are not resolved to ids: the encoder looks them up by the
 * texts of both sides, which saves 1.5 million look-ups here.
 */
#include <stdlib.h>
#include <time.h>

#include "../base/structs.h"
#include "vocab.h"

enum {
    MAX_TOKENS = 1 << 24,
    MAX_MERGES = 1 << 26,
    MAX_PROBES = 4096          /* far more than a half-full table needs: beyond that, the strings are made to collide */
};

/* Gemma 4's markers and their kinds. Some converters give them the type "normal"; then this table decides. */
static const struct {
    const char *text;
    eg_kind kind;
} markers[] = {{"<pad>", EG_KIND_CONTROL},         {"<eos>", EG_KIND_CONTROL},         {"<bos>", EG_KIND_CONTROL},
               {"<unk>", EG_KIND_CONTROL},         {"<mask>", EG_KIND_CONTROL},        {"<|turn>", EG_KIND_CONTROL},
               {"<turn|>", EG_KIND_CONTROL},       {"<|think|>", EG_KIND_CONTROL},     {"<|tool>", EG_KIND_CONTROL},
               {"<tool|>", EG_KIND_CONTROL},       {"<|tool_call>", EG_KIND_USER},     {"<tool_call|>", EG_KIND_USER},
               {"<|tool_response>", EG_KIND_USER}, {"<tool_response|>", EG_KIND_USER}, {"<|\"|>", EG_KIND_USER},
               {"<|channel>", EG_KIND_USER},       {"<channel|>", EG_KIND_USER},       {"<|image>", EG_KIND_CONTROL},
               {"<image|>", EG_KIND_CONTROL},      {"<|image|>", EG_KIND_CONTROL},     {"<|audio>", EG_KIND_CONTROL},
               {"<audio|>", EG_KIND_CONTROL},      {"<|audio|>", EG_KIND_CONTROL},     {"<|video|>", EG_KIND_CONTROL}};

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* Zeroed memory that is counted in heap_bytes; NULL and an error if there is none. */
static void *allocate(eg_tokenizer *t, size_t count, size_t size, eg_error *err)
{
    void *memory = calloc(count ? count : 1, size);
    if (memory) t->heap_bytes += (uint64_t)count * size;
    else eg_fail(err, EG_ERROR_MEMORY, "no memory for a vocabulary table of %llu bytes.", (unsigned long long)count * size);
    return memory;
}

void eg_tokenizer_close(eg_tokenizer *t)
{
    if (!t) return;
    free(t->token_at);
    free(t->merge_at);
    free(t->kinds);
    free(t->token_table.slots);
    free(t->merge_table.slots);
    free(t->specials);
    free(t->suppressed);
    if (t->owned) eg_gguf_close(t->owned);
    free(t);
}

/* ---- values of the file ------------------------------------------------------------------------------------------ */

static bool is_integer(uint32_t type) { return type <= EG_GGUF_I32 || type == EG_GGUF_U64 || type == EG_GGUF_I64; }

/* Reads a token id; *out is untouched if the key is absent. */
static eg_status read_id(const eg_gguf *file, const char *key, uint32_t n_tokens, int32_t *out, eg_error *err)
{
    const eg_gguf_value *value = eg_gguf_find(file, key);
    if (!value) return EG_OK;
    if (value->is_array || !is_integer(value->type))
        return eg_fail(err, EG_ERROR_FORMAT, "%s: %s is not an integer.", eg_gguf_name(file), key);
    double id = eg_gguf_number(value, 0);
    if (!(id >= 0 && id < n_tokens))
        return eg_fail(err, EG_ERROR_FORMAT, "%s: %s is %.0f, outside the vocabulary of %u tokens.", eg_gguf_name(file), key,
                       id, n_tokens);
    *out = (int32_t)id;
    return EG_OK;
}

/* Whether a key is a string with this value. */
static bool is_string(const eg_gguf *file, const char *key, const char *wanted, eg_span *found)
{
    const eg_gguf_value *value = eg_gguf_find(file, key);
    if (!value || value->is_array || value->type != EG_GGUF_STRING) return false;
    const uint8_t *cursor = value->data;
    *found = eg_gguf_next_string(value, &cursor);
    return found->length == strlen(wanted) && !memcmp(found->data, wanted, strlen(wanted));
}

/* The vocabulary is Gemma 4's when its model says so. Some converters (Ollama's) write "llama" there, the name of the
 * SentencePiece vocabularies of old, and "gemma4" into `pre`; with Gemma's merges that is the same vocabulary. */
static eg_status check_model(const eg_gguf *file, eg_error *err)
{
    const char *key = "tokenizer.ggml.model";
    const eg_gguf_value *value = eg_gguf_find(file, key);
    eg_span model = {0}, pre = {0};
    if (!value)
        return eg_fail(err, EG_ERROR_FORMAT, "%s: the key '%s' is missing, so there is no vocabulary.", eg_gguf_name(file),
                       key);
    if (value->is_array || value->type != EG_GGUF_STRING)
        return eg_fail(err, EG_ERROR_FORMAT, "%s: %s is not a string.", eg_gguf_name(file), key);
    if (is_string(file, key, "gemma4", &model)) return EG_OK;
    if (is_string(file, "tokenizer.ggml.pre", "gemma4", &pre) && eg_gguf_find(file, "tokenizer.ggml.merges")) return EG_OK;
    return eg_fail(err, EG_ERROR_UNSUPPORTED, "%s: %s is \"%.*s\"; only \"gemma4\" is supported. This may be no Gemma 4 model.",
                   eg_gguf_name(file), key, model.length < 64 ? (int)model.length : 64, model.data);
}

/* Finds a string array of at most `limit` elements whose offsets fit 32 bits; *out is NULL if it is absent. */
static eg_status find_strings(const eg_gguf *file, const char *key, uint32_t limit, const eg_gguf_value **out, eg_error *err)
{
    const eg_gguf_value *value = *out = eg_gguf_find(file, key);
    if (!value) return EG_OK;
    if (!value->is_array || value->type != EG_GGUF_STRING)
        return eg_fail(err, EG_ERROR_FORMAT, "%s: %s is not an array of strings.", eg_gguf_name(file), key);
    if (value->count > limit || (uint64_t)(value->end - value->data) > UINT32_MAX)
        return eg_fail(err, EG_ERROR_UNSUPPORTED, "%s: %s has %llu elements; at most %u and 4 GiB are supported.",
                       eg_gguf_name(file), key, (unsigned long long)value->count, limit);
    return EG_OK;
}

/* ---- hash tables ------------------------------------------------------------------------------------------------- */

static bool table_create(eg_tokenizer *t, eg_table *table, uint32_t count, eg_error *err)
{
    uint32_t size = 8;
    table->index_mask = 1;
    while (table->index_mask < count) table->index_mask = table->index_mask << 1 | 1;
    while (size / 2 < count) size *= 2;
    table->mask = size - 1;
    table->slots = allocate(t, size, sizeof *table->slots, err);
    return table->slots != NULL;
}

/* Fills a table with the strings of an array, in order. In a table of megabytes every insertion is a cache miss. So the slot
 * is prefetched when a string is added, and the string is inserted after a short queue. */
enum { QUEUE = 16 };

typedef struct filler {
    const eg_table *table;
    const eg_gguf_value *array;
    const uint32_t *at;        /* offset of each string */
    struct {
        uint64_t hash;
        uint32_t index;
    } queue[QUEUE];
    uint32_t n_added, n_inserted;
} filler;

/* Inserts the next string of the queue. Of equal strings the first one stays: the lower id, or the lower rank. False after too
 * many probes. */
static bool insert_next(filler *f)
{
    const eg_table *table = f->table;
    uint64_t hash = f->queue[f->n_inserted % QUEUE].hash;
    uint32_t index = f->queue[f->n_inserted++ % QUEUE].index;
    uint32_t tag = (uint32_t)(hash >> 32) & ~table->index_mask, i = (uint32_t)hash & table->mask, slot;
    for (int probes = 0; (slot = table->slots[i]) != 0; i = (i + 1) & table->mask) {
        if (++probes > MAX_PROBES) return false;
        if ((slot & ~table->index_mask) != tag) continue;
        eg_span old = eg_vocab_string(f->array, f->at[(slot & table->index_mask) - 1]);
        eg_span new = eg_vocab_string(f->array, f->at[index]);
        if (old.length == new.length && !memcmp(old.data, new.data, old.length)) return true;
    }
    table->slots[i] = tag | (index + 1);
    return true;
}

/* Adds the next string, whose hash is `hash`. */
static bool add(filler *f, uint64_t hash)
{
    if (f->n_added - f->n_inserted == QUEUE && !insert_next(f)) return false;
#ifdef __GNUC__
    __builtin_prefetch(&f->table->slots[(uint32_t)hash & f->table->mask], 1);
#endif
    f->queue[f->n_added % QUEUE].hash = hash;
    f->queue[f->n_added % QUEUE].index = f->n_added;
    f->n_added++;
    return true;
}

static bool finish(filler *f)
{
    while (f->n_inserted < f->n_added)
        if (!insert_next(f)) return false;
    return true;
}

static eg_status collision(const eg_gguf *file, const char *key, eg_error *err)
{
    return eg_fail(err, EG_ERROR_FORMAT, "%s: too many strings of %s collide.", eg_gguf_name(file), key);
}

/* ---- the passes of opening --------------------------------------------------------------------------------------- */

static eg_status read_tokens(const eg_gguf *file, eg_tokenizer *t, eg_error *err)
{
    const char *key = "tokenizer.ggml.tokens";
    eg_status status = find_strings(file, key, MAX_TOKENS, &t->tokens, err);
    if (status) return status;
    if (!t->tokens || !t->tokens->count)
        return eg_fail(err, EG_ERROR_FORMAT, "%s: %s is absent or empty.", eg_gguf_name(file), key);
    t->n_tokens = (uint32_t)t->tokens->count;
    if (!(t->token_at = allocate(t, t->n_tokens, sizeof *t->token_at, err)) ||
        !table_create(t, &t->token_table, t->n_tokens, err))
        return EG_ERROR_MEMORY;
    filler fill = {.table = &t->token_table, .array = t->tokens, .at = t->token_at};
    const uint8_t *cursor = t->tokens->data;
    for (uint32_t id = 0; id < t->n_tokens; id++) {
        t->token_at[id] = (uint32_t)(cursor - t->tokens->data);
        eg_span text = eg_gguf_next_string(t->tokens, &cursor);
        if (text.length > EG_TOKEN_MAX)
            return eg_fail(err, EG_ERROR_UNSUPPORTED, "%s: %s[%u] has %llu bytes; at most %d are supported.",
                           eg_gguf_name(file), key, id, (unsigned long long)text.length, EG_TOKEN_MAX);
        if (text.length > t->longest) t->longest = (uint32_t)text.length;
        if (!add(&fill, eg_hash_bytes(t->seed, text.data, text.length))) return collision(file, key, err);
    }
    return finish(&fill) ? EG_OK : collision(file, key, err);
}

static eg_status read_merges(const eg_gguf *file, eg_tokenizer *t, eg_error *err)
{
    const char *key = "tokenizer.ggml.merges";
    eg_status status = find_strings(file, key, MAX_MERGES, &t->merges, err);
    if (status) return status;
    t->n_merges = t->merges ? (uint32_t)t->merges->count : 0;
    if (!(t->merge_at = allocate(t, t->n_merges, sizeof *t->merge_at, err)) ||
        !table_create(t, &t->merge_table, t->n_merges, err))
        return EG_ERROR_MEMORY;
    filler fill = {.table = &t->merge_table, .array = t->merges, .at = t->merge_at};
    const uint8_t *cursor = t->merges ? t->merges->data : NULL;
    for (uint32_t rank = 0; rank < t->n_merges; rank++) {
        t->merge_at[rank] = (uint32_t)(cursor - t->merges->data);
        eg_span text = eg_gguf_next_string(t->merges, &cursor);
        /* the left side has at least one byte, so a space at byte 0 belongs to it */
        const char *space = text.length > 2 ? memchr(text.data + 1, ' ', text.length - 2) : NULL;
        if (!space)
            return eg_fail(err, EG_ERROR_FORMAT, "%s: %s[%u] is not two texts with a space between.", eg_gguf_name(file), key,
                           rank);
        const char *right = space + 1;
        size_t n_left = (size_t)(space - text.data), n_right = text.length - n_left - 1;
        if (text.length - 1 > EG_TOKEN_MAX)
            return eg_fail(err, EG_ERROR_FORMAT, "%s: %s[%u] is longer than any token.", eg_gguf_name(file), key, rank);
        uint64_t left_hash = eg_hash_bytes(t->seed, text.data, n_left);
        if (!add(&fill, eg_hash_pair(left_hash, eg_hash_bytes(t->seed, right, n_right)))) return collision(file, key, err);
        uint32_t bit = (uint32_t)eg_last_key((const uint8_t *)text.data, n_left) << 8 |
                       eg_first_key((const uint8_t *)right, n_right);
        t->junctions[bit >> 5] |= UINT32_C(1) << (bit & 31);
    }
    return finish(&fill) ? EG_OK : collision(file, key, err);
}

int eg_vocab_byte(eg_span text)
{
    int value = 0;
    if (text.length != 6 || memcmp(text.data, "<0x", 3) || text.data[5] != '>') return -1;
    for (int i = 3; i < 5; i++) {
        char c = text.data[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* The kind of every token: the file's type; where that is missing or "normal", the kind that its text has in `markers`. */
static eg_status read_kinds(const eg_gguf *file, eg_tokenizer *t, eg_error *err)
{
    static const uint8_t kind_of_type[7] = {   /* undefined, normal, unknown, control, user-defined, unused, byte */
                                            EG_KIND_NORMAL, EG_KIND_NORMAL, EG_KIND_CONTROL, EG_KIND_CONTROL,
                                            EG_KIND_USER,   EG_KIND_NORMAL, EG_KIND_BYTE};
    const char *key = "tokenizer.ggml.token_type";
    const eg_gguf_value *types = eg_gguf_find(file, key);
    if (types && (!types->is_array || !is_integer(types->type) || types->count != t->n_tokens))
        return eg_fail(err, EG_ERROR_FORMAT, "%s: %s is not an array of %u integers.", eg_gguf_name(file), key, t->n_tokens);
    if (!(t->kinds = allocate(t, t->n_tokens, sizeof *t->kinds, err))) return EG_ERROR_MEMORY;
    for (uint32_t id = 0; types && id < t->n_tokens; id++) {
        double type = eg_gguf_number(types, id);
        if (!(type >= 0 && type <= 6))
            return eg_fail(err, EG_ERROR_UNSUPPORTED, "%s: %s[%u] is %.0f, an unknown type.", eg_gguf_name(file), key, id,
                           type);
        t->kinds[id] = kind_of_type[(int)type];
        if (t->kinds[id] == EG_KIND_BYTE && eg_vocab_byte(eg_vocab_text(t, (int32_t)id)) < 0)
            return eg_fail(err, EG_ERROR_FORMAT, "%s: token %u is of the byte type but not written <0xXX>.", eg_gguf_name(file),
                           id);
    }
    for (size_t i = 0; i < sizeof markers / sizeof *markers; i++) {
        int32_t id = eg_tokenizer_find(t, markers[i].text, strlen(markers[i].text));
        if (id >= 0 && t->kinds[id] == EG_KIND_NORMAL) t->kinds[id] = (uint8_t)markers[i].kind;
    }
    bool complete = true;
    for (int byte = 0; byte < 256; byte++) {
        const char *digits = "0123456789ABCDEF";
        char text[6] = {'<', '0', 'x', digits[byte >> 4], digits[byte & 15], '>'};
        int32_t id = t->byte_ids[byte] = eg_tokenizer_find(t, text, sizeof text);
        if (id < 0) complete = false;
        else t->kinds[id] = EG_KIND_BYTE;
    }
    t->unknown = eg_tokenizer_find(t, "<unk>", 5);
    eg_status status = read_id(file, "tokenizer.ggml.unknown_token_id", t->n_tokens, &t->unknown, err);
    if (!status && !complete && t->unknown < 0)
        status = eg_fail(err, EG_ERROR_FORMAT, "%s: the vocabulary lacks byte tokens and has no <unk> either.",
                         eg_gguf_name(file));
    return status;
}

static int by_text(const void *left, const void *right)
{
    const eg_special *a = left, *b = right;
    size_t shorter = a->text.length < b->text.length ? a->text.length : b->text.length;
    int order = memcmp(a->text.data, b->text.data, shorter);
    if (order) return order;
    if (a->text.length != b->text.length) return a->text.length < b->text.length ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

static eg_status collect_specials(eg_tokenizer *t, eg_error *err)
{
    for (int pass = 0; pass < 2; pass++) {
        uint32_t n = 0;
        for (uint32_t id = 0; id < t->n_tokens; id++) {
            if (t->kinds[id] != EG_KIND_CONTROL && t->kinds[id] != EG_KIND_USER) continue;
            eg_span text = eg_vocab_text(t, (int32_t)id);
            if (!text.length) continue;
            if (pass) t->specials[n] = (eg_special){text, (int32_t)id};
            n++;
        }
        t->n_specials = n;
        if (!pass && !(t->specials = allocate(t, n, sizeof *t->specials, err))) return EG_ERROR_MEMORY;
    }
    qsort(t->specials, t->n_specials, sizeof *t->specials, by_text);
    for (uint32_t byte = 0, i = 0; byte <= 256; byte++) {
        while (i < t->n_specials && (uint8_t)t->specials[i].text.data[0] < byte) i++;
        t->special_begin[byte] = i;
    }
    return EG_OK;
}

static eg_status read_rest(const eg_gguf *file, eg_tokenizer *t, eg_error *err)
{
    int32_t eos = -1, ignored;
    eg_status status;
    t->bos = eg_tokenizer_find(t, "<bos>", 5);
    if ((status = read_id(file, "tokenizer.ggml.bos_token_id", t->n_tokens, &t->bos, err)) ||
        (status = read_id(file, "tokenizer.ggml.eos_token_id", t->n_tokens, &eos, err)) ||
        (status = read_id(file, "tokenizer.ggml.padding_token_id", t->n_tokens, &ignored, err)) ||
        (status = read_id(file, "tokenizer.ggml.mask_token_id", t->n_tokens, &ignored, err)))
        return status;
    t->stop.turn = eg_tokenizer_find(t, "<turn|>", 7);
    t->stop.tool_response = eg_tokenizer_find(t, "<|tool_response>", 16);
    t->stop.eos = eos >= 0 && eos != t->stop.turn && eos != t->stop.tool_response ? eos : eg_tokenizer_find(t, "<eos>", 5);

    const char *key = "tokenizer.ggml.suppress_tokens";
    const eg_gguf_value *value = eg_gguf_find(file, key);
    if (value && value->count) {
        if (!value->is_array || !is_integer(value->type))
            return eg_fail(err, EG_ERROR_FORMAT, "%s: %s is not an array of integers.", eg_gguf_name(file), key);
        if (value->count > t->n_tokens)
            return eg_fail(err, EG_ERROR_FORMAT, "%s: %s has more elements than the vocabulary.", eg_gguf_name(file), key);
        if (!(t->suppressed = allocate(t, (size_t)value->count, sizeof *t->suppressed, err))) return EG_ERROR_MEMORY;
        t->n_suppressed = (size_t)value->count;
        for (size_t i = 0; i < t->n_suppressed; i++) {
            double id = eg_gguf_number(value, i);
            if (!(id >= 0 && id < t->n_tokens))
                return eg_fail(err, EG_ERROR_FORMAT, "%s: %s[%llu] is %.0f, outside the vocabulary of %u tokens.",
                               eg_gguf_name(file), key, (unsigned long long)i, id, t->n_tokens);
            t->suppressed[i] = (int32_t)id;
        }
    }

    key = "tokenizer.chat_template";
    if ((value = eg_gguf_find(file, key))) {
        if (value->is_array || value->type != EG_GGUF_STRING)
            return eg_fail(err, EG_ERROR_FORMAT, "%s: %s is not a string.", eg_gguf_name(file), key);
        const uint8_t *cursor = value->data;
        t->chat_template = eg_gguf_next_string(value, &cursor);
    }
    return EG_OK;
}

/* ---- opening and reading ----------------------------------------------------------------------------------------- */

eg_status eg_tokenizer_create(const eg_gguf *file, eg_tokenizer **out, eg_error *err)
{
    eg_status status = check_model(file, err);
    if (status) return status;
    eg_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return eg_fail(err, EG_ERROR_MEMORY, "no memory for a tokenizer.");
    t->heap_bytes = sizeof *t;
    t->seed = eg_hash_mix((uint64_t)(uintptr_t)t ^ EG_HASH_1, (uint64_t)time(NULL) ^ (uint64_t)clock() << 32 ^ EG_HASH_2);
    if ((status = read_tokens(file, t, err)) || (status = read_kinds(file, t, err)) || (status = read_merges(file, t, err)) ||
        (status = collect_specials(t, err)) || (status = read_rest(file, t, err))) {
        eg_tokenizer_close(t);
        return status;
    }
    *out = t;
    return EG_OK;
}

eg_status eg_tokenizer_open(const eg_file_params *params, eg_tokenizer **out, eg_error *err)
{
    eg_file_params p;
    eg_gguf *file;
    if (!out) return eg_fail(err, EG_ERROR_ARGUMENT, "eg_tokenizer_open: out is NULL.");
    eg_status status = eg_struct_read(params, &p, sizeof p, "eg_file_params", err);
    if (!status) status = eg_gguf_open(p.path, p.fd, p.offset, p.length, true, &file, err);
    if (status) return status;
    eg_tokenizer *t;
    if ((status = eg_tokenizer_create(file, &t, err))) {
        eg_gguf_close(file);
        return status;
    }
    t->owned = file;
    *out = t;
    return EG_OK;
}

uint64_t eg_tokenizer_heap_bytes(const eg_tokenizer *t)
{
    return t->heap_bytes + (t->owned ? eg_gguf_heap_bytes(t->owned) : 0);
}

uint32_t eg_tokenizer_vocab_size(const eg_tokenizer *t) { return t->n_tokens; }

eg_stop eg_tokenizer_stop_of(const eg_tokenizer *t, int32_t id)
{
    return id == t->stop.eos             ? EG_STOP_EOS
           : id == t->stop.turn          ? EG_STOP_TURN
           : id == t->stop.tool_response ? EG_STOP_TOOL_RESPONSE
                                         : EG_STOP_NONE;
}

const int32_t *eg_tokenizer_suppressed(const eg_tokenizer *t, size_t *n)
{
    *n = t->n_suppressed;
    return t->suppressed;
}

int32_t eg_tokenizer_find(const eg_tokenizer *t, const char *text, size_t length)
{
    if (!text) return -1;
    if (length == SIZE_MAX) length = strlen(text);
    return eg_vocab_find(t, text, length, eg_hash_bytes(t->seed, text, length));
}

size_t eg_tokenizer_special_ids(const eg_tokenizer *t, int32_t *ids, size_t capacity)
{
    for (size_t i = 0; ids && i < t->n_specials && i < capacity; i++) ids[i] = t->specials[i].id;
    return t->n_specials;
}

int32_t eg_tokenizer_eos(const eg_tokenizer *t) { return t->stop.eos; }

const char *eg_tokenizer_chat_template(const eg_tokenizer *t, size_t *length)
{
    if (length) *length = t->chat_template.length;
    return t->chat_template.data;
}
