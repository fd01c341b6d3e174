/* Fuzzes the tokenizer. The first byte of the input says what the rest is:
 *   0  flags, text: encoded with a tiny vocabulary, decoded, compared
 *   1  flags, 16-bit ids: decoded whole and piecewise
 *   2  a GGUF file: its vocabulary is opened, and used if it is accepted */
#include "memory_map.h"

#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUIRE(condition) \
    do { \
        if (!(condition)) abort(); \
    } while (0)

enum { MAX_TEXT = 1 << 16 };

static eg_gguf *tiny_file;
static eg_tokenizer *tiny;

/* The seed named `vocabulary` is the tiny vocabulary behind a mode byte. */
static void open_tiny(void)
{
    static uint8_t bytes[MAX_TEXT];
    FILE *file = fopen(EG_FUZZ_VOCABULARY, "rb");
    REQUIRE(file);
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    REQUIRE(size > 1 && size < sizeof bytes);
    eg_error err = {.struct_size = sizeof err};
    if (eg_gguf_open(memory_map_set(bytes + 1, size - 1), -1, 0, 0, true, &tiny_file, &err) ||
        eg_tokenizer_create(tiny_file, &tiny, &err)) {
        fprintf(stderr, "%s\n", err.message);
        abort();
    }
}

/* Allocations are exact, so that the address sanitizer sees a write past a capacity. */
static void *exact(size_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);
    REQUIRE(memory);
    return memory;
}

/* Decodes whole, again with too little room, and token by token; returns the text, of *length bytes. */
static char *decode(const eg_tokenizer *t, const int32_t *ids, size_t n, uint32_t flags, size_t *length)
{
    size_t again;
    REQUIRE(!eg_tokenizer_decode(t, ids, n, flags, NULL, 0, length, NULL));
    char *text = exact(*length), *half = exact(*length / 2);
    REQUIRE(!eg_tokenizer_decode(t, ids, n, flags, text, *length, &again, NULL) && again == *length);
    REQUIRE(!eg_tokenizer_decode(t, ids, n, flags, half, *length / 2, &again, NULL) && again == *length);
    REQUIRE(memcmp(text, half, *length / 2) == 0);
    free(half);

    eg_detokenizer state = {0};
    size_t capacity = eg_tokenizer_piece_capacity(t), total = 0;
    char *piece = exact(capacity);
    for (size_t i = 0; i < n; i++) {
        size_t wrote = eg_detokenizer_push(&state, t, ids[i], flags, piece);
        REQUIRE(wrote <= capacity && state.n_held < 4);
        total += wrote;
    }
    free(piece);
    piece = exact(12);
    size_t wrote = eg_detokenizer_flush(&state, piece);
    REQUIRE(wrote <= 12 && total + wrote >= *length);   /* longer by the replacement characters */
    free(piece);
    return text;
}

static void encode_and_back(const eg_tokenizer *t, const char *data, size_t length, uint32_t flags, bool lossless)
{
    char *text = exact(length);
    memcpy(text, data, length);
    size_t n, again;
    eg_error err = {.struct_size = sizeof err};
    eg_status status = eg_tokenizer_encode(t, text, length, flags, NULL, 0, &n, &err);
    if (status) {
        REQUIRE(err.status == status && !lossless);
        free(text);
        return;
    }
    int32_t *ids = exact(n * sizeof *ids), *half = exact(n / 2 * sizeof *ids);
    REQUIRE(!eg_tokenizer_encode(t, text, length, flags, ids, n, &again, &err) && again == n);
    REQUIRE(!eg_tokenizer_encode(t, text, length, flags, half, n / 2, &again, &err) && again == n);
    REQUIRE(memcmp(ids, half, n / 2 * sizeof *ids) == 0);
    free(half);
    for (size_t i = 0; i < n; i++) REQUIRE(ids[i] >= 0 && (uint32_t)ids[i] < eg_tokenizer_vocab_size(t));
    size_t back_length;
    char *back = decode(t, ids, n, EG_TEXT_SPECIAL, &back_length);
    bool marked = false;       /* U+2581 comes back as a space */
    for (size_t i = 0; i + 3 <= length; i++) marked = marked || memcmp(text + i, "\xe2\x96\x81", 3) == 0;
    if (lossless && !marked && !(flags & EG_TEXT_BOS)) REQUIRE(back_length == length && memcmp(back, text, length) == 0);
    free(back);
    free(ids);
    free(text);
}

