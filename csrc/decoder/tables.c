/* Rows of tables; see tables.h. */
#include "tables.h"

#include "../base/map.h"

const eg_matrix *eg_table_per_layer(const eg_weights *w)
{
    return w->per_layer_token_embd.data ? &w->per_layer_token_embd : NULL;
}

const eg_matrix *eg_table_tokens(const eg_weights *w)
{
    return w->output_lean.data || w->token_embd.data != w->output.data ? &w->token_embd : NULL;
}

static void advise(const eg_matrix *table, eg_advice advice)
{
    if (table) eg_map_advise(table->data, (uint64_t)table->rows * table->row_bytes, advice);
}

void eg_tables_advise(const eg_weights *w)
{
    advise(eg_table_per_layer(w), EG_ADVICE_RANDOM);
    advise(eg_table_tokens(w), EG_ADVICE_RANDOM);
}

void eg_table_ask(const eg_matrix *table, int64_t row)
{
    if (table) eg_map_advise(table->data + (size_t)row * table->row_bytes, table->row_bytes, EG_ADVICE_WILLNEED);
}

void eg_table_read(const eg_weights *w, const eg_matrix *table, int64_t row, int64_t col, int64_t n, void *blocks)
{
    const eg_type_info *type = table->type;
    const uint8_t *at = table->data + (size_t)row * table->row_bytes + (size_t)(col / type->block) * type->bytes;
    eg_gguf_copy(w->file, at, (size_t)(n / type->block) * type->bytes, blocks);
}
