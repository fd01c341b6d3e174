/* Opens a GGUF file by descriptor and says what it finds: for tests of what the Python package does not show.
 *
 *     gguf_probe FILE OFFSET LENGTH
 *
 * prints a line per tensor (name, bytes, sum of its bytes), then the resident bytes after opening, after reading all
 * data, after giving the data back, and the mapped ones; or one line "error STATUS MESSAGE". */
#include "base/map.h"
#include "format/gguf.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc != 4) return 2;
    int fd = argv[1][0] ? open(argv[1], O_RDONLY | O_NONBLOCK) : -1;
    eg_gguf *file;
    eg_error err = {.struct_size = sizeof err};
    eg_status status = eg_gguf_open(NULL, fd, strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10), true, &file, &err);
    if (fd >= 0) close(fd);             /* the mapping must not need it */
    if (status) {
        printf("error %d %s\n", status, err.message);
        return 0;
    }
    unsigned long long opened = eg_gguf_resident_bytes(file);
    for (uint64_t i = 0; i < eg_gguf_tensor_count(file); i++) {
        const eg_gguf_tensor *tensor = eg_gguf_tensor_at(file, i);
        eg_map_advise(tensor->data, tensor->bytes, i & 1 ? EG_ADVICE_RANDOM : EG_ADVICE_WILLNEED);
        unsigned long long sum = 0;
        for (uint64_t k = 0; k < tensor->bytes; k++) sum += tensor->data[k];
        printf("%.*s %llu %llu\n", (int)tensor->name.length, tensor->name.data, (unsigned long long)tensor->bytes, sum);
    }
    unsigned long long full = eg_gguf_resident_bytes(file);
    for (uint64_t i = 0; i < eg_gguf_tensor_count(file); i++) {
        const eg_gguf_tensor *tensor = eg_gguf_tensor_at(file, i);
        eg_map_advise(tensor->data, tensor->bytes, EG_ADVICE_DONTNEED);
        eg_map_advise(tensor->data, tensor->bytes, EG_ADVICE_NORMAL);
    }
    printf("resident %llu %llu %llu %llu\n", opened, full, (unsigned long long)eg_gguf_resident_bytes(file),
           (unsigned long long)eg_gguf_mapped_bytes(file));
    eg_gguf_close(file);
    return 0;
}
