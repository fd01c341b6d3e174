/* Tables: matrices of which single rows are read, scattered over hundreds of megabytes of the file. Without care the system would read
 * ahead around each row, and keep in memory what it has read. */
#ifndef EG_DECODER_TABLES_H
#define EG_DECODER_TABLES_H

#include "weights.h"

/* The table of per-layer embeddings; NULL if the model has none. */
const eg_matrix *eg_table_per_layer(const eg_weights *weights);

/* The token embeddings, unless every token reads them all, as the head; then NULL. */
const eg_matrix *eg_table_tokens(const eg_weights *weights);

/* For all tables, once after the file was opened: no reading ahead. */
void eg_tables_advise(const eg_weights *weights);

/* The system begins to read a row, and does not wait. `table` may be NULL, here and below. */
void eg_table_ask(const eg_matrix *table, int64_t row);

/* n more rows were read. *since counts those whose pages were not given back; with EG_TABLE_ROWS they are. Each row maps up to 64 KB
 * of the file, which over a long prompt would add up to half a gigabyte. */
enum { EG_TABLE_ROWS = 128 };
void eg_table_read(const eg_matrix *table, int64_t n, int64_t *since);

#endif
