/* Resizing of RGB pictures, bit-equal to Pillow's bicubic filter, with which the models were trained.
 *
 * The filter is separable, one pass along the rows and one along the columns, each rounded to 8 bits. The pass along the rows
 * comes first, unless the height shrinks by more than twice the pixels of the width: Pillow (13.0) takes the cheaper order. A pixel of the output is a weighted sum of the
 * input around its centre (i + 0.5) * scale, scale = input / output:
 *   k(x) = 1.5 |x|^3 - 2.5 x^2 + 1               for |x| < 1
 *   k(x) = -0.5 |x|^3 + 2.5 x^2 - 4 |x| + 2      for |x| < 2, else 0
 * k is stretched by max(scale, 1), so that shrinking averages. The weights of the pixels inside of the picture are normalized to 1
 * and rounded to multiples of 2^-22. A pass whose size does not change is left out.
 */
#ifndef EG_VISION_RESIZE_H
#define EG_VISION_RESIZE_H

#include "../base/pool.h"
#include "../base/status.h"

typedef struct eg_picture {
    const uint8_t *rgb;        /* [height] rows of [width][3], stride bytes apart */
    size_t stride;
    int64_t width, height;
} eg_picture;

/* Resizes to out[height, width, 3], height and width from 1 on, with the threads of the pool, whose turn the caller has.
 * EG_ERROR_MEMORY. */
eg_status eg_image_resize(eg_pool *pool, const eg_picture *from, int64_t width, int64_t height, uint8_t *out, eg_error *err);

#endif
