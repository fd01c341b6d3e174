/* An application compiled against another version of the header than the library: what test_versions.py makes of it, older
 * (the last fields of structs cut off) or newer (with EG_TEST_FUTURE, a field `future` behind the last one of each struct).
 *
 *     use_version MODEL MMPROJ      exits with 0 when everything works as the header promises
 *
 * Every struct that the library fills lies between two guards. */
#include "edge_gemma.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 0x5a };

#define GUARDED(type, name) \
    struct { \
        unsigned char before[64]; \
        type value; \
        unsigned char after[64]; \
    } name; \
    memset(&name, GUARD, sizeof name); \
    name.value.struct_size = sizeof name.value

#define REQUIRE(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
            exit(EXIT_FAILURE); \
        } \
    } while (0)

#define REQUIRE_GUARDS(name) \
    do { \
        REQUIRE(whole(name.before, sizeof name.before)); \
        REQUIRE(whole(name.after, sizeof name.after)); \
        REQUIRE(name.value.struct_size == sizeof name.value); \
    } while (0)

#ifdef EG_TEST_FUTURE
#define IS_ZERO(name) REQUIRE(name.value.future == 0)
/* What a call returns when the unknown field of `params` is set. The field is zero again afterwards. */
#define REQUIRE_REFUSED(params, call) \
    do { \
        params.future = 7; \
        REQUIRE((call) == EG_ERROR_ARGUMENT); \
        REQUIRE(strstr(err.value.message, "does not know")); \
        params.future = 0; \
    } while (0)
#else
#define IS_ZERO(name) (void)name
#define REQUIRE_REFUSED(params, call) (void)params
#endif

static int whole(const unsigned char *guard, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (guard[i] != GUARD) return 0;
    return 1;
}

static void check_files(const char *path)
{
    GUARDED(eg_error, err);
    GUARDED(eg_file_metadata, metadata);
    GUARDED(eg_file_tensor, tensor);
    eg_file *file = NULL;
    eg_file_params params = {.struct_size = sizeof params, .path = path};
    REQUIRE_REFUSED(params, eg_file_open(&params, &file, &err.value));
    REQUIRE(!eg_file_open(&params, &file, &err.value));
    REQUIRE(!eg_file_get_metadata(file, 0, &metadata.value, &err.value) && metadata.value.key_length > 0);
    REQUIRE(!eg_file_get_tensor(file, 0, &tensor.value, &err.value) && tensor.value.name_length > 0);
    REQUIRE(eg_file_get_tensor(file, UINT64_MAX, &tensor.value, &err.value) == EG_ERROR_ARGUMENT);
    REQUIRE(err.value.status == EG_ERROR_ARGUMENT && strlen(err.value.message) < sizeof err.value.message);
    IS_ZERO(err);
    IS_ZERO(metadata);
    IS_ZERO(tensor);
    REQUIRE_GUARDS(err);
    REQUIRE_GUARDS(metadata);
    REQUIRE_GUARDS(tensor);
    eg_file_close(file);

    eg_tokenizer *tokenizer;
    REQUIRE_REFUSED(params, eg_tokenizer_open(&params, &tokenizer, &err.value));
    REQUIRE(!eg_tokenizer_open(&params, &tokenizer, &err.value) && eg_tokenizer_vocab_size(tokenizer) > 0);
    eg_tokenizer_close(tokenizer);
}

static void check_chat(void)
{
    GUARDED(eg_error, err);
    eg_chat_message messages[] = {{.struct_size = sizeof *messages, .role = "system", .content = "Be brief."},
                                  {.struct_size = sizeof *messages, .role = "user", .content = "Hello"}};
    static const char want[] = "<bos><|turn>system\nBe brief.<turn|>\n<|turn>user\nHello<turn|>\n";
    char text[200];
    size_t length;
    REQUIRE_REFUSED(messages[1], eg_chat_render(messages, 2, 0, text, sizeof text, &length, &err.value));
    REQUIRE(!eg_chat_render(messages, 2, 0, text, sizeof text, &length, &err.value));
    REQUIRE(!strcmp(text, want) && length == sizeof want - 1);
    REQUIRE_GUARDS(err);
}

static void check_session(eg_model *model)
{
    GUARDED(eg_error, err);
    GUARDED(eg_memory, memory);
    GUARDED(eg_stats, stats);
    GUARDED(eg_token, token);
    eg_session *session;
    eg_session_params params = {.struct_size = sizeof params, .context = 128};
    REQUIRE_REFUSED(params, eg_session_open(model, &params, &session, &err.value));
    REQUIRE(!eg_session_estimate(model, &params, &memory.value, &err.value));
    REQUIRE(!eg_session_open(model, &params, &session, &err.value) && eg_session_context(session) == 128);
    REQUIRE(!eg_session_feed_text(session, "<bos>Hello", SIZE_MAX, EG_TEXT_SPECIAL, &err.value));

    GUARDED(eg_sampling, recommended);
    eg_sampling sampling = {.struct_size = sizeof sampling};   /* greedy */
    eg_sampling_default(&recommended.value);
    IS_ZERO(recommended);
    REQUIRE_GUARDS(recommended);
    REQUIRE(recommended.value.temperature == 1 && recommended.value.top_k == 64);
    REQUIRE_REFUSED(sampling, eg_session_next(session, &sampling, &token.value, &err.value));
    printf("tokens");
    for (int i = 0; i < 8; i++) {
        REQUIRE(!eg_session_next(session, &sampling, &token.value, &err.value));
        printf(" %d", (int)token.value.id);
        IS_ZERO(token);
        REQUIRE_GUARDS(token);
    }
    putchar('\n');
    REQUIRE(!eg_session_next(session, &recommended.value, &token.value, &err.value));

    eg_audio_params audio = {.struct_size = sizeof audio, .left_context = 13};
    REQUIRE_REFUSED(audio, eg_session_audio_begin(session, &audio, &err.value));
    REQUIRE(!eg_session_audio_begin(session, &audio, &err.value) && !eg_session_audio_abort(session, &err.value));

    const uint8_t pixel[3] = {0};
    eg_image image = {.struct_size = sizeof image, .width = 1, .height = 1, .rgb = pixel};
    REQUIRE_REFUSED(image, eg_session_feed_image(session, &image, &err.value));
    REQUIRE(eg_session_feed_image(session, &image, &err.value) == EG_ERROR_UNSUPPORTED);
    REQUIRE(!eg_session_get_stats(session, &stats.value, &err.value) && stats.value.decode_tokens == 9);
    REQUIRE(!eg_session_get_memory(session, &memory.value, &err.value) && memory.value.mapped > 0);
    IS_ZERO(stats);
    IS_ZERO(memory);
    REQUIRE_GUARDS(stats);
    REQUIRE_GUARDS(memory);
    REQUIRE_GUARDS(err);
    eg_session_close(session);
}

int main(int argc, char **argv)
{
    if (argc != 3) return EXIT_FAILURE;
    GUARDED(eg_error, err);
    GUARDED(eg_model_info, info);
    eg_model *model;
    eg_model_params params = {.struct_size = sizeof params, .path = argv[1]};
    params.mmproj = argv[2];
    REQUIRE_REFUSED(params, eg_model_open(&params, &model, &err.value));
    REQUIRE(!eg_model_open(&params, &model, &err.value));
    REQUIRE(!eg_model_get_info(model, &info.value, &err.value) && info.value.layers > 0);
    IS_ZERO(info);
    REQUIRE_GUARDS(info);
    check_files(argv[1]);
    check_chat();
    check_session(model);
    eg_model_close(model);
    return EXIT_SUCCESS;
}
