/* What an open GGUF file is made of, for the files of this folder that own it: gguf.c (the format) and gguf_pages.c (the pages). */
#ifndef EG_FORMAT_GGUF_FILE_H
#define EG_FORMAT_GGUF_FILE_H

#include <stdatomic.h>

#include "../base/map.h"
#include "gguf.h"

typedef struct value_list {
    eg_gguf_value *items;
    const eg_gguf_value **by_key;
    size_t count, capacity;
} value_list;

typedef struct tensor_list {
    eg_gguf_tensor *items;
    const eg_gguf_tensor **by_name;
    size_t count, capacity;
} tensor_list;

struct eg_gguf {
    char *name;
    eg_map *maps; /* [n_maps], one per part */
    size_t n_maps;
    bool guarded; /* while it is opened, its pages have a guard */
    atomic_bool failed; /* a part could not be read */
    value_list values; /* of the first part; other parts only have their number in the split */
    tensor_list tensors; /* of all parts, and of `joined` */
    eg_gguf *joined; /* the file whose tensors were added; NULL without */
};

#endif
