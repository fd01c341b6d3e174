/* The store of weights alone: what it keeps, what it reads, and in which order it hands out. usage: store_check MODEL (with experts) */
#include <stdio.h>
#include <stdlib.h>

#include "decoder/store.h"

#define CHECK(what) \
    do { \
        if (!(what)) { \
            fprintf(stderr, "line %d: %s\n", __LINE__, #what); \
            exit(EXIT_FAILURE); \
        } \
    } while (0)

static int32_t tokens[1024]; /* of each expert */

/* Uses experts[n] of a layer as a block does. Returns how many were in memory. */
static uint64_t use(eg_store *store, int32_t layer, const int32_t *experts, int32_t n, int32_t count)
{
    int32_t order[64];
    for (int32_t i = 0; i < n; i++) {
        order[i] = experts[i];
        tokens[experts[i]] = count;
    }
    (void)eg_store_take_counts(store);
    CHECK(eg_store_use(store, layer, 1, -1));
    eg_store_choose(store, layer, order, n, tokens);
    for (int32_t done = 0, ready; done < n; done += ready) {
        ready = eg_store_ready(store, layer, order + done, n - done);
        CHECK(ready > 0 && ready <= n - done);
        eg_store_done(store, layer, order + done, ready);
    }
    for (int32_t i = 0; i < n; i++) { /* the same experts */
        int32_t found = 0;
        for (int32_t k = 0; k < n; k++) found += order[k] == experts[i];
        CHECK(found == 1);
    }
    const eg_store_counts counts = eg_store_take_counts(store);
    CHECK(counts.hits + counts.misses == (uint64_t)n);
    return counts.hits;
}

int main(int argc, char **argv)
{
    eg_error err = {.struct_size = sizeof err};
    eg_gguf *file;
    eg_config config;
    eg_weights weights;
    eg_store *store;
    if (argc != 2 || eg_gguf_open(argv[1], -1, 0, 0, true, &file, &err) || eg_config_read(file, &config, &err) ||
        eg_weights_bind(file, &config, &weights, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return EXIT_FAILURE;
    }
    CHECK(config.experts >= 7 && config.layers >= 2);
    const eg_layer *l = &weights.layer[0];
    const uint64_t expert = (uint64_t)l->expert_gate.first.rows * l->expert_gate.first.row_bytes * 2 +
                            (uint64_t)l->expert_down.first.rows * l->expert_down.first.row_bytes;
    const uint64_t all = eg_store_bytes(&weights, &config), least = eg_store_least(&weights, &config);
    const uint64_t experts = expert * (uint64_t)config.experts * (uint64_t)config.layers, core = all - experts;
    CHECK(least < all && experts < all);

    /* Room for all that is no expert, and for four experts. */
    const int32_t often[] = {0, 1, 6}, once[] = {2}, others[] = {3}, more[] = {4, 5};
    CHECK(config.experts_used == 4 && least == core + 4 * expert);
    CHECK(!eg_store_open(file, &weights, &config, 0, false, &store, &err));
    CHECK(eg_store_budget(store) == least);
    CHECK(use(store, 0, often, 3, 10) == 0);
    CHECK(use(store, 0, often, 3, 10) == 3);
    for (int32_t i = 1; i <= config.layers; i++) CHECK(eg_store_use(store, i, 1, -1));
    CHECK(use(store, 0, once, 1, 1) == 0); /* now all room is taken */
    CHECK(use(store, 1, others, 1, 1) == 0); /* in the place of the one that was used once */
    CHECK(use(store, 0, often, 3, 1) == 3);
    CHECK(use(store, 0, once, 1, 1) == 0);
    CHECK(use(store, 0, more, 2, 30) == 0); /* used more often than the first three from now on */
    CHECK(use(store, 0, more, 2, 1) == 2);
    CHECK(use(store, 0, often, 3, 1) == 2);

    /* All in memory: each expert is read once. */
    eg_store_set_budget(store, all);
    for (int32_t round = 0; round < 2; round++)
        for (int32_t layer = 0; layer < config.layers; layer++)
            for (int32_t e = 0; e < config.experts; e++) CHECK(use(store, layer, &e, 1, 1) == 1 || !round);
    (void)eg_store_take_counts(store);
    CHECK(eg_store_use(store, config.layers, 1, 0) && !eg_store_take_counts(store).bytes);

    /* Less than what is in memory leaves at once; after a trim everything is read again. */
    eg_store_set_budget(store, 0);
    CHECK(eg_store_budget(store) == least);
    eg_store_set_budget(store, all);
    eg_store_trim(store, true);
    const int32_t first[] = {0, 1, 2, 3, 4, 5};
    CHECK(use(store, 0, first, 6, 1) == 0 && use(store, 0, first, 6, 1) == 6);

    eg_store_close(store);
    eg_store_close(NULL);
    eg_weights_free(&weights);
    eg_gguf_close(file);
    return EXIT_SUCCESS;
}
