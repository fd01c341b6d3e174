/* A model that is larger than its memory limit: the same bits as without a limit, from several threads at once, while its memory is
 * given back again and again. usage: use_limit MODEL */
#include <edge_gemma.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 3, PROMPT = 140, STEPS = 12 };

static atomic_bool ended;

typedef struct work {
    eg_model *model;
    int number;
    uint32_t vocab;
    float *logits; /* [vocab] after the last token */
    uint64_t read; /* bytes of weights */
    bool failed;
} work;

static void *evaluate(void *argument)
{
    work *w = argument;
    EG_STRUCT(eg_session_params, params);
    EG_STRUCT(eg_sampling, greedy);
    EG_STRUCT(eg_stats, stats);
    EG_STRUCT(eg_error, err);
    eg_session *session = NULL;
    int32_t ids[PROMPT];
    for (int i = 0; i < PROMPT; i++) ids[i] = 20 + (i * 37 + w->number * 11) % 200;
    params.context = 256;
    w->failed = eg_session_open(w->model, &params, &session, &err) || eg_session_feed_tokens(session, ids, PROMPT, &err);
    for (int i = 0; i < STEPS && !w->failed; i++) {
        EG_STRUCT(eg_token, token);
        w->failed = eg_session_next(session, &greedy, &token, &err);
    }
    if (!w->failed) w->failed = eg_session_logits(session, w->logits, &err) || eg_session_get_stats(session, &stats, &err);
    if (w->failed) fprintf(stderr, "session %d: %s\n", w->number, err.message);
    w->read = stats.weight_bytes;
    eg_session_close(session);
    return NULL;
}

static void *trim(void *model)
{
    while (!atomic_load(&ended)) eg_model_trim(model, NULL);
    return NULL;
}

static eg_model *open(const char *path, uint64_t limit, uint32_t *vocab)
{
    EG_STRUCT(eg_model_params, params);
    EG_STRUCT(eg_model_info, info);
    EG_STRUCT(eg_error, err);
    eg_model *model = NULL;
    params.path = path;
    params.threads = 2;
    params.memory_limit = limit;
    if (eg_model_open(&params, &model, &err) || eg_model_get_info(model, &info, &err)) fprintf(stderr, "%s\n", err.message);
    else if ((info.weight_budget > 0) != (limit > 0)) fprintf(stderr, "budget %llu\n", (unsigned long long)info.weight_budget);
    else *vocab = info.vocab_size;
    return model;
}

int main(int argc, char **argv)
{
    if (argc != 2) return EXIT_FAILURE;
    uint32_t vocab = 0;
    eg_model *whole = open(argv[1], 0, &vocab), *limited = vocab ? open(argv[1], 1, &vocab) : NULL;
    if (!limited) return EXIT_FAILURE;
    int wrong = 0;
    for (int round = 0; round < 2; round++) { /* the second one while memory is given back */
        pthread_t threads[THREADS], trimmer;
        work works[THREADS], right;
        atomic_store(&ended, false);
        if (round && pthread_create(&trimmer, NULL, trim, limited)) return EXIT_FAILURE;
        for (int i = 0; i < THREADS; i++) {
            works[i] = (work){.model = limited, .number = i, .vocab = vocab, .logits = calloc(vocab, sizeof(float))};
            if (pthread_create(&threads[i], NULL, evaluate, &works[i])) return EXIT_FAILURE;
        }
        for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
        atomic_store(&ended, true);
        if (round) pthread_join(trimmer, NULL);
        for (int i = 0; i < THREADS; i++) {
            right = (work){.model = whole, .number = i, .vocab = vocab, .logits = calloc(vocab, sizeof(float))};
            evaluate(&right);
            wrong += works[i].failed || right.failed || right.read || !works[i].read ||
                     memcmp(right.logits, works[i].logits, vocab * sizeof(float));
            free(right.logits);
            free(works[i].logits);
        }
    }
    eg_model_close(whole);
    eg_model_close(limited);
    if (wrong) fprintf(stderr, "%d sessions differ\n", wrong);
    return wrong ? EXIT_FAILURE : EXIT_SUCCESS;
}
