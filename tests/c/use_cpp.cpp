// The public header from C++17: what use_c.c does, with the engine's objects owned by smart pointers.
#include "edge_gemma.h"

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Close {
    void operator()(eg_model *model) const { eg_model_close(model); }
    void operator()(eg_session *session) const { eg_session_close(session); }
};
using Model = std::unique_ptr<eg_model, Close>;
using Session = std::unique_ptr<eg_session, Close>;

EG_STRUCT(eg_sampling, greedy);   // outside of a function

void check(eg_status status, const eg_error &err)
{
    if (status != EG_OK)
        throw std::runtime_error(err.message);
}

Model open_model(const char *path)
{
    EG_STRUCT(eg_error, err);
    eg_model *model = nullptr;
    EG_STRUCT(eg_model_params, params);
    params.threads = 2;
    params.path = path;
    check(eg_model_open(&params, &model, &err), err);
    return Model(model);
}

Session open_session(eg_model *model)
{
    EG_STRUCT(eg_error, err);
    eg_session *session = nullptr;
    EG_STRUCT(eg_session_params, params);
    params.context = 256;
    params.kv = EG_KV_F32;
    check(eg_session_open(model, &params, &session, &err), err);
    return Session(session);
}

void print_hex(const char *name, const std::string &text)
{
    std::printf("%s ", name);
    for (unsigned char byte : text)
        std::printf("%02x", static_cast<unsigned>(byte));
    std::putchar('\n');
}

void run(const char *path)
{
    bool refused = false;
    try {
        open_model("no-such-file.gguf");
    } catch (const std::runtime_error &) {
        refused = true;
    }
    if (!refused)
        throw std::logic_error("a missing file was opened");

    Model model = open_model(path);
    Session session = open_session(model.get());
    EG_STRUCT(eg_error, err);

    const eg_chat_message messages[] = {{sizeof *messages, "system", "Be brief."},
                                        {sizeof *messages, "user", "Hello there"}};
    size_t length = 0;
    check(eg_chat_render(messages, 2, EG_CHAT_GENERATION, nullptr, 0, &length, &err), err);
    std::vector<char> buffer(length + 1);
    check(eg_chat_render(messages, 2, EG_CHAT_GENERATION, buffer.data(), buffer.size(), &length, &err), err);
    const std::string chat(buffer.data(), length);

    const eg_tokenizer *tokenizer = eg_model_tokenizer(model.get());
    size_t n = 0;
    check(eg_tokenizer_encode(tokenizer, chat.data(), chat.size(), EG_TEXT_SPECIAL, nullptr, 0, &n, &err), err);
    std::vector<int32_t> ids(n);
    check(eg_tokenizer_encode(tokenizer, chat.data(), chat.size(), EG_TEXT_SPECIAL, ids.data(), n, &n, &err), err);
    check(eg_session_feed_tokens(session.get(), ids.data(), ids.size(), &err), err);

    std::printf("version %s\nheader %s\n", eg_version(), EG_VERSION);
    print_hex("chat", chat);
    std::printf("prompt");
    for (int32_t id : ids)
        std::printf(" %d", static_cast<int>(id));

    std::string answer;
    std::printf("\nanswer");
    for (int i = 0; i < 8; i++) {
        EG_STRUCT(eg_token, token);
        check(eg_session_next(session.get(), &greedy, &token, &err), err);
        std::printf(" %d", static_cast<int>(token.id));
        if (token.stop != EG_STOP_NONE)
            break;
        answer.append(token.text, token.text_length);
    }
    std::putchar('\n');
    print_hex("text", answer);
    std::printf("position %lu\n", static_cast<unsigned long>(eg_session_position(session.get())));
}

}  // namespace

int main(int argc, char **argv)
{
    if (argc != 2)
        return 1;
    try {
        run(argv[1]);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
