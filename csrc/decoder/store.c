/* Keeps the most used weights in memory; see store.h. */
#define _POSIX_C_SOURCE 200809L
#include "store.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "../base/map.h"
#include "../base/memory.h"
#include "../base/thread.h"

enum {
    READERS = 8,               /* threads that read */
    CORE = 8,                  /* most matrices of a layer beside the experts */
    RANGES = 3,                /* most matrices of an expert */
    HALF_LIFE = 512,           /* tokens after which a use counts half */
    USE = 16,                  /* what a use counts at first */
    WAITS = 8                  /* page faults from the disk in a layer that make the store look what is still in memory */
};

typedef enum part_state {
    ABSENT,
    QUEUED,
    READING,
    PRESENT,
    LEAVING                    /* its pages are being given back */
} part_state;

typedef struct part {
    struct {
        const uint8_t *data;
        uint64_t bytes;
    } range[RANGES];
    uint64_t bytes;
    int32_t layer;
    uint32_t uses;
    part_state state;
    bool held, expert;
} part;

struct eg_store {
    eg_gguf *file;
    int32_t layers, experts;
    part *parts;               /* of layer 0 .. layers, CORE each, then the experts of layer 0, of layer 1 and so on */
    int32_t n_parts;
    bool drop;

    eg_mutex mutex;            /* guards what follows */
    eg_condition work, arrived, room;
    uint64_t least, budget;    /* bytes */
    uint64_t taken, leaving;   /* bytes; taken: of parts that are READING, PRESENT or LEAVING; leaving: of the last */
    int32_t *queue;            /* [n_parts] ring of those that are QUEUED */
    int32_t head, queued, reading;
    int32_t *held;             /* [CORE + experts] parts in use */
    int32_t n_held, layer;     /* layer: in use */
    uint64_t tokens;           /* since uses were halved */
    long waits;
    int32_t doubts;            /* layers in which to look what is still in memory */
    eg_store_counts counts;
    eg_thread threads[READERS];
    int32_t n_threads;
    bool quit, failed;
    atomic_long process;       /* whose threads these are */
};

/* ---- parts ------------------------------------------------------------------------------------------------------- */

static void add_range(part *p, const eg_matrix *w, size_t skipped)
{
    const uint64_t bytes = w->data ? (uint64_t)w->rows * w->row_bytes : 0;
    int i = 0;
    while (i < RANGES && p->range[i].bytes) i++;
    if (!bytes || i == RANGES) return;
    p->range[i].data = w->data + skipped;
    p->range[i].bytes = bytes;
    p->bytes += bytes;
}

static part core_part(const eg_weights *w, const eg_config *c, int32_t layer, int i)
{
    part p = {.layer = layer, .uses = UINT32_MAX};   /* every token uses it */
    if (layer == c->layers) {
        const eg_matrix *all[CORE] = {w->output_lean.data ? &w->output_lean : &w->output, &w->per_layer_model_proj};
        if (all[i]) add_range(&p, all[i], 0);
    } else {
        const eg_layer *l = &w->layer[layer];
        const eg_matrix *all[CORE] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down, &l->router};
        add_range(&p, all[i], 0);
    }
    return p;
}

static part expert_part(const eg_weights *w, int32_t layer, int32_t expert)
{
    const eg_layer *l = &w->layer[layer];
    const eg_experts *all[] = {&l->expert_gate, &l->expert_up, &l->expert_down};
    part p = {.layer = layer, .expert = true};
    for (int i = 0; i < RANGES; i++) add_range(&p, &all[i]->first, (size_t)expert * all[i]->stride);
    return p;
}

static int32_t core_index(int32_t layer, int i) { return layer * CORE + i; }

static int32_t expert_index(const eg_store *s, int32_t layer, int32_t expert)
{
    return (s->layers + 1) * CORE + layer * s->experts + expert;
}

