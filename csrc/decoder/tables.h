/* Tables: matrices of which single rows are read, scattered over hundreds of megabytes. Their rows are copied out of the file and not
 * read in its mapping, where each would bring in the pages around it, 64 KB or more: half a gigabyte over a long prompt. */
#ifndef EG_DECODER_TABLES_H
#define EG_DECODER_TABLES_H

#include "weights.h"

/* The table of per-layer embeddings; NULL if the model has none. */
const eg_matrix *eg_table_per_layer(const eg_weights *weights);

/* The token embeddings, unless every token reads them all, as the head; then NULL. */
const eg_matrix *eg_table_tokens(const eg_weights *weights);

/* For all tables, once after the file was opened: no reading ahead. */
void eg_tables_advise(const eg_weights *weights);

/* The system begins to read a row, and does not wait. `table` may be NULL. */
void eg_table_ask(const eg_matrix *table, int64_t row);

/* The blocks of columns [col, col + n) of a row; both are multiples of the type's block. */
void eg_table_read(const eg_weights *weights, const eg_matrix *table, int64_t row, int64_t col, int64_t n, void *blocks);

#endif
