/* Weights that are larger than memory: which of them are in memory, who reads the others, and what is given back.
 *
 * The weights stay in the file's mapping. They are cut into parts that are used together: a matrix of a layer, or all matrices
 * of one expert. A part is read whole, and parts that are asked for at the same time are read side by side by threads of the
 * store, since a disk rewards the number of requests that it has, and not their order. What is in memory is kept within a budget:
 * the part that was used least often leaves first, and of equals the one that is used again last. Uses are counted by tokens, and
 * halved from time to time, so that a new subject replaces an old one. The system's own order, which is by the last use, would
 * throw away each layer just before its turn comes again.
 *
 * Evaluating is the same with a store and without, bit by bit. A store of NULL has everything in memory: its functions do nothing.
 * Whoever has the turn on the model's threads uses the store; trim and budget are for any thread. */
#ifndef EG_DECODER_STORE_H
#define EG_DECODER_STORE_H

#include "weights.h"

typedef struct eg_store eg_store;

typedef struct eg_store_counts {
    uint64_t hits, misses;     /* experts that were in memory when they were chosen, and that were not */
    uint64_t bytes;            /* weights read, of experts and of the rest */
} eg_store_counts;

/* Bytes of all parts, and the least budget that is of use. */
uint64_t eg_store_bytes(const eg_weights *weights, const eg_config *config);
uint64_t eg_store_least(const eg_weights *weights, const eg_config *config);

/* Opens a store of `budget` bytes, or of the least budget if that is more. drop: what leaves memory leaves the page cache too,
 * because the file does not fit into it either. EG_ERROR_MEMORY. */
eg_status eg_store_open(eg_gguf *file, const eg_weights *weights, const eg_config *config, uint64_t budget, bool drop,
                        eg_store **out, eg_error *err);
void eg_store_close(eg_store *store);

/* Starts threads of this process's own if it was made by fork() after the store; as eg_pool_renew. */
void eg_store_renew(eg_store *store);

void eg_store_set_budget(eg_store *store, uint64_t budget);

uint64_t eg_store_budget(eg_store *store);   /* 0 for NULL */

/* Gives everything back that no call is using; idle: nobody has the turn, so that is all. */
void eg_store_trim(eg_store *store, bool idle);

/* Waits for what all of the `tokens` tokens need of a layer, without its experts, and holds it in memory until the next call.
 * `layer` may be config->layers: the matrix of the logits. The parts of `ahead` are asked for too (-1: none). False if the disk
 * failed. */
bool eg_store_use(eg_store *store, int32_t layer, int64_t tokens, int32_t ahead);

/* Asks for experts[n] of the layer in use, each chosen by tokens[expert] tokens, and returns at once. The list is put into the
 * order in which they are to be used: those in memory come first. */
void eg_store_choose(eg_store *store, int32_t layer, int32_t *experts, int32_t n, const int32_t *tokens);

/* Waits for the first of experts[n] and returns how many are ready from there on, all of them without a store. 0 if the disk
 * failed. They stay in memory until eg_store_done. */
int32_t eg_store_ready(eg_store *store, int32_t layer, const int32_t *experts, int32_t n);
void eg_store_done(eg_store *store, int32_t layer, const int32_t *experts, int32_t n);

/* What has been counted since the last time. */
eg_store_counts eg_store_take_counts(eg_store *store);

#endif
