/* Fuzzes the resizing of pictures: any size, stride and budget, within pixels that end where they must. The target is within the
 * budget, and resizing to it writes every byte. */
#include "vision/resize.h"
#include "vision/target.h"

#include <stdlib.h>
#include <string.h>

#define REQUIRE(condition) \
    do { \
        if (!(condition)) abort(); \
    } while (0)

enum { CELL = 48, HEADER = 9, MOST = 1 << 22 }; /* bytes that describe a picture; bytes of the largest one */

static uint32_t number(const uint8_t *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16; }

/* The target for any size is within the budget. */
static int64_t target_of(uint32_t width, uint32_t height, uint32_t budget, int64_t *to_width, int64_t *to_height)
{
    const int64_t tokens = eg_image_target(width, height, budget, CELL, to_width, to_height);
    REQUIRE(tokens >= 1 && tokens <= budget && *to_width % CELL == 0 && *to_height % CELL == 0);
    REQUIRE(*to_width / CELL * (*to_height / CELL) == tokens);
    return tokens;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint32_t budgets[] = {70, 140, 280, 560, 1120};
    if (size < HEADER) return 0;
    uint32_t width = number(data) % EG_IMAGE_SIDE + 1, height = number(data + 3) % EG_IMAGE_SIDE + 1;
    int64_t to_width, to_height;
    target_of(width, height, budgets[data[6] % 5], &to_width, &to_height);
    if (data[8] & 1) { /* small enough to be resized */
        width = width % 512 + 1;
        height = height % 512 + 1;
    }
    const size_t stride = 3 * (size_t)width + data[7], bytes = stride * (height - 1) + 3 * (size_t)width;
    if (bytes > MOST) return 0;
    target_of(width, height, 70, &to_width, &to_height);
    if (data[8] & 2) to_width = data[6] + 1, to_height = data[7] + 1;
    uint8_t *pixels = malloc(bytes), *out = malloc(3 * (size_t)(to_width * to_height));
    eg_pool *pool = eg_pool_create(1);
    eg_error err = {.struct_size = sizeof err};
    if (pixels && out && pool) {
        for (size_t i = 0; i < bytes; i++) pixels[i] = data[i % size];
        const eg_picture from = {pixels, stride, width, height};
        REQUIRE(!eg_image_resize(pool, &from, to_width, to_height, out, &err));
        volatile unsigned sum = 0;
        for (int64_t i = 0; i < 3 * to_width * to_height; i++) sum += out[i];
    }
    eg_pool_destroy(pool);
    free(pixels);
    free(out);
    return 0;
}
