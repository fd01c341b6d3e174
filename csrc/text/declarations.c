/* Declarations of tools: of a JSON schema what Gemma 4's format shows of it, and the rest in words, in the descriptions.
 *
 *     declaration:NAME{description:"...",parameters:{properties:{KEY:{description:"...",type:"STRING"}},required:["KEY"],type:"OBJECT"}}
 */
#include "prompt.h"

#include "calls.h"
#include "characters.h"

#include <stdlib.h>

static const eg_json *function_of(const eg_json *tool)
{
    const eg_json *function = eg_json_at(tool, "function");
    return function && function->type == EG_JSON_OBJECT ? function : tool;
}

static const eg_json *object_at(const eg_json *of, const char *key)
{
    const eg_json *value = eg_json_at(of, key);
    return value && value->type == EG_JSON_OBJECT && value->first ? value : NULL;
}

/* ---- checks ------------------------------------------------------------------------------------------------------ */

static const char *check_schema(const eg_json *schema, int depth)
{
    static const char *const unknown[] = {"$ref", "allOf", "oneOf", "anyOf", "const", "prefixItems"};
    if (depth > 24) return "nests its schema too deeply";
    if (schema->type != EG_JSON_OBJECT) return "has a schema that is no object";
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        if (eg_json_at(schema, unknown[i]))
            return "uses $ref, allOf, oneOf, anyOf, const or prefixItems, which a declaration has no words for";
    const eg_json *type = eg_json_at(schema, "type"), *required = eg_json_at(schema, "required");
    const eg_json *properties = eg_json_at(schema, "properties"), *items = eg_json_at(schema, "items");
    const eg_json *choices = eg_json_at(schema, "enum");
    if (type && type->type != EG_JSON_STRING) return "has a type that is no text";
    if (choices && choices->type != EG_JSON_LIST) return "has an enum that is no list";
    if (required && required->type != EG_JSON_LIST) return "has required arguments that are no list of names";
    for (const eg_json *name = required ? required->first : NULL; name; name = name->next)
        if (name->type != EG_JSON_STRING || !properties || !eg_json_get(properties, name->text, name->length))
            return "requires an argument that its properties do not have";
    if (properties && properties->type != EG_JSON_OBJECT) return "has properties that are no object";
    for (const eg_json *member = properties ? properties->first : NULL; member; member = member->next) {
        const char *problem = check_schema(member, depth + 1);
        if (problem) return problem;
    }
    return items ? check_schema(items, depth + 1) : NULL;
}

const char *eg_tools_check(const eg_json *tools)
{
    if (tools->type != EG_JSON_LIST) return "are no list";
    for (const eg_json *tool = tools->first; tool; tool = tool->next) {
        const eg_json *function = function_of(tool), *name = eg_json_at(function, "name");
        const eg_json *description = eg_json_at(function, "description"), *parameters = eg_json_at(function, "parameters");
        if (!name || name->type != EG_JSON_STRING || !name->length) return "have a tool without a name";
        for (size_t i = 0; i < name->length; i++)
            if ((uint8_t)name->text[i] <= ' ' || strchr(":{}[](),<>\"'", name->text[i]))
                return "have a name that no call could have";
        if (description && description->type != EG_JSON_STRING) return "have a description that is no text";
        const char *problem = parameters ? check_schema(parameters, 0) : NULL;
        if (problem) return problem;
    }
    return NULL;
}

/* ---- words ------------------------------------------------------------------------------------------------------- */

/* A value as Python's str() writes it in a sentence. */
static void plain(const eg_json *value, eg_string *out)
{
    static const char *const words[] = {"None", "False", "True"};
    if (value->type <= EG_JSON_TRUE) eg_string_put(out, words[value->type]);
    else if (value->type <= EG_JSON_STRING) eg_string_add(out, value->text, value->length);
    else eg_json_write(value, out);
}

static void phrase(eg_string *words, const char *before, const eg_json *value, const char *after)
{
    eg_string_put(words, words->length ? "; " : "(");
    eg_string_put(words, before);
    plain(value, words);
    eg_string_put(words, after);
}

/* What a declaration has no keyword for: "(at least 1; default 2)". */
static void in_words(const eg_json *schema, eg_string *out)
{
    static const struct {
        const char *key, *before, *after;
    } limits[] = {
        {"minimum", "at least ", ""},
        {"maximum", "at most ", ""},
        {"exclusiveMinimum", "more than ", ""},
        {"exclusiveMaximum", "less than ", ""},
        {"multipleOf", "a multiple of ", ""},
        {"minLength", "at least ", " characters"},
        {"maxLength", "at most ", " characters"},
        {"minItems", "at least ", " elements"},
        {"maxItems", "at most ", " elements"},
        {"pattern", "matching ", ""},
        {"format", "format ", ""},
    };
    const eg_json *choices = eg_json_at(schema, "enum"), *fallback = eg_json_at(schema, "default");
    bool other = false;
    for (const eg_json *choice = choices ? choices->first : NULL; choice; choice = choice->next)
        other = other || choice->type != EG_JSON_STRING;
    if (other) eg_string_put(out, "(one of ");
    for (const eg_json *choice = other ? choices->first : NULL; choice; choice = choice->next) {
        if (choice != choices->first) eg_string_put(out, ", ");
        plain(choice, out);
    }
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        const eg_json *limit = eg_json_at(schema, limits[i].key);
        if (limit && limit->type > EG_JSON_TRUE) phrase(out, limits[i].before, limit, limits[i].after);
    }
    const bool told = fallback && fallback->type != EG_JSON_NULL &&
                      (fallback->type < EG_JSON_STRING || fallback->length || fallback->first);
    if (told) phrase(out, "default ", fallback, "");
    if (out->length) eg_string_put(out, ")");
}

