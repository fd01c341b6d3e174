/* The size of a resized picture; see target.h. */
#include "target.h"

#include <math.h>

bool eg_image_is_budget(uint32_t tokens)
{
    return tokens == 70 || tokens == 140 || tokens == 280 || tokens == 560 || tokens == EG_IMAGE_MOST_TOKENS;
}

/* The side that goes with one of a single cell. */
static int64_t along(int64_t longer, int64_t shorter, uint32_t tokens)
{
    const int64_t cells = longer / shorter;
    return cells < 1 ? 1 : cells < tokens ? cells : tokens;
}

int64_t eg_image_target(uint32_t width, uint32_t height, uint32_t tokens, int64_t cell, int64_t *target_width,
                        int64_t *target_height)
{
    const double area = (double)tokens * (double)(cell * cell);
    const double factor = sqrt(area / ((double)width * (double)height));
    int64_t w = (int64_t)floor(factor * width / (double)cell), h = (int64_t)floor(factor * height / (double)cell);
    if (!h && w) {
        h = 1;
        w = along(width, height, tokens);
    } else if (!w) {
        w = 1;
        h = h ? along(height, width, tokens) : 1;
    }
    *target_width = w * cell;
    *target_height = h * cell;
    return w * h;
}
