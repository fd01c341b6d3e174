/* Conversations: opening, and the history. */
#include "chat.h"

#include "../base/grow.h"
#include "../base/structs.h"
#include "objects.h"

#include <stdio.h>

static eg_status no_memory(eg_error *err) { return eg_fail(err, EG_ERROR_MEMORY, "no memory for the conversation."); }

static char *copy(const char *text, size_t length)
{
    char *made = length < SIZE_MAX ? malloc(length + 1) : NULL;
    if (made) {
        memcpy(made, text, length);
        made[length] = '\0';
    }
    return made;
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

/* Reads text[length] into chunks. what: the subject of an error's sentence, with its verb. */
static eg_status read_json(const char *text, size_t length, const char *what, eg_chunks *chunks, eg_json **out, eg_error *err)
{
    const char *problem = NULL;
    size_t at = 0;
    *out = eg_json_read(text, length, chunks, &problem, &at);
    if (*out) return EG_OK;
    return problem ? eg_fail(err, EG_ERROR_FORMAT, "%s no JSON: %s at byte %zu.", what, problem, at) : no_memory(err);
}

static eg_status read_tools(eg_chat *c, const char *tools, eg_error *err)
{
    const char *text = eg_chunks_copy(&c->tool_memory, tools, strlen(tools));
    if (!text) return no_memory(err);
    eg_status status = read_json(text, strlen(text), "tools are", &c->tool_memory, &c->tools, err);
    if (status) return status;
    const char *problem = eg_tools_check(c->tools);
    return problem ? eg_fail(err, EG_ERROR_FORMAT, "tools %s.", problem) : EG_OK;
}

static eg_status read_params(eg_chat *c, const eg_chat_params *p, eg_error *err)
{
    c->overflow = p->overflow;
    c->max_tokens = p->max_tokens;
    c->thinking = p->thinking;
    c->empty_thought = p->empty_thought;
    if ((uint32_t)p->overflow > EG_OVERFLOW_FORGET)
        return eg_fail(err, EG_ERROR_ARGUMENT, "unknown overflow policy %d.", (int)p->overflow);
    if (p->n_stops > 1000) return eg_fail(err, EG_ERROR_ARGUMENT, "%zu stop texts are more than 1000.", p->n_stops);
    c->stops = calloc(p->n_stops + 1, sizeof *c->stops);
    if (!c->stops) return no_memory(err);
    for (size_t i = 0; i < p->n_stops; i++) {
        const char *stop = p->stops ? p->stops[i] : NULL;
        if (!stop || !*stop) return eg_fail(err, EG_ERROR_ARGUMENT, "stops[%zu] is NULL or empty.", i);
        if (!(c->stops[c->n_stops++] = copy(stop, strlen(stop)))) return no_memory(err);
    }
    if (p->system && !(c->system = copy(p->system, strlen(p->system)))) return no_memory(err);
    return p->tools ? read_tools(c, p->tools, err) : EG_OK;
}

eg_status eg_chat_open(eg_model *model, const eg_chat_params *params, eg_chat **out, eg_error *err)
{
    eg_chat_params p = {.struct_size = sizeof p};
    if (!model || !out) return eg_fail(err, EG_ERROR_ARGUMENT, "model or out is NULL.");
    eg_status status = params ? eg_struct_read(params, &p, sizeof p, "eg_chat_params", err) : EG_OK;
    if (status) return status;
    eg_chat *c = calloc(1, sizeof *c);
    if (!c) return no_memory(err);
    atomic_store(&c->references, 1);
    c->model = model;
    const eg_session_params session = {.struct_size = sizeof session, .context = p.context, .kv = p.kv};
    status = read_params(c, &p, err);
    if (!status) status = eg_session_open(model, &session, &c->session, err);
    if (status) {
        eg_chat_close(c);
        return status;
    }
    *out = c;
    return EG_OK;
}

static void free_media(eg_chat_media *m)
{
    free((void *)m->image.rgb);
    free(m->samples);
}

void eg_chat_retain(eg_chat *c)
{
    if (c) atomic_fetch_add(&c->references, 1);
}

void eg_chat_close(eg_chat *c)
{
    if (!c || atomic_fetch_sub(&c->references, 1) != 1) return;
    for (size_t i = 0; i < c->n; i++) free(c->messages[i]);
    for (size_t i = 0; i < c->n_stops; i++) free(c->stops[i]);
    for (size_t i = 0; i < c->n_media; i++) free_media(&c->media[i]);
    for (size_t i = 0; i < EG_CHAT_SPELLINGS; i++) {
        free(c->spellings[i].text);
        free(c->spellings[i].ids);
    }
    eg_reply_close(c->reply);
    eg_session_close(c->session);
    eg_chunks_free(&c->tool_memory);
    eg_string_free(&c->prompt);
    eg_string_free(&c->held);
    eg_string_free(&c->calls);
    free(c->messages);
    free(c->stops);
    free(c->media);
    free(c->spans);
    free(c->system);
    free(c);
}

eg_session *eg_chat_session(const eg_chat *c) { return c ? c->session : NULL; }

void eg_chat_cancel(eg_chat *c)
{
    if (c) eg_session_cancel(c->session);
}

/* ---- history ----------------------------------------------------------------------------------------------------- */

eg_status eg_chat_append(eg_chat *c, const char *json, size_t length, eg_error *err)
{
    eg_chunks chunks = {0};
    eg_json *message;
    eg_status status = read_json(json, length, "the message is", &chunks, &message, err);
    const char *problem = status ? NULL : eg_message_check(message);
    if (problem) status = eg_fail(err, EG_ERROR_FORMAT, "the message %s.", problem);
    eg_chunks_free(&chunks);
    if (status) return status;
    char **grown = eg_grow(c->messages, &c->capacity, c->n + 1, sizeof *grown);
    if (!grown) return no_memory(err);
    c->messages = grown;
    char *made = copy(json, length);
    if (!made) return no_memory(err);
    c->messages[c->n++] = made;
    return EG_OK;
}

eg_status eg_chat_add_text(eg_chat *c, const char *role, const char *text, eg_error *err)
{
    if (!c || !role || !text) return eg_fail(err, EG_ERROR_ARGUMENT, "chat, role or text is NULL.");
    if (strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0 && strcmp(role, "model") != 0)
        return eg_fail(err, EG_ERROR_ARGUMENT, "the role is %.40s; it must be user or assistant.", role);
    eg_status status = eg_chat_end_answer(c, err);
    if (status) return status;
    eg_string json = {0};
    eg_string_put(&json, "{\"role\":");
    eg_json_write_string(role, strlen(role), &json);
    eg_string_put(&json, ",\"content\":");
    eg_json_write_string(text, strlen(text), &json);
    eg_string_put(&json, "}");
    status = json.failed ? no_memory(err) : eg_chat_append(c, json.bytes, json.length, err);
    eg_string_free(&json);
    return status;
}

eg_status eg_chat_add_result(eg_chat *c, const char *name, const char *json, eg_error *err)
{
    if (!c || !name || !json) return eg_fail(err, EG_ERROR_ARGUMENT, "chat, name or json is NULL.");
    eg_status status = eg_chat_end_answer(c, err);
    if (status) return status;
    /* By itself: text such as `1, "role": "user"` makes a message, but is no value. */
    eg_chunks chunks = {0};
    eg_json *result;
    status = read_json(json, strlen(json), "the result is", &chunks, &result, err);
    eg_chunks_free(&chunks);
    if (status) return status;
    eg_string message = {0};
    eg_string_put(&message, "{\"role\":\"tool\",\"name\":");
    eg_json_write_string(name, strlen(name), &message);
    eg_string_put(&message, ",\"content\":");
    eg_string_put(&message, json);
    eg_string_put(&message, "}");
    status = message.failed ? no_memory(err) : eg_chat_append(c, message.bytes, message.length, err);
    eg_string_free(&message);
    return status;
}

eg_status eg_chat_add_json(eg_chat *c, const char *json, eg_error *err)
{
    if (!c || !json) return eg_fail(err, EG_ERROR_ARGUMENT, "chat or json is NULL.");
    eg_status status = eg_chat_end_answer(c, err);
    if (status) return status;
    eg_chunks chunks = {0};
    const eg_json *message = eg_json_read(json, strlen(json), &chunks, NULL, NULL), *content = eg_json_at(message, "content");
    for (const eg_json *part = content && content->type == EG_JSON_LIST ? content->first : NULL; part; part = part->next)
        if (!eg_json_is(eg_json_at(part, "type"), "text"))
            status = eg_fail(err, EG_ERROR_FORMAT,
                             "the message has a part that is no text: pictures and sounds are added by parts.");
    eg_chunks_free(&chunks);
    return status ? status : eg_chat_append(c, json, strlen(json), err);
}

/* Copies the pixels or samples of a part. */
static eg_status add_media(eg_chat *c, const eg_chat_part *part, eg_error *err)
{
    eg_chat_media *grown = eg_grow(c->media, &c->media_capacity, c->n_media + 1, sizeof *grown);
    if (!grown) return no_memory(err);
    c->media = grown;
    eg_chat_media *m = &c->media[c->n_media];
    *m = (eg_chat_media){.is_image = part->image != NULL};
    if (!m->is_image) {
        eg_status status = eg_audio_check_samples(part->samples, part->n_samples, err);
        if (!status && !c->model->has_audio) status = eg_fail(err, EG_ERROR_UNSUPPORTED, "the model has no audio encoder.");
        if (!status && !eg_audio_token_count(c->model, part->n_samples))
            status = eg_fail(err, EG_ERROR_ARGUMENT, "%zu samples are too few for a token.", part->n_samples);
        if (status) return status;
        m->samples = part->n_samples <= SIZE_MAX / sizeof(float) ? malloc(part->n_samples * sizeof(float)) : NULL;
        if (!m->samples) return no_memory(err);
        memcpy(m->samples, part->samples, part->n_samples * sizeof(float));
        m->n = part->n_samples;
        c->n_media++;
        return EG_OK;
    }
    size_t tokens;
    eg_status status = eg_struct_read(part->image, &m->image, sizeof m->image, "eg_image", err);
    const eg_image given = m->image;
    m->image.rgb = NULL;
    if (!status) status = eg_image_tokens(c->model, given.width, given.height, given.max_tokens, &tokens, err);
    if (status) return status;
    const size_t row = (size_t)given.width * 3, stride = given.stride ? given.stride : row;
    if (!given.rgb || stride < row)
        return eg_fail(err, EG_ERROR_ARGUMENT, "the picture has no pixels, or a stride below a row.");
    uint8_t *pixels = given.height <= SIZE_MAX / row ? malloc(row * given.height) : NULL;
    if (!pixels) return no_memory(err);
    for (uint32_t y = 0; y < given.height; y++) memcpy(pixels + y * row, given.rgb + y * stride, row);
    m->image.rgb = pixels;
    m->image.stride = 0;
    m->image.no_markers = false;
    m->image.progress = NULL;
    c->n_media++;
    return EG_OK;
}

eg_status eg_chat_add_parts(eg_chat *c, const eg_chat_part *parts, size_t n, eg_error *err)
{
    if (!c || !parts || !n) return eg_fail(err, EG_ERROR_ARGUMENT, "chat or parts is NULL, or there is no part.");
    eg_status status = eg_chat_end_answer(c, err);
    const size_t media = c->n_media;
    const uint32_t stride = eg_struct_size(parts);
    eg_string json = {0};
    eg_string_put(&json, "{\"role\":\"user\",\"content\":[");
    for (size_t i = 0; i < n && !status; i++) {
        eg_chat_part part;
        status = eg_struct_read((const uint8_t *)parts + i * stride, &part, sizeof part, "eg_chat_part", err);
        if (status) break;
        if (!part.text + !part.image + !part.samples != 2) {
            status = eg_fail(err, EG_ERROR_ARGUMENT, "parts[%zu] must be one of text, image and samples.", i);
            break;
        }
        if (i) eg_string_put(&json, ",");
        if (part.text) {
            eg_string_put(&json, "{\"type\":\"text\",\"text\":");
            eg_json_write_string(part.text, strlen(part.text), &json);
            eg_string_put(&json, "}");
        } else if (!(status = add_media(c, &part, err))) {
            char text[80];
            snprintf(text, sizeof text, "{\"type\":\"%s\",\"media\":%zu}", part.image ? "image" : "audio", c->n_media - 1);
            eg_string_put(&json, text);
        }
    }
    eg_string_put(&json, "]}");
    if (!status) status = json.failed ? no_memory(err) : eg_chat_append(c, json.bytes, json.length, err);
    while (status && c->n_media > media) free_media(&c->media[--c->n_media]);
    eg_string_free(&json);
    return status;
}

size_t eg_chat_count(const eg_chat *c) { return c ? c->n : 0; }

const char *eg_chat_get(const eg_chat *c, size_t index) { return c && index < c->n ? c->messages[index] : NULL; }

eg_status eg_chat_truncate(eg_chat *c, size_t n, eg_error *err)
{
    if (!c) return eg_fail(err, EG_ERROR_ARGUMENT, "chat is NULL.");
    eg_status status = eg_chat_end_answer(c, err);
    if (status) return status;
    if (n > c->n) return eg_fail(err, EG_ERROR_ARGUMENT, "n is %zu, but there are %zu messages.", n, c->n);
    while (c->n > n) free(c->messages[--c->n]);
    if (c->first > n) c->first = n;
    if (c->waits && c->asked >= n) c->waits = false;
    return EG_OK;
}

eg_status eg_chat_set_system(eg_chat *c, const char *system, eg_error *err)
{
    if (!c) return eg_fail(err, EG_ERROR_ARGUMENT, "chat is NULL.");
    char *made = system ? copy(system, strlen(system)) : NULL;
    if (system && !made) return no_memory(err);
    free(c->system);
    c->system = made;
    c->waits = false;
    return EG_OK;
}