uint64_t eg_store_bytes(const eg_weights *w, const eg_config *c)
{
    uint64_t total = 0;
    for (int32_t l = 0; l <= c->layers; l++)
        for (int i = 0; i < CORE; i++) total += core_part(w, c, l, i).bytes;
    for (int32_t l = 0; l < c->layers && c->experts; l++) total += (uint64_t)c->experts * expert_part(w, l, 0).bytes;
    return total;
}

/* With experts: all else, since every token needs it, and the experts that a token chooses in a layer. Without: two layers, one that is
 * in use and one that is read. */
uint64_t eg_store_least(const eg_weights *w, const eg_config *c)
{
    uint64_t most = 0, all = 0, experts = 0;
    for (int32_t l = 0; l <= c->layers; l++) {
        uint64_t bytes = 0;
        for (int i = 0; i < CORE; i++) bytes += core_part(w, c, l, i).bytes;
        most = bytes > most ? bytes : most;
        all += bytes;
    }
    for (int32_t l = 0; l < c->layers && c->experts; l++) {
        const uint64_t bytes = (uint64_t)c->experts_used * expert_part(w, l, 0).bytes;
        experts = bytes > experts ? bytes : experts;
    }
    return c->experts ? all + experts : 2 * most;
}

/* ---- the order of leaving ---------------------------------------------------------------------------------------- */

/* Layers until a part is used again. */
static int32_t distance(const eg_store *s, const part *p)
{
    const int32_t ahead = p->layer - s->layer;
    return ahead > 0 ? ahead : ahead + s->layers + 1;
}

/* Whether a leaves before b. */
static bool leaves_first(const eg_store *s, const part *a, const part *b)
{
    if (a->uses != b->uses) return a->uses < b->uses;
    return distance(s, a) > distance(s, b);
}

static part *first_to_leave(const eg_store *s)
{
    part *first = NULL;
    for (int32_t i = 0; i < s->n_parts; i++) {
        part *p = &s->parts[i];
        if (p->state == PRESENT && !p->held && (!first || leaves_first(s, p, first))) first = p;
    }
    return first;
}

