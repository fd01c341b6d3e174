/* Fuzzes the GGUF reader and the public eg_file_* functions: any bytes must give a file that can be walked to its last
 * byte, or an error with a whole sentence. Input: one file, or the parts of a split one behind each other. */
#include "memory_map.h"

#include "format/gguf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define REQUIRE(condition) \
    do { \
        if (!(condition)) abort(); \
    } while (0)

static volatile unsigned sink;   /* keeps the reads */

static void touch(const void *data, uint64_t length)
{
    const uint8_t *bytes = data;
    unsigned sum = 0;
    for (uint64_t i = 0; i < length; i++) sum += bytes[i];
    sink += sum;
}

/* Printable UTF-8 that ends in a full stop. */
static void check_message(const eg_error *err, eg_status status)
{
    size_t length = strnlen(err->message, sizeof err->message);
    REQUIRE(err->status == status && length > 10 && length < sizeof err->message);
    REQUIRE(err->message[length - 1] == '.' || length > 400);
    for (size_t i = 0; i < length; i++) REQUIRE((unsigned char)err->message[i] >= 0x20 && err->message[i] != 0x7f);
}

static void walk_value(const eg_gguf *file, const eg_gguf_value *value)
{
    touch(value->key.data, value->key.length);
    touch(value->data, (uint64_t)(value->end - value->data));
    if (value->type == EG_GGUF_STRING) {
        const uint8_t *cursor = value->data;
        for (uint64_t i = 0; i < value->count; i++) {
            eg_span text = eg_gguf_next_string(value, &cursor);
            touch(text.data, text.length);
        }
        REQUIRE(cursor == value->end);
    } else {
        for (uint64_t i = 0; i < value->count; i++)
            if (eg_gguf_number(value, i) > 0) sink++;
    }
    if (!memchr(value->key.data, 0, value->key.length)) {
        char key[256];
        if (value->key.length < sizeof key) {
            memcpy(key, value->key.data, value->key.length);
            key[value->key.length] = 0;
            REQUIRE(eg_gguf_find(file, key) == value);
        }
    }
}

static void walk_internal(const eg_gguf *file)
{
    for (uint64_t i = 0; i < eg_gguf_value_count(file); i++) walk_value(file, eg_gguf_value_at(file, i));
    for (uint64_t i = 0; i < eg_gguf_tensor_count(file); i++) {
        const eg_gguf_tensor *tensor = eg_gguf_tensor_at(file, i);
        touch(tensor->name.data, tensor->name.length);
        REQUIRE((tensor->data != NULL) == (tensor->type != NULL));
        touch(tensor->data, tensor->bytes);
        if (!tensor->type) continue;
        uint64_t values = (uint64_t)tensor->dims[0] * (uint64_t)tensor->dims[1] * (uint64_t)tensor->dims[2] *
                          (uint64_t)tensor->dims[3];
        REQUIRE(values / tensor->type->block * tensor->type->bytes == tensor->bytes);
    }
    REQUIRE(!eg_gguf_value_at(file, eg_gguf_value_count(file)));
    REQUIRE(!eg_gguf_tensor_at(file, eg_gguf_tensor_count(file)));
    REQUIRE(!eg_gguf_find_tensor(file, "no such tensor"));
    REQUIRE(eg_gguf_heap_bytes(file) > 0 && eg_gguf_mapped_bytes(file) > 0);
}

static void walk_public(const eg_file *file)
{
    eg_error err = {.struct_size = sizeof err};
    for (uint64_t i = 0; i < eg_file_metadata_count(file); i++) {
        eg_file_metadata entry = {.struct_size = sizeof entry};
        REQUIRE(!eg_file_get_metadata(file, i, &entry, &err));
        uint64_t last = entry.count ? entry.count - 1 : 0, elements[] = {0, last / 2, last, entry.count};
        for (int k = 0; k < 4; k++) {
            double number;
            const char *text;
            size_t length;
            eg_status a = eg_file_get_number(file, i, elements[k], &number, &err);
            eg_status b = eg_file_get_string(file, i, elements[k], &text, &length, &err);
            bool inside = elements[k] < entry.count && entry.type != EG_GGUF_ARRAY;
            REQUIRE(a == EG_OK ? inside && entry.type != EG_GGUF_STRING : !inside || entry.type == EG_GGUF_STRING);
            REQUIRE(b == EG_OK ? inside && entry.type == EG_GGUF_STRING : !inside || entry.type != EG_GGUF_STRING);
            if (!b) touch(text, length);
            else check_message(&err, b);
        }
    }
    for (uint64_t i = 0; i < eg_file_tensor_count(file); i++) {
        eg_file_tensor tensor = {.struct_size = sizeof tensor};
        REQUIRE(!eg_file_get_tensor(file, i, &tensor, &err));
        touch(tensor.data, tensor.bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *path = memory_map_set(data, size);
    eg_error err = {.struct_size = sizeof err};
    memset(&err, 0x55, sizeof err);
    err.struct_size = sizeof err;
    eg_gguf *gguf;
    eg_status status = eg_gguf_open(path, -1, 0, 0, true, &gguf, &err);
    if (status) {
        check_message(&err, status);
    } else {
        walk_internal(gguf);
        eg_gguf_close(gguf);
    }
    eg_file *file;
    eg_file_params params = {.struct_size = sizeof params, .path = path};
    REQUIRE(eg_file_open(&params, &file, NULL) == status);
    if (!status) {
        walk_public(file);
        eg_file_close(file);
    }
    return 0;
}