static void decode_ids(const eg_tokenizer *t, const uint8_t *data, size_t size, uint32_t flags)
{
    size_t n = size / 2, length;
    int32_t *ids = exact(n * sizeof *ids);
    for (size_t i = 0; i < n; i++) ids[i] = (int16_t)(data[2 * i] | data[2 * i + 1] << 8);
    eg_error err = {.struct_size = sizeof err};
    eg_status status = eg_tokenizer_decode(t, ids, n, flags, NULL, 0, &length, &err);
    uint32_t vocab = eg_tokenizer_vocab_size(t);
    bool inside = true;
    for (size_t i = 0; i < n; i++) {
        inside = inside && ids[i] >= 0 && (uint32_t)ids[i] < vocab;
        ids[i] = (int32_t)((uint32_t)ids[i] % vocab);
    }
    REQUIRE((status == EG_OK) == inside);
    free(decode(t, ids, n, flags, &length));
    free(ids);
}

static void open_vocabulary(const uint8_t *data, size_t size)
{
    eg_error err = {.struct_size = sizeof err};
    eg_gguf *file;
    eg_tokenizer *tokenizer;
    if (eg_gguf_open(memory_map_set(data, size), -1, 0, 0, true, &file, &err)) return;
    if (!eg_tokenizer_create(file, &tokenizer, &err)) {
        static const char sample[] = "<bos><|turn>user\nhello  world\xff\xe6\x97\xa5 abab<turn|>";
        for (uint32_t flags = 0; flags < 4; flags++) encode_and_back(tokenizer, sample, sizeof sample - 1, flags, false);
        int32_t vocab = (int32_t)eg_tokenizer_vocab_size(tokenizer);
        int stops = 0;
        for (int32_t id = 0; id < vocab; id++) stops += eg_tokenizer_stop_of(tokenizer, id) != EG_STOP_NONE;
        REQUIRE(vocab > 0 && stops <= 3 && eg_tokenizer_eos(tokenizer) < vocab);
        REQUIRE(eg_tokenizer_find(tokenizer, "ab", 2) < vocab && eg_tokenizer_heap_bytes(tokenizer) > 0);
        size_t length = 0;
        const char *template = eg_tokenizer_chat_template(tokenizer, &length);
        unsigned sum = 0;
        for (size_t i = 0; template && i < length; i++) sum += (unsigned char)template[i];
        REQUIRE(sum <= length * 255);
        size_t pieces_length, again;
        REQUIRE(!eg_tokenizer_get_pieces(tokenizer, EG_TEXT_SPECIAL, NULL, 0, NULL, &pieces_length, NULL));
        uint8_t *pieces = exact(pieces_length);
        uint64_t *offsets = exact(((size_t)vocab + 1) * sizeof *offsets);
        REQUIRE(!eg_tokenizer_get_pieces(tokenizer, EG_TEXT_SPECIAL, pieces, pieces_length, offsets, &again, NULL));
        REQUIRE(again == pieces_length && offsets[0] == 0 && offsets[vocab] == pieces_length);
        free(pieces);
        free(offsets);
        decode_ids(tokenizer, data, size < 2000 ? size : 2000, sum & 1);
        int32_t ids[64];
        size_t n_special = eg_tokenizer_special_ids(tokenizer, ids, 64);
        for (size_t i = 0; i < n_special && i < 64; i++) REQUIRE(ids[i] >= 0 && ids[i] < vocab);
        const int32_t eos = eg_tokenizer_eos(tokenizer);
        REQUIRE(n_special <= (size_t)vocab && (eos < 0 || eg_tokenizer_stop_of(tokenizer, eos) == EG_STOP_EOS));
        for (int32_t first = 0; first < vocab && first < 4096; first += 64) {
            size_t n = (size_t)(vocab - first < 64 ? vocab - first : 64), written;
            for (size_t i = 0; i < n; i++) ids[i] = first + (int32_t)i;
            free(decode(tokenizer, ids, n, EG_TEXT_SPECIAL, &written));
        }
        eg_tokenizer_close(tokenizer);
    } else {
        REQUIRE(err.message[0]);
    }
    eg_gguf_close(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!tiny) open_tiny();
    if (size < 2) return 0;
    uint32_t flags = data[1] & 3u;
    if (data[0] == 0) encode_and_back(tiny, (const char *)data + 2, size - 2, flags, true);
    else if (data[0] == 1) decode_ids(tiny, data + 2, size - 2, flags);
    else if (data[0] == 2) open_vocabulary(data + 1, size - 1);
    return 0;
}