/* Gives a part's pages back. The mutex is not held meanwhile. */
static void leave(eg_store *s, part *p)
{
    p->state = LEAVING;
    s->leaving += p->bytes;
    eg_mutex_unlock(&s->mutex);
    for (int i = 0; i < RANGES && p->range[i].bytes; i++)
        eg_gguf_release(s->file, p->range[i].data, p->range[i].bytes, s->drop);
    eg_mutex_lock(&s->mutex);
    p->state = ABSENT;
    s->leaving -= p->bytes;
    s->taken -= p->bytes;
    eg_condition_broadcast(&s->arrived);
    eg_condition_broadcast(&s->room);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* Whether there will be more room without what is queued. */
static bool room_will_come(const eg_store *s)
{
    if (s->reading || s->leaving) return true;
    for (int32_t i = 0; i < s->n_held; i++) {
        const part *p = &s->parts[s->held[i]];
        if (p->expert && p->held && p->state != QUEUED) return true;
    }
    return false;
}

/* Reads the part at the head of the queue, if there is room for it; gives something back or waits otherwise. */
static void read_next(eg_store *s)
{
    part *p = &s->parts[s->queue[s->head]], *leaving;
    if (s->taken - s->leaving + p->bytes > s->budget && (leaving = first_to_leave(s))) {
        leave(s, leaving);
        return;
    }
    if (s->taken + p->bytes > s->budget && room_will_come(s)) {
        eg_condition_wait(&s->room, &s->mutex);
        return;
    }
    s->head = (s->head + 1) % s->n_parts;
    s->queued--;
    s->reading++;
    s->taken += p->bytes;
    s->counts.bytes += p->bytes;
    p->state = READING;
    eg_mutex_unlock(&s->mutex);
    bool good = true;
    for (int i = 0; i < RANGES && p->range[i].bytes; i++) good &= eg_map_read(p->range[i].data, p->range[i].bytes);
    eg_mutex_lock(&s->mutex);
    p->state = PRESENT;
    s->reading--;
    s->failed |= !good;
    if (!good) eg_gguf_fail(s->file);
    eg_condition_broadcast(&s->arrived);
    eg_condition_broadcast(&s->room);
}

static void reader_main(void *argument)
{
    eg_store *s = argument;
    eg_mutex_lock(&s->mutex);
    while (!s->quit)
        if (s->queued) read_next(s);
        else eg_condition_wait(&s->work, &s->mutex);
    eg_mutex_unlock(&s->mutex);
}

/* Waits for something to arrive; without threads, by reading. */
static void wait_for_arrival(eg_store *s)
{
    if (!s->n_threads && s->queued) read_next(s);
    else eg_condition_wait(&s->arrived, &s->mutex);
}

/* Puts a part that is not there into the queue. Whether it was there. */
static bool ask(eg_store *s, part *p)
{
    while (p->state == LEAVING) wait_for_arrival(s);
    if (p->state == PRESENT && s->doubts) {
        bool present = true;
        for (int i = 0; i < RANGES && p->range[i].bytes; i++) present &= eg_map_is_present(p->range[i].data, p->range[i].bytes);
        if (!present) {
            p->state = ABSENT;
            s->taken -= p->bytes;
        }
    }
    if (p->state == ABSENT && p->bytes) {
        p->state = QUEUED;
        s->queue[(s->head + s->queued++) % s->n_parts] = (int32_t)(p - s->parts);
        eg_condition_signal(&s->work);
        return false;
    }
    return p->state == PRESENT;
}

static void hold(eg_store *s, part *p, int32_t tokens)
{
    if (!p->held) s->held[s->n_held++] = (int32_t)(p - s->parts);
    p->held = true;
    if (p->expert) p->uses += (uint32_t)tokens * USE;
}

/* The caller that has the turn needs nothing more of what it held. */
static void let_go(eg_store *s)
{
    for (int32_t i = 0; i < s->n_held; i++) s->parts[s->held[i]].held = false;
    s->n_held = 0;
}

/* ---- use --------------------------------------------------------------------------------------------------------- */

/* Notices when the system takes pages that the store counts on, because others need memory. */
static void look_around(eg_store *s)
{
    const long waits = eg_memory_waits();
    if (waits - s->waits > WAITS) s->doubts = 2 * s->layers;
    else if (s->doubts) s->doubts--;
    s->waits = waits;
}

static void grow_older(eg_store *s, int64_t tokens)
{
    s->tokens += (uint64_t)tokens;
    if (s->tokens < HALF_LIFE) return;
    for (int32_t i = 0; i < s->n_parts; i++)
        if (s->parts[i].expert) s->parts[i].uses /= 2;
    s->tokens = 0;
}

bool eg_store_use(eg_store *s, int32_t layer, int64_t tokens, int32_t ahead)
{
    if (!s) return true;
    eg_mutex_lock(&s->mutex);
    let_go(s);
    s->layer = layer;
    look_around(s);
    if (layer == 0) grow_older(s, tokens);
    for (int i = 0; i < CORE; i++) {
        hold(s, &s->parts[core_index(layer, i)], 0);
        ask(s, &s->parts[core_index(layer, i)]);
    }
    for (int i = 0; i < CORE && ahead >= 0; i++) ask(s, &s->parts[core_index(ahead, i)]);
    for (int i = 0; i < CORE && !s->failed; i++) {
        const part *p = &s->parts[core_index(layer, i)];
        while (p->bytes && p->state != PRESENT && !s->failed) wait_for_arrival(s);
    }
    const bool good = !s->failed;
    eg_mutex_unlock(&s->mutex);
    return good;
}

void eg_store_choose(eg_store *s, int32_t layer, int32_t *experts, int32_t n, const int32_t *tokens)
{
    if (!s) return;
    int32_t hits = 0;
    eg_mutex_lock(&s->mutex);
    for (int32_t i = 0; i < n; i++) hold(s, &s->parts[expert_index(s, layer, experts[i])], tokens[experts[i]]);
    for (int32_t i = 0; i < n; i++) {
        const int32_t expert = experts[i];
        if (!ask(s, &s->parts[expert_index(s, layer, expert)])) continue;
        memmove(experts + hits + 1, experts + hits, (size_t)(i - hits) * sizeof *experts);
        experts[hits++] = expert;
    }
    s->counts.hits += (uint64_t)hits;
    s->counts.misses += (uint64_t)(n - hits);
    eg_mutex_unlock(&s->mutex);
}

int32_t eg_store_ready(eg_store *s, int32_t layer, const int32_t *experts, int32_t n)
{
    if (!s) return n;
    int32_t ready = 0;
    eg_mutex_lock(&s->mutex);
    while (!s->failed && s->parts[expert_index(s, layer, experts[0])].state != PRESENT) wait_for_arrival(s);
    while (!s->failed && ready < n && s->parts[expert_index(s, layer, experts[ready])].state == PRESENT) ready++;
    eg_mutex_unlock(&s->mutex);
    return ready;
}

void eg_store_done(eg_store *s, int32_t layer, const int32_t *experts, int32_t n)
{
    if (!s) return;
    eg_mutex_lock(&s->mutex);
    for (int32_t i = 0; i < n; i++) s->parts[expert_index(s, layer, experts[i])].held = false;
    if (s->queued) eg_condition_broadcast(&s->room);
    eg_mutex_unlock(&s->mutex);
}

eg_store_counts eg_store_take_counts(eg_store *s)
{
    eg_store_counts counts = {0, 0, 0};
    if (!s) return counts;
    eg_mutex_lock(&s->mutex);
    counts = s->counts;
    s->counts = (eg_store_counts){0, 0, 0};
    eg_mutex_unlock(&s->mutex);
    return counts;
}

void eg_store_set_budget(eg_store *s, uint64_t budget)
{
    eg_mutex_lock(&s->mutex);
    s->budget = budget > s->least ? budget : s->least;
    for (part *p; s->taken - s->leaving > s->budget && (p = first_to_leave(s));) leave(s, p);
    eg_mutex_unlock(&s->mutex);
}

uint64_t eg_store_budget(eg_store *s)
{
    if (!s) return 0;
    eg_mutex_lock(&s->mutex);
    const uint64_t budget = s->budget;
    eg_mutex_unlock(&s->mutex);
    return budget;
}

void eg_store_trim(eg_store *s, bool idle)
{
    if (!s) return;
    eg_mutex_lock(&s->mutex);
    if (idle) let_go(s);
    part *p;
    for (int32_t i = 0; i < s->n_parts && (p = first_to_leave(s)); i++) leave(s, p); /* a call that goes on may read again */
    eg_mutex_unlock(&s->mutex);
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static void start_threads(eg_store *s)
{
    eg_mutex_init(&s->mutex);
    eg_condition_init(&s->work);
    eg_condition_init(&s->arrived);
    eg_condition_init(&s->room);
    eg_mutex_lock(&s->mutex);
    for (s->n_threads = 0; s->n_threads < READERS; s->n_threads++) /* with none, whoever waits reads */
        if (!eg_thread_create(&s->threads[s->n_threads], reader_main, s)) break;
    eg_mutex_unlock(&s->mutex);
}

void eg_store_renew(eg_store *s)
{
    if (!s) return;
    const long here = eg_process_id();
    for (long owner; (owner = atomic_load(&s->process)) != here;) {
        if (!owner || !atomic_compare_exchange_strong(&s->process, &owner, 0)) continue;
        s->queued = s->reading = s->n_held = 0;
        s->taken = s->leaving = 0;
        for (int32_t i = 0; i < s->n_parts; i++) {
            part *p = &s->parts[i];
            p->held = false;
            p->state = p->state == PRESENT ? PRESENT : ABSENT;
            s->taken += p->state == PRESENT ? p->bytes : 0;
        }
        start_threads(s);
        atomic_store(&s->process, here);
    }
}

static void describe(eg_store *s, const eg_weights *w, const eg_config *c)
{
    for (int32_t l = 0; l <= s->layers; l++)
        for (int i = 0; i < CORE; i++) s->parts[core_index(l, i)] = core_part(w, c, l, i);
    for (int32_t l = 0; l < s->layers; l++)
        for (int32_t e = 0; e < s->experts; e++) s->parts[expert_index(s, l, e)] = expert_part(w, l, e);
}

/* Whatever reads is the store: no page fault may bring in what nobody counts, neither a huge page nor, around a vector, the weights
 * beside it. Vectors, which are in no part, are read once, and together are smaller than an expert. Weights keep the usual read-ahead:
 * with EG_ADVICE_RANDOM Linux reads a single page for a fault, and evicts pages without a look at their use. */
static void advise(const eg_store *s)
{
    enum { VECTOR = 256 << 10 };
    for (int pass = 0; pass < 2; pass++)
        for (uint64_t i = 0; i < eg_gguf_tensor_count(s->file); i++) {
            const eg_gguf_tensor *t = eg_gguf_tensor_at(s->file, i);
            const bool vector = t->bytes <= VECTOR;
            if (!pass) eg_map_advise(t->data, t->bytes, vector ? EG_ADVICE_RANDOM : EG_ADVICE_SMALL);
            if (!pass && vector) eg_map_advise(t->data, t->bytes, EG_ADVICE_WILLNEED);
            if (pass && vector) eg_map_read(t->data, t->bytes);
        }
}

eg_status eg_store_open(eg_gguf *file, const eg_weights *w, const eg_config *c, uint64_t budget, bool drop, eg_store **out,
                        eg_error *err)
{
    eg_store *s = calloc(1, sizeof *s);
    if (s) {
        s->file = file;
        s->layers = c->layers;
        s->experts = c->experts;
        s->drop = drop;
        s->least = eg_store_least(w, c);
        s->budget = budget > s->least ? budget : s->least;
        s->n_parts = (c->layers + 1) * CORE + c->layers * c->experts;
        s->parts = calloc((size_t)s->n_parts, sizeof *s->parts);
        s->queue = calloc((size_t)s->n_parts, sizeof *s->queue);
        s->held = calloc((size_t)(CORE + c->experts), sizeof *s->held);
    }
    if (!s || !s->parts || !s->queue || !s->held) {
        if (s) {
            free(s->parts);
            free(s->queue);
            free(s->held);
        }
        free(s);
        return eg_fail(err, EG_ERROR_MEMORY, "%s: out of memory.", eg_gguf_name(file));
    }
    describe(s, w, c);
    advise(s);
    atomic_store(&s->process, eg_process_id());
    start_threads(s);
    *out = s;
    return EG_OK;
}

void eg_store_close(eg_store *s)
{
    if (!s) return;
    if (atomic_load(&s->process) == eg_process_id()) {
        eg_mutex_lock(&s->mutex);
        s->quit = true;
        eg_condition_broadcast(&s->work);
        eg_condition_broadcast(&s->room);
        eg_mutex_unlock(&s->mutex);
        for (int32_t i = 0; i < s->n_threads; i++) eg_thread_join(s->threads[i]);
        eg_condition_destroy(&s->work);
        eg_condition_destroy(&s->arrived);
        eg_condition_destroy(&s->room);
        eg_mutex_destroy(&s->mutex);
    }
    free(s->parts);
    free(s->queue);
    free(s->held);
    free(s);
}
