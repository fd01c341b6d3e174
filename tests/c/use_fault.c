/* A disk that fails: a mapped model is cut short while it computes. The call ends with an error that names the file, and the
 * application's own handler of SIGBUS gets what is its own, before, during and after.
 * usage: use_fault MODEL [limited | tensors] (a copy, which is cut) */
#define _DEFAULT_SOURCE 1
#include <edge_gemma.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECK(what) \
    do { \
        if (!(what)) { \
            fprintf(stderr, "line %d: %s: %s\n", __LINE__, #what, err.message); \
            return EXIT_FAILURE; \
        } \
    } while (0)

static sigjmp_buf back;
static volatile sig_atomic_t own_faults;

static void own_handler(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info, (void)context;
    own_faults++;
    siglongjmp(back, 1);
}

/* Reads behind the end of a mapped file of the application's own. */
static void fault(const char *path)
{
    const int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    const int before = ftruncate(fd, 4096);
    volatile char *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (!before && !ftruncate(fd, 0) && !sigsetjmp(back, 1)) (void)*page;
    munmap((void *)page, 4096);
    close(fd);
}

static bool is_own(void)
{
    struct sigaction now;
    return !sigaction(SIGBUS, NULL, &now) && now.sa_sigaction == own_handler;
}

/* Reads all tensors of a file that is cut short while it is open. */
static int read_tensors(const char *path, off_t size)
{
    EG_STRUCT(eg_error, err);
    EG_STRUCT(eg_file_params, params);
    EG_STRUCT(eg_file_tensor, tensor);
    eg_file *file = NULL;
    unsigned long sum = 0;
    params.path = path;
    CHECK(!eg_file_open(&params, &file, &err) && is_own());   /* not asked for: no handler */
    eg_file_close(file);
    params.guard = true;
    CHECK(!eg_file_open(&params, &file, &err) && !is_own());
    CHECK(!eg_file_check(file, &err) && eg_file_check(NULL, &err) == EG_ERROR_ARGUMENT);
    CHECK(!truncate(path, size / 2));
    for (uint64_t i = 0; i < eg_file_tensor_count(file); i++) {
        CHECK(!eg_file_get_tensor(file, i, &tensor, &err));
        for (uint64_t at = 0; at < tensor.bytes; at++) sum += ((const unsigned char *)tensor.data)[at];
    }
    CHECK(sum > 0 && eg_file_check(file, &err) == EG_ERROR_FILE && strstr(err.message, path));
    eg_file_close(file);
    CHECK(is_own());
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    EG_STRUCT(eg_error, err);
    EG_STRUCT(eg_model_params, params);
    EG_STRUCT(eg_session_params, sp);
    EG_STRUCT(eg_token, token);
    struct sigaction own;
    struct stat info;
    char other[500];
    int32_t ids[200];
    eg_model *model = NULL;
    eg_session *session = NULL, *second = NULL;
    if (argc < 2 || stat(argv[1], &info)) return EXIT_FAILURE;
    snprintf(other, sizeof other, "%s.other", argv[1]);
    memset(&own, 0, sizeof own);
    own.sa_sigaction = own_handler;
    own.sa_flags = SA_SIGINFO;
    sigaction(SIGBUS, &own, NULL);
    for (int i = 0; i < 200; i++) ids[i] = 20 + i;
    if (argc > 2 && !strcmp(argv[2], "tensors")) return read_tensors(argv[1], info.st_size);

    params.path = argv[1];
    params.threads = 3;
    params.memory_limit = argc > 2;   /* then it is read by the threads of the store */
    CHECK(!eg_model_open(&params, &model, &err));
    CHECK(!eg_session_open(model, &sp, &session, &err) && !eg_session_open(model, &sp, &second, &err));
    CHECK(!eg_session_feed_tokens(session, ids, 100, &err) && !eg_session_next(session, NULL, &token, &err));
    fault(other);
    CHECK(own_faults == 1);

    CHECK(!eg_model_trim(model, &err) && !truncate(argv[1], info.st_size / 2));
    CHECK(eg_session_forward(session, ids, 200, NULL, NULL, &err) == EG_ERROR_FILE && strstr(err.message, argv[1]));
    CHECK(eg_session_position(session) < 301);
    CHECK(eg_session_next(session, NULL, &token, &err) == EG_ERROR_FILE);
    CHECK(eg_session_feed_tokens(second, ids, 1, &err) == EG_ERROR_FILE && strstr(err.message, "could not be read"));
    fault(other);
    CHECK(own_faults == 2);

    eg_session_close(session);
    eg_session_close(second);
    eg_model_close(model);
    CHECK(is_own());
    fault(other);
    CHECK(own_faults == 3);
    params.keep_sigbus = true;
    CHECK(eg_model_open(&params, &model, &err) != EG_OK && is_own());   /* cut short: refused, and no handler is left */
    unlink(other);
    return EXIT_SUCCESS;
}
