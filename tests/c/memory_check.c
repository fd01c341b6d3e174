/* Prints the memory that the files below the folder in argv[1] allow, or with "", this process. */
#include <stdio.h>

#include "base/memory.h"

int main(int argc, char **argv)
{
    if (argc != 2) return 1;
    printf("%llu %llu\n", (unsigned long long)eg_memory_allowed(argv[1]), (unsigned long long)eg_memory_resident());
    return 0;
}
