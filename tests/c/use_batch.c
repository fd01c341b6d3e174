/* Several sessions of one model: alone and in one pass, by several threads at once, drafts, forks, masks, and a model that is
 * closed before its sessions. Prints the tokens, which are the same on every machine. usage: use_batch MODEL */
#include <edge_gemma.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SESSIONS = 5, STEPS = 6, PROMPT = 150 };

#define CHECK(what) \
    do { \
        if (!(what)) { \
            fprintf(stderr, "line %d: %s: %s\n", __LINE__, #what, err.message); \
            return EXIT_FAILURE; \
        } \
    } while (0)

static void fill(int32_t *ids, int number)
{
    unsigned state = (unsigned)number + 1;
    for (int i = 0; i < PROMPT; i++) {
        state = state * 1103515245u + 12345u;
        ids[i] = 20 + (int32_t)(state >> 16) % 200;
    }
}

/* Session `number`, with a prompt of its own length, behind a window for some. */
static eg_session *begin(eg_model *model, int number)
{
    EG_STRUCT(eg_session_params, params);
    eg_session *session = NULL;
    int32_t ids[PROMPT];
    fill(ids, number);
    params.context = 256;
    params.kv = (eg_kv_type)(number % 3);
    if (eg_session_open(model, &params, &session, NULL)) return NULL;
    if (eg_session_feed_tokens(session, ids, (size_t)(1 + number * 37) % PROMPT, NULL)) return NULL;
    eg_session_seed(session, (uint64_t)number);
    return session;
}

typedef struct work {
    eg_model *model;
    int number;
    int32_t ids[STEPS];
    bool failed;
} work;

static void *draw_alone(void *argument)
{
    work *w = argument;
    eg_session *session = begin(w->model, w->number);
    w->failed = !session || eg_session_set_priority(session, w->number % 2, NULL);
    for (int i = 0; i < STEPS && !w->failed; i++) {
        EG_STRUCT(eg_token, token);
        w->failed = eg_session_next(session, NULL, &token, NULL) != EG_OK;
        w->ids[i] = token.id;
    }
    eg_session_close(session);
    return NULL;
}

static void *cancel(void *session)
{
    for (volatile int spin = 0; spin < 100000; spin++) continue;
    eg_session_cancel(session);
    return NULL;
}

/* A grammar of even numbers; its context is their mask. */
static const uint32_t *check_even(void *context, int32_t id) { return id % 2 ? context : NULL; }

static int check_drafts(eg_model *model, const work *alone)
{
    EG_STRUCT(eg_error, err);
    eg_session *session = begin(model, alone[1].number), *fork = NULL;
    EG_STRUCT(eg_token, token);
    int32_t draft[STEPS];
    float logprobs[STEPS];
    size_t kept = 0;
    memcpy(draft, alone[1].ids, sizeof draft);
    draft[3] = draft[3] ? 0 : 1;
    CHECK(session && !eg_session_fork(session, &fork, &err));
    CHECK(!eg_session_verify(session, draft, STEPS, NULL, logprobs, &kept, &err) && kept == 3);
    CHECK(!eg_session_next(session, NULL, &token, &err) && token.id == alone[1].ids[3]);
    CHECK(!eg_session_verify(fork, alone[1].ids, STEPS, NULL, NULL, &kept, &err) && kept == STEPS);
    int32_t ids[256];
    size_t n = eg_session_get_tokens(fork, 0, ids, 256);
    CHECK(!eg_session_sync(session, ids, n, &kept, &err) && kept >= n - STEPS);
    CHECK(eg_session_position(session) == n);
    uint32_t mask[1 << 14] = {0};
    EG_STRUCT(eg_sampling, only);
    mask[1] = 1u << 5;
    only.mask = mask;
    only.n_mask = 1 << 14;
    only.logprobs = true;
    only.top_logprobs = 3;
    CHECK(!eg_session_next(session, &only, &token, &err) && token.id == 37 && token.n_top_logprobs == 3);
    only.mask = NULL;
    only.check_token = check_even;
    only.check_context = mask;
    memset(mask, 0x55, sizeof mask);
    for (int i = 0; i < 8; i++) CHECK(!eg_session_next(session, &only, &token, &err) && token.id % 2 == 0);
    eg_session_close(fork);
    eg_session_close(session);
    return EXIT_SUCCESS;
}

static int check_cancelling(eg_model *model)
{
    EG_STRUCT(eg_error, err);
    int32_t ids[PROMPT];
    fill(ids, 9);
    for (int round = 0; round < 5; round++) {
        eg_session *reader = begin(model, 0), *writer = begin(model, 1);
        EG_STRUCT(eg_token, token);
        eg_batch_item items[2] = {{.struct_size = sizeof *items, .session = reader, .ids = ids, .n = PROMPT},
                                  {.struct_size = sizeof *items, .session = writer, .draw = true, .token = &token}};
        pthread_t other;
        size_t before = eg_session_position(writer);
        CHECK(reader && writer && !pthread_create(&other, NULL, cancel, reader));
        eg_status status = eg_batch_run(items, 2, &err);
        pthread_join(other, NULL);
        CHECK(status == EG_OK || (status == EG_CANCELLED && items[0].cancelled && !items[1].cancelled));
        CHECK(eg_session_position(writer) == before + !status);
        eg_session_close(reader);
        eg_session_close(writer);
    }
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    EG_STRUCT(eg_error, err);
    EG_STRUCT(eg_model_params, params);
    eg_model *model = NULL;
    if (argc != 2) return EXIT_FAILURE;
    params.path = argv[1];
    params.threads = 2;
    CHECK(!eg_model_open(&params, &model, &err));

    work alone[SESSIONS], at_once[SESSIONS];
    pthread_t threads[SESSIONS];
    for (int i = 0; i < SESSIONS; i++) alone[i] = at_once[i] = (work){.model = model, .number = i + 1};
    for (int i = 0; i < SESSIONS; i++) draw_alone(&alone[i]);
    for (int i = 0; i < SESSIONS; i++) CHECK(!pthread_create(&threads[i], NULL, draw_alone, &at_once[i]));
    for (int i = 0; i < SESSIONS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < SESSIONS; i++)
        CHECK(!alone[i].failed && !at_once[i].failed && !memcmp(alone[i].ids, at_once[i].ids, sizeof alone[i].ids));

    eg_session *sessions[SESSIONS];
    for (int i = 0; i < SESSIONS; i++) CHECK((sessions[i] = begin(model, i + 1)));
    for (int step = 0; step < STEPS; step++) {
        eg_token tokens[SESSIONS];
        memset(tokens, 0, sizeof tokens);
        for (int i = 0; i < SESSIONS; i++) tokens[i].struct_size = sizeof *tokens;
        CHECK(!eg_batch_next(sessions, SESSIONS, NULL, tokens, &err));
        for (int i = 0; i < SESSIONS; i++) CHECK(tokens[i].id == alone[i].ids[step]);
    }
    for (int i = 0; i < SESSIONS; i++) {
        for (int step = 0; step < STEPS; step++) printf("%d ", (int)alone[i].ids[step]);
        putchar('\n');
    }
    if (check_drafts(model, alone) || check_cancelling(model)) return EXIT_FAILURE;

    eg_model_close(model);   /* the sessions keep it alive */
    EG_STRUCT(eg_token, token);
    CHECK(!eg_session_next(sessions[0], NULL, &token, &err));
    for (int i = 0; i < SESSIONS; i++) eg_session_close(sessions[i]);
    return EXIT_SUCCESS;
}
