/* Prints the quota of processors that the files below the folder in argv[1] set, and the number of threads for this process. */
#include <stdio.h>

#include "base/processors.h"

int main(int argc, char **argv)
{
    if (argc != 2) return 1;
    printf("%u %u\n", eg_processors_quota(argv[1]), eg_processors_fast());
    return 0;
}
