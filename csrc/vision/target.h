/* The size that a picture is given for a budget of soft tokens.
 *
 * A soft token is a cell of pool x pool patches. The sides become whole numbers of cells, with the area of at most `tokens` cells:
 *   f = sqrt(tokens * cell^2 / (h * w)),  h' = cell * floor(f * h / cell),  w' = cell * floor(f * w / cell)
 * A side that would be 0 is one cell; the other is then as long as the ratio of the sides and the budget allow.
 */
#ifndef EG_VISION_TARGET_H
#define EG_VISION_TARGET_H

#include "../base/exact.h"

#include <stdbool.h>
#include <stdint.h>

enum { EG_IMAGE_SIDE = 1 << 20, EG_IMAGE_MOST_TOKENS = 1120 };

/* Whether it is one of the five budgets. */
bool eg_image_is_budget(uint32_t tokens);

/* width and height are 1 to EG_IMAGE_SIDE. Returns the number of soft tokens. */
int64_t eg_image_target(uint32_t width, uint32_t height, uint32_t tokens, int64_t cell, int64_t *target_width,
                        int64_t *target_height);

#endif
