/* Files by names in UTF-8, in the folder argv[1]: written, replaced, read and removed. The clock goes forward, threads work, and
 * there is a processor. Prints nothing when all is well. */
#define _POSIX_C_SOURCE 200809L
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/path.h"
#include "base/processors.h"

static int wrong(const char *what)
{
    fprintf(stderr, "%s\n", what);
    return 1;
}

static bool write_text(const char *path, const char *text)
{
    FILE *file = eg_path_open(path, "wb");
    bool written = file && fwrite(text, 1, strlen(text), file) == strlen(text);
    return file && !fclose(file) && written;
}

static bool has_text(const char *path, const char *text)
{
    char found[64] = "";
    FILE *file = eg_path_open(path, "rb");
    size_t n = file ? fread(found, 1, sizeof found, file) : 0;
    if (file) fclose(file);
    return file && n == strlen(text) && !memcmp(found, text, n);
}

int main(int argc, char **argv)
{
    char one[600], other[600];
    if (argc != 2) return wrong("usage: path_check FOLDER");
    snprintf(one, sizeof one,
             "%s/Gr\xc3\xbc\xc3\x9f"
             "e \xe6\xbc\xa2.part",
             argv[1]);
    snprintf(other, sizeof other,
             "%s/Gr\xc3\xbc\xc3\x9f"
             "e \xe6\xbc\xa2",
             argv[1]);
    if (eg_path_open(one, "rb")) return wrong("a missing file was opened");
    if (!write_text(other, "old\n") || !write_text(one, "new\r\n\x1a.")) return wrong("a file was not written");
    if (eg_path_replace(one, other)) return wrong("a file was not replaced");
    if (!has_text(other, "new\r\n\x1a.")) return wrong("the new file has other bytes");
    if (!eg_path_replace(one, other)) return wrong("a missing file replaced another");
    eg_path_remove(other);
    eg_path_remove(other);
    if (eg_path_open(other, "rb")) return wrong("a removed file was opened");
    if (eg_path_open("\xff\xfe-nothing", "rb")) return wrong("a name that is not UTF-8 was opened");

    double begin = eg_clock();
    for (int i = 0; i < 1000; i++)
        if (eg_clock() < begin) return wrong("the clock went backwards");
    if (!eg_processors_fast()) return wrong("no processor");
    if (eg_memory_allowed("") < 1 << 20) return wrong("no memory");
    return 0;
}
