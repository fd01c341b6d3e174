/* Copies structs of the public header in and out, whatever version of it the caller was compiled with. */
#include "structs.h"

#include <string.h>

uint32_t eg_struct_size(const void *of)
{
    uint32_t size;
    memcpy(&size, of, sizeof size);
    return size;
}

eg_status eg_struct_check(const void *out, const char *name, eg_error *err)
{
    if (!out) return eg_fail(err, EG_ERROR_ARGUMENT, "%s: the pointer to the struct is NULL.", name);
    uint32_t stated = eg_struct_size(out);
    if (stated < sizeof stated || stated > EG_STRUCT_MOST)
        return eg_fail(err, EG_ERROR_ARGUMENT, "%s: struct_size is %u; set it to sizeof(%s) before the call.", name,
                       (unsigned)stated, name);
    return EG_OK;
}

eg_status eg_struct_read(const void *from, void *to, uint32_t size, const char *name, eg_error *err)
{
    eg_status status = eg_struct_check(from, name, err);
    if (status) return status;
    uint32_t stated = eg_struct_size(from);
    for (uint32_t i = size; i < stated; i++)
        if (((const uint8_t *)from)[i])
            return eg_fail(err, EG_ERROR_ARGUMENT,
                           "%s: a field that version " EG_VERSION " of the library does not know is set (byte %u of %u): "
                           "leave it zero, or use a newer library.",
                           name, (unsigned)i, (unsigned)stated);
    memset(to, 0, size);
    memcpy(to, from, stated < size ? stated : size);
    memcpy(to, &size, sizeof size);
    return EG_OK;
}

void eg_struct_write(void *out, const void *from, uint32_t size)
{
    uint32_t stated = eg_struct_size(out), head = sizeof stated;
    memcpy((uint8_t *)out + head, (const uint8_t *)from + head, (stated < size ? stated : size) - head);
    if (stated > size) memset((uint8_t *)out + size, 0, stated - size);
}