/* ---- declarations ------------------------------------------------------------------------------------------------ */

static void quote_upper(eg_prompt *p, const eg_json *type, const char *otherwise)
{
    eg_string upper = {0};
    eg_string_add(&upper, type ? type->text : otherwise, type ? type->length : strlen(otherwise));
    for (size_t i = 0; i < upper.length; i++)
        if (upper.bytes[i] >= 'a' && upper.bytes[i] <= 'z') upper.bytes[i] -= 32;
    eg_prompt_quote(p, eg_string_text(&upper), upper.length);
    eg_string_free(&upper);
}

static void put_required(eg_prompt *p, const eg_json *schema)
{
    const eg_json *required = eg_json_at(schema, "required");
    if (!required || !required->first) return;
    eg_prompt_put_text(p, "required:");
    eg_prompt_write_value(p, required);
    eg_prompt_put_text(p, ",");
}

static void put_properties(eg_prompt *p, const eg_json *properties);

/* The fields of one schema in alphabetical order, each with its comma, and the type last. */
static void put_fields(eg_prompt *p, const eg_json *schema)
{
    const eg_json *type = eg_json_at(schema, "type"), *description = eg_json_at(schema, "description");
    const eg_json *choices = eg_json_at(schema, "enum"), *items = object_at(schema, "items");
    const bool array = eg_json_is(type, "array"), object = eg_json_is(type, "object");
    eg_string text = {0}, words = {0};
    if (description && description->type == EG_JSON_STRING) {
        const size_t length = eg_without_trailing_space(description->text, description->length);
        const size_t space = eg_leading_space(description->text, length);
        eg_string_add(&text, description->text + space, length - space);
    }
    in_words(schema, &words);
    if (text.length && words.length) eg_string_put(&text, " ");
    eg_string_add(&text, eg_string_text(&words), words.length);
    if (text.failed || words.failed) p->failed = true;
    if (text.length) {
        eg_prompt_put_text(p, "description:");
        eg_prompt_quote(p, eg_string_text(&text), text.length);
        eg_prompt_put_text(p, ",");
    }
    eg_string_free(&text);
    eg_string_free(&words);
    if (choices && choices->first) {
        eg_prompt_put_text(p, "enum:");
        eg_prompt_write_value(p, choices);
        eg_prompt_put_text(p, ",");
    }
    if (array && items) {
        eg_prompt_put_text(p, "items:{");
        put_fields(p, items);
        eg_prompt_put_text(p, "},");
    }
    if (eg_json_truthy(eg_json_at(schema, "nullable"))) eg_prompt_put_text(p, "nullable:true,");
    const eg_json *properties = object ? object_at(schema, "properties") : NULL;
    if (properties) {
        put_properties(p, properties);
        eg_prompt_put_text(p, ",");
    }
    if (object) put_required(p, schema);
    eg_prompt_put_text(p, "type:");
    quote_upper(p, type, "string");
}

static void put_properties(eg_prompt *p, const eg_json *properties)
{
    size_t n;
    const eg_json **members = eg_sorted_members(properties, &n);
    if (n && !members) p->failed = true;
    eg_prompt_put_text(p, "properties:{");
    for (size_t i = 0; members && i < n; i++) {
        if (i) eg_prompt_put_text(p, ",");
        eg_prompt_put(p, members[i]->key, members[i]->key_length);
        eg_prompt_put_text(p, ":{");
        put_fields(p, members[i]);
        eg_prompt_put_text(p, "}");
    }
    eg_prompt_put_text(p, "}");
    free(members);
}

void eg_prompt_write_tool(eg_prompt *p, const eg_json *tool)
{
    const eg_json *function = function_of(tool), *name = eg_json_at(function, "name");
    const eg_json *description = eg_json_at(function, "description");
    const eg_json *parameters = eg_json_at(function, "parameters");
    eg_prompt_mark_token(p, "<|tool>");
    eg_prompt_put_text(p, "declaration:");
    eg_prompt_put(p, name->text, name->length);
    eg_prompt_put_text(p, "{description:");
    eg_prompt_quote(p, description ? description->text : "", description ? description->length : 0);
    if (parameters) {
        const eg_json *properties = object_at(parameters, "properties");
        eg_prompt_put_text(p, ",parameters:{");
        if (properties) {
            put_properties(p, properties);
            eg_prompt_put_text(p, ",");
        }
        put_required(p, parameters);
        eg_prompt_put_text(p, "type:");
        eg_prompt_quote(p, "OBJECT", 6);
        eg_prompt_put_text(p, "}");
    }
    eg_prompt_put_text(p, "}");
    eg_prompt_mark_token(p, "<tool|>");
}
