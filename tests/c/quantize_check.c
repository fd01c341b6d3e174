/* Quantizes difficult values to every type and reads them back, under sanitizers: no undefined operation, no infinite result,
 * no large error. Prints a checksum of all bytes, which is the same on every machine. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/quantize.h"

enum { N = 512, KINDS = 13 };

/* About uniform in -1..1, computed without functions of the C library, which could differ. */
static float noise(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(int32_t)(*state >> 8) / 8388608.0f - 1.0f;
}

static float value(int kind, int i, uint32_t *state)
{
    float x = noise(state);
    switch (kind) {
    case 0: return x;
    case 1: return 0.0f;
    case 2: return -0.0f;
    case 3: return 1.0f;                               /* all values equal */
    case 4: return -65504.0f;
    case 5: return x < 0.0f ? -65504.0f : 65504.0f;    /* the largest */
    case 6: return x * 1e-30f;                         /* below every scale */
    case 7: return x * 1e-41f;                         /* below the normal floats */
    case 8: return x * 3e-7f;                          /* scales that are subnormal halves */
    case 9: return i % 97 == 0 ? 60000.0f : x * 1e-3f; /* one value far above the others */
    case 10: return 2.0f + x;                          /* all positive */
    case 11: return x * x * x * x * x;
    default: return i / 256 == 1 ? 0.0f : x * (float)(1 << i / 32 % 8);   /* groups of different magnitude, a zero block */
    }
}

int main(void)
{
    uint32_t sum = 2166136261u, state = 1;
    for (size_t t = 0; eg_type_at(t); t++) {
        const eg_type_info *type = eg_type_at(t);
        if (!eg_type_writable(type)) continue;
        size_t bytes = (size_t)(N / type->block) * type->bytes;
        for (int kind = 0; kind < KINDS; kind++) {
            float *x = malloc(N * sizeof *x), *y = malloc(N * sizeof *y), peak = 0.0f;
            uint8_t *blocks = malloc(bytes);
            if (!x || !y || !blocks) return 1;
            for (int i = 0; i < N; i++) {
                x[i] = value(kind, i, &state);
                peak = fabsf(x[i]) > peak ? fabsf(x[i]) : peak;
            }
            if (eg_type_from_float(type, x, N, blocks) != N) return 2;
            eg_type_to_float(type, blocks, N, y);
            for (int i = 0; i < N; i++) {
                float room = kind == 8 ? 2.0f : 0.7f;   /* subnormal halves have few bits */
                if (!isfinite(y[i]) || fabsf(y[i] - x[i]) > room * peak + 1e-6f) {
                    printf("%s, values %d: %g became %g\n", type->name, kind, (double)x[i], (double)y[i]);
                    return 3;
                }
            }
            for (size_t i = 0; i < bytes; i++) sum = (sum ^ blocks[i]) * 16777619u;
            x[N / 2] = kind % 2 ? NAN : INFINITY;
            if (eg_type_from_float(type, x, N, blocks) != N / 2) return 4;
            free(x);
            free(y);
            free(blocks);
        }
    }
    printf("%08x\n", (unsigned)sum);
    return 0;
}
