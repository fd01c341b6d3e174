/* Prints the names of the kernel sets that this machine supports, best last, and the one that the engine has chosen. */
#include <stdio.h>

#include "kernels/kernels.h"

int main(void)
{
    bool supported;
    const eg_kernels *k;
    const char *space = "";
    for (size_t i = 0; (k = eg_kernels_at(i, &supported)); i++) {
        if (!supported) continue;
        printf("%s%s", space, k->name);
        space = " ";
    }
    printf(": %s\n", eg_kernels_get()->name);
    return 0;
}
