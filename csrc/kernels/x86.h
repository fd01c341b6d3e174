/* Loads that all x86 sets share. */
#ifndef EG_KERNELS_X86_H
#define EG_KERNELS_X86_H

#include <immintrin.h>

#include "internal.h"

EG_INLINE short eg_word_at(const uint8_t *p)
{
    short word;
    memcpy(&word, p, sizeof word);
    return word;
}

/* The four bytes x[4 c .. 4 c + 3] as one integer, for a broadcast into every lane. */
EG_INLINE int32_t eg_int_at(const int8_t *x, int c)
{
    int32_t word;
    memcpy(&word, x + 4 * c, sizeof word);
    return word;
}

/* Makes gcc add to a sum in the register where it lies. In a loop over many sums it would copy each of them twice, at a
 * cost of up to a third of the time. */
#if defined(__clang__)
#define EG_SUM_IN_PLACE(sum) (void)0
#else
#define EG_SUM_IN_PLACE(sum) __asm__("" : "+v"(sum))
#endif

/* For fifth_bits (unpack.inc): the first byte of each lane of 32 bits, four times, and a bit for each byte of a lane. */
#define EG_LANE_BYTES _mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c)
#define EG_BYTE_BITS(j) ((j) % 2 ? (int)0x80402010 : 0x08040201)

/* Gathers the two bytes at p from each of 16 rows, `s` apart. */
#define eg_gather_16_words(p, s) \
    _mm256_setr_epi16(eg_word_at(p), eg_word_at((p) + (s)), eg_word_at((p) + 2 * (s)), eg_word_at((p) + 3 * (s)), \
                      eg_word_at((p) + 4 * (s)), eg_word_at((p) + 5 * (s)), eg_word_at((p) + 6 * (s)), \
                      eg_word_at((p) + 7 * (s)), eg_word_at((p) + 8 * (s)), eg_word_at((p) + 9 * (s)), \
                      eg_word_at((p) + 10 * (s)), eg_word_at((p) + 11 * (s)), eg_word_at((p) + 12 * (s)), \
                      eg_word_at((p) + 13 * (s)), eg_word_at((p) + 14 * (s)), eg_word_at((p) + 15 * (s)))

#endif
