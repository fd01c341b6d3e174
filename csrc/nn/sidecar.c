/* Finds, checks and attaches the sidecar of a model; see sidecar.h. */
#include "sidecar.h"

#include <stdio.h>
#include <stdlib.h>

#include "../base/map.h"
#include "../format/digest.h"
#include "keys.h"

enum { VERSION = 1, SAMPLES = 8, SHOWN = 64 };

#define ADVICE \
    "Make it again with `edge-gemma prepare`, remove it, or open the model without its sidecar (in Python: sidecar=False)."

uint64_t eg_sidecar_digest(const eg_gguf *file)
{
    uint64_t h = eg_gguf_digest(file, SAMPLES);
    const eg_gguf_tensor *head = eg_gguf_find_tensor(file, "token_embd.weight");   /* of which the sidecar is made */
    for (uint64_t i = 0; head && head->bytes >= EG_DIGEST_SAMPLE && i < SAMPLES; i++)
        h = eg_digest_add(h, file, head->data + (head->bytes - EG_DIGEST_SAMPLE) / SAMPLES * i, EG_DIGEST_SAMPLE);
    return h;
}

/* X.lean.gguf of X.gguf, in memory that the caller frees; NULL without memory. */
static char *path_beside(const char *model)
{
    static const char ending[] = ".gguf", lean_ending[] = ".lean.gguf";
    size_t stem = strlen(model), n = sizeof ending - 1;
    if (stem > n && !strcmp(model + stem - n, ending)) stem -= n;
    char *path = malloc(stem + sizeof lean_ending);
    if (!path) return NULL;
    memcpy(path, model, stem);
    memcpy(path + stem, lean_ending, sizeof lean_ending);
    return path;
}

/* Opens a sidecar. The reader's errors advise to download a file again, which does not help here. */
static eg_status open_file(const char *path, const eg_model_params *params, eg_gguf **out, eg_error *err)
{
    static const char download[] = "; download it again.";
    eg_error local = {.struct_size = sizeof local};
    eg_status status = eg_gguf_open(path, params->sidecar_fd, params->sidecar_offset, params->sidecar_length,
                                    !params->keep_sigbus, out, &local);
    if (!status) return EG_OK;
    size_t n = strlen(local.message), m = sizeof download - 1;
    bool advises = n > m && !strcmp(local.message + n - m, download);
    return eg_fail(err, status, "%.*s%s It is the sidecar of a model. " ADVICE, (int)(advises ? n - m : n), local.message,
                   advises ? "." : "");
}

/* Opens what the caller names, or what lies beside the model; *out is NULL if there is nothing. */
static eg_status open_sidecar(const eg_model_params *params, eg_gguf **out, eg_error *err)
{
    *out = NULL;
    if (params->sidecar || params->sidecar_length) return open_file(params->sidecar, params, out, err);
    if (!params->path) return EG_OK;
    char *path = path_beside(params->path);
    if (!path) return eg_fail(err, EG_ERROR_MEMORY, "out of memory.");
    eg_status status = eg_map_exists(path) ? open_file(path, params, out, err) : EG_OK;
    free(path);
    return status;
}

/* Whether the sidecar was made of this file. */
static bool belongs_to(const eg_gguf *sidecar, const eg_gguf *file)
{
    char bytes[24], digest[20];
    snprintf(bytes, sizeof bytes, "%llu", (unsigned long long)eg_gguf_mapped_bytes(file));
    snprintf(digest, sizeof digest, "%016llx", (unsigned long long)eg_sidecar_digest(file));
    return eg_span_is(eg_keys_text(sidecar, "sidecar.bytes"), bytes) &&
           eg_span_is(eg_keys_text(sidecar, "sidecar.digest"), digest);
}

static eg_status check_kind(const eg_gguf *sidecar, eg_error *err)
{
    eg_span architecture = eg_keys_text(sidecar, "general.architecture");
    if (!eg_span_is(architecture, "gemma4-sidecar"))
        return eg_fail(
            err, EG_ERROR_FORMAT,
            "%s: a file of this name must be a sidecar, but its architecture is '%.*s', not 'gemma4-sidecar'. " ADVICE,
            eg_gguf_name(sidecar), (int)(architecture.length < SHOWN ? architecture.length : SHOWN),
            architecture.length ? architecture.data : "");
    const eg_gguf_value *value = eg_gguf_find(sidecar, "sidecar.version");
    double version = value && value->count == 1 ? eg_gguf_number(value, 0) : 0;
    if (version != VERSION)
        return eg_fail(err, EG_ERROR_UNSUPPORTED,
                       "%s: this sidecar is of version %g, and this program reads version %d. " ADVICE, eg_gguf_name(sidecar),
                       version, VERSION);
    return EG_OK;
}

static eg_status check_tensors(const eg_gguf *sidecar, const eg_gguf *file, eg_error *err)
{
    const eg_gguf_tensor *head = eg_gguf_find_tensor(sidecar, "output_lean.weight");
    const eg_gguf_tensor *of = eg_gguf_find_tensor(file, "token_embd.weight");
    if (!head || eg_gguf_tensor_count(sidecar) != 1)
        return eg_fail(err, EG_ERROR_FORMAT, "%s: a sidecar has one tensor, 'output_lean.weight'. " ADVICE,
                       eg_gguf_name(sidecar));
    if (!of || !of->type || eg_type_per_channel(of->type) || eg_gguf_find_tensor(file, "output.weight"))
        return eg_fail(err, EG_ERROR_UNSUPPORTED, "%s: the head of %s cannot have a leaner version. " ADVICE,
                       eg_gguf_name(sidecar), eg_gguf_name(file));
    if (memcmp(head->dims, of->dims, sizeof of->dims))
        return eg_fail(err, EG_ERROR_FORMAT, "%s: the head has %lld x %lld values, but the model's has %lld x %lld. " ADVICE,
                       eg_gguf_name(sidecar), (long long)head->dims[1], (long long)head->dims[0], (long long)of->dims[1],
                       (long long)of->dims[0]);
    if (!head->type || eg_type_per_channel(head->type))
        return eg_fail(err, EG_ERROR_UNSUPPORTED, "%s: the head has type number %u, which no sidecar has. " ADVICE,
                       eg_gguf_name(sidecar), head->type_id);
    return EG_OK;
}

eg_status eg_sidecar_attach(eg_gguf *file, const eg_model_params *params, eg_error *err)
{
    eg_gguf *sidecar = NULL;
    if (params->no_sidecar) return EG_OK;
    eg_status status = open_sidecar(params, &sidecar, err);
    if (status || !sidecar) return status;
    status = check_kind(sidecar, err);
    if (!status && !belongs_to(sidecar, file))
        status = eg_fail(err, EG_ERROR_FORMAT, "%s: this sidecar was made of another file than %s. " ADVICE,
                         eg_gguf_name(sidecar), eg_gguf_name(file));
    if (!status) status = check_tensors(sidecar, file, err);
    if (!status) status = eg_gguf_join(file, sidecar, err);
    if (status) eg_gguf_close(sidecar);
    return status;
}
