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

/* The matrices that a sidecar may have, and those of the model whose shape they must have if it lacks them. */
static const char *const lean[][2] = {
    {"output.weight", "token_embd.weight"},
    {"per_layer_model_proj.weight", NULL},
};

uint64_t eg_sidecar_digest(const eg_gguf *file) { return eg_gguf_digest(file, SAMPLES); }

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
    eg_status status = eg_gguf_open(path, params->sidecar_fd, params->sidecar_offset, params->sidecar_length, out, &local);
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
    eg_keys keys = {sidecar, "sidecar", err, EG_OK};
    int32_t version = eg_keys_integer(&keys, "version", 1, EG_MAX_WIDTH, true, 0);
    if (!keys.status && version > VERSION)
        return eg_fail(err, EG_ERROR_UNSUPPORTED,
                       "%s: this sidecar is of version %d, and this program reads version %d. " ADVICE, eg_gguf_name(sidecar),
                       version, VERSION);
    return keys.status;
}

/* The model's tensor that a tensor of the sidecar stands for; NULL if there is none. */
static const eg_gguf_tensor *original(const eg_gguf *file, const eg_gguf_tensor *tensor)
{
    for (size_t i = 0; i < sizeof lean / sizeof *lean; i++) {
        if (!eg_span_is(tensor->name, lean[i][0])) continue;
        const eg_gguf_tensor *found = eg_gguf_find_tensor(file, lean[i][0]);
        return found || !lean[i][1] ? found : eg_gguf_find_tensor(file, lean[i][1]);
    }
    return NULL;
}

static eg_status check_tensors(const eg_gguf *sidecar, const eg_gguf *file, eg_error *err)
{
    for (uint64_t i = 0; i < eg_gguf_tensor_count(sidecar); i++) {
        const eg_gguf_tensor *tensor = eg_gguf_tensor_at(sidecar, i), *of = original(file, tensor);
        int shown = (int)(tensor->name.length < SHOWN ? tensor->name.length : SHOWN);
        const char *name = tensor->name.length ? tensor->name.data : "";
        if (!of)
            return eg_fail(err, EG_ERROR_FORMAT, "%s: a sidecar of this model cannot have a tensor '%.*s'. " ADVICE,
                           eg_gguf_name(sidecar), shown, name);
        if (memcmp(tensor->dims, of->dims, sizeof of->dims))
            return eg_fail(err, EG_ERROR_FORMAT,
                           "%s: the tensor '%.*s' has shape [%lld, %lld, %lld, %lld], but the model's has [%lld, %lld, %lld, "
                           "%lld]. " ADVICE,
                           eg_gguf_name(sidecar), shown, name, (long long)tensor->dims[0], (long long)tensor->dims[1],
                           (long long)tensor->dims[2], (long long)tensor->dims[3], (long long)of->dims[0],
                           (long long)of->dims[1], (long long)of->dims[2], (long long)of->dims[3]);
        if (!tensor->type || eg_type_per_channel(tensor->type))
            return eg_fail(err, EG_ERROR_UNSUPPORTED, "%s: the tensor '%.*s' has type number %u, which no sidecar has. " ADVICE,
                           eg_gguf_name(sidecar), shown, name, tensor->type_id);
    }
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
