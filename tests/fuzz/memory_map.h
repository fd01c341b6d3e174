/* Files in memory for the fuzzers: stands in for base/map.c. A view is an allocation of exactly its size, so that the
 * address sanitizer sees a read one byte past its end, which a mapping's last page would hide. */
#ifndef EG_FUZZ_MEMORY_MAP_H
#define EG_FUZZ_MEMORY_MAP_H

#include <stddef.h>
#include <stdint.h>

enum { MAX_PARTS = 4 };

/* Makes data[size] what eg_map_path finds: one file, or as many parts as there are "GGUF" in it beyond the first, each
 * beginning there. Returns the path to open. data must stay valid. */
const char *memory_map_set(const uint8_t *data, size_t size);

#endif
