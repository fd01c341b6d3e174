/* How often pages get a guard while a model is opened, which installs the handler of SIGBUS: with keep_sigbus never.
 *
 *     use_guard MODEL MMPROJ        linked with -Wl,--wrap=eg_guard_add
 */
#include <stdio.h>

#include "base/guard.h"
#include "edge_gemma.h"

int __wrap_eg_guard_add(void *begin, size_t bytes);

static int added;

int __wrap_eg_guard_add(void *begin, size_t bytes)
{
    (void)begin, (void)bytes;
    added++;
    return EG_GUARD_NONE;
}

int main(int argc, char **argv)
{
    for (int keep = 0; argc == 3 && keep < 2; keep++) {
        EG_STRUCT(eg_error, err);
        EG_STRUCT(eg_model_params, params);
        eg_model *model = NULL;
        params.path = argv[1];
        params.mmproj = argv[2];
        params.threads = 1;
        params.keep_sigbus = keep;
        added = 0;
        if (eg_model_open(&params, &model, &err)) {
            fprintf(stderr, "%s\n", err.message);
            return 1;
        }
        eg_model_close(model);
        printf("%d\n", added);
    }
    return 0;
}
