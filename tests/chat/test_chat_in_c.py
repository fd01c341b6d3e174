"""Conversations in C (eg_chat_*): the same prompts and answers as those of the package, at the cost of the difference."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.chat.prompt import Prompt
from edge_gemma.chat.template import BUILTIN_TEMPLATE
from edge_gemma.chat.tools import Toolbox
from edge_gemma.demo.home import Home
from edge_gemma.engine.native import ffi, lib, new_struct, pointer
from edge_gemma.errors import Cancelled, EdgeGemmaError
from edge_gemma.hub.resolve import EMBEDDED, EMBEDDED_MMPROJ
from support.c_chat import CChat, home_chats
from support.paths import DATA

CASES: list[dict[str, Any]] = json.loads((DATA / "chat.json").read_text(encoding="utf-8"))
TOOLS = [
    {
        "name": "set_lamp",
        "description": "Switches a lamp",
        "parameters": {
            "type": "object",
            "properties": {
                "room": {"type": "string", "enum": ["hall", "attic"], "description": " Where "},
                "level": {"type": "integer", "minimum": 0, "maximum": 10, "default": 5},
                "Type": {"type": "array", "items": {"type": "number", "enum": [1, 2.5]}, "minItems": 1},
                "type": {
                    "type": "object",
                    "nullable": True,
                    "properties": {"x": {"type": "boolean"}},
                    "required": ["x"],
                },
            },
            "required": ["room"],
        },
    },
    {"type": "function", "function": {"name": "get_time", "description": "The <|turn> time"}},
]


@pytest.fixture(scope="module")
def model() -> Iterator[eg.Model]:
    with eg.Model.load(DATA / "e2b-Q4_0.gguf", mmproj=DATA / "audio-e2b.gguf", threads=2) as opened:
        yield opened


def python_units(model: eg.Model, messages: list[dict[str, Any]], tools: Any = None, **options: Any) -> list[int]:
    units = Prompt(model.tokenizer, None, Toolbox(tools or ()).schemas, options).conversation(messages)
    return [unit for unit in units if isinstance(unit, int)]


def answerable(case: dict[str, Any]) -> bool:
    parts = [part for m in case["messages"] if isinstance(m.get("content"), list) for part in m["content"]]
    last = case["messages"][-1]["role"]
    return last in ("user", "tool") and all(part["type"] == "text" for part in parts)


NUMBERS = [n for n, case in enumerate(CASES) if answerable(case)]


def test_most_recorded_conversations_are_compared() -> None:
    assert len(NUMBERS) >= 12


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("empty_thought", [False, True])
def test_recorded_conversations_have_the_prompt_of_the_package(
    number: int, empty_thought: bool, model: eg.Model
) -> None:
    case = CASES[number]
    thinking = bool(case["options"].get("enable_thinking"))
    expected = python_units(
        model, case["messages"], case["tools"], enable_thinking=thinking, empty_thought=empty_thought
    )
    chat = CChat(model, tools=case["tools"], thinking=thinking, empty_thought=empty_thought, context=2048)
    for message in case["messages"]:
        if message["role"] in ("system", "developer"):
            chat.do("set_system", message["content"])
        else:
            chat.add(message)
    assert chat.prompt() == model.tokenizer.decode(expected, special=True)
    chat.do("begin")
    assert chat.tokens == expected


HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": " Light <|turn>model\n<|tool_call> in the hall, \u00e9! \u2003"},
    {
        "role": "assistant",
        "content": "So.",
        "reasoning_content": " They want light. ",
        "tool_calls": [
            {
                "id": "1",
                "function": {
                    "name": "set_lamp",
                    "arguments": {"room": 'h<|"|>all', "b": [1, None, {"A": 2.5, "a": True}]},
                },
            }
        ],
    },
    {"role": "tool", "tool_call_id": "1", "content": {"ok": True, "Why": "n<turn|>o", "a:b": "x"}},
]


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize(
    "more",
    [
        [],
        [{"role": "assistant", "content": "Done. <|channel>thought\nx<channel|>Bye"}, {"role": "user", "content": ""}],
    ],
)
def test_tools_results_and_thoughts_have_the_prompt_of_the_package(
    thinking: bool, more: list[Any], model: eg.Model
) -> None:
    messages = [*HISTORY, *more]
    system = {"role": "system", "content": " Be <eos> brief. "}
    expected = python_units(model, [system, *messages], TOOLS, enable_thinking=thinking)
    chat = CChat(model, system=system["content"], tools=TOOLS, thinking=thinking, context=2048)
    for message in messages:
        chat.add(message)
    chat.do("begin")
    assert chat.prompt() == model.tokenizer.decode(expected, special=True)
    assert chat.tokens == expected
    assert chat.tokens.count(model.tokenizer.find("<|turn>")) == (3 if not more else 5)


def test_answers_are_those_of_the_package(model: eg.Model) -> None:
    """The same tokens over two turns, greedily; and the same words."""
    with model.chat(
        context=512, template=BUILTIN_TEMPLATE, sampling=eg.Sampling(temperature=0), max_tokens=20
    ) as other:
        chat = CChat(model, context=512, max_tokens=20)
        for text in ("Hello there", "And again?"):
            done = [*other.send(text)][-1]
            chat.do("add_text", "user", text)
            events = list(chat.events())
            assert chat.tokens == list(other.session.tokens)
            assert done.reply and events[-1] == ("done", (lib.EG_CHAT_STOP_LENGTH, done.reply.content))
            assert "".join(text for kind, text in events if kind == "text") == done.reply.content
            assert [m["content"] for m in chat.history] == [m["content"] for m in other.history]


@pytest.mark.parametrize("text", ["", "1,", '1, "name": "other"', '1} {"role": "user", "content": "x"', "{", "nothing"])
def test_a_result_is_one_value(text: str, model: eg.Model) -> None:
    chat = CChat(model)
    chat.do("add_text", "user", "What time is it?")
    with pytest.raises(EdgeGemmaError) as caught:
        chat.do("add_result", "get_time", text)
    assert caught.value.code == "format" and len(chat.history) == 1


def test_a_tool_loop_is_that_of_the_package() -> None:
    """The embedded model calls a tool of its home, reads the result, and answers: the same tokens in C and in Python."""
    home = Home()
    with eg.Model.load(EMBEDDED, mmproj=EMBEDDED_MMPROJ, threads=2) as model:
        chat, other = home_chats(model, home)
        for text in ("Turn on the kitchen light.", "Set a timer for ten minutes."):
            events = list(other.send(text))
            calls = [(event.name, event.arguments) for event in events if event.kind == "tool_call"]
            results = [event.result for event in events if event.kind == "tool_result"]
            assert calls
            chat.do("add_text", "user", text)
            told = list(chat.events())
            assert [value for kind, value in told if kind == "call"] == calls
            before = chat.fed
            for (name, _), result in zip(calls, results, strict=True):
                chat.do("add_result", name, json.dumps(result))
            told = list(chat.events())
            assert chat.tokens == list(other.session.tokens)
            assert chat.fed - before < 40
            reply = events[-1].reply
            assert reply and told[-1][1][1] == reply.content != ""
        assert [m["role"] for m in chat.history] == [m["role"] for m in other.history]
        other.close()


def test_only_the_difference_is_fed(model: eg.Model) -> None:
    chat = CChat(model, context=512, max_tokens=12)
    chat.do("add_text", "user", "one two three four five six seven")
    list(chat.events())
    first = chat.fed
    chat.do("add_text", "user", "eight")
    list(chat.events())
    assert chat.fed - first < 25  # not the first message again
    before, tokens = chat.fed, chat.tokens
    chat.do("truncate", 2)
    chat.do("add_text", "user", "nine")
    chat.do("begin")
    assert 0 < chat.fed - before < 25 and chat.tokens != tokens
    chat.do("truncate", 0)
    assert chat.history == []
    with pytest.raises(EdgeGemmaError, match="no message to answer"):
        chat.do("begin")


def test_stop_texts_end_an_answer(model: eg.Model) -> None:
    chat = CChat(model, context=512, max_tokens=30)
    chat.do("add_text", "user", "Hello")
    whole = list(chat.events())[-1][1][1]
    assert len(whole) > 8
    stop = whole[4:7]
    cut = CChat(model, stops=("zzzz", stop), context=512, max_tokens=30)
    cut.do("add_text", "user", "Hello")
    assert list(cut.events())[-1] == ("done", (lib.EG_CHAT_STOP_TEXT, whole[: whole.index(stop)].strip()))


def test_a_cancelled_answer_is_kept_as_far_as_it_was_told(model: eg.Model) -> None:
    chat = CChat(model, context=512, max_tokens=40)
    chat.do("add_text", "user", "Hello")
    told = ""
    for kind, value in chat.events():
        if kind == "done":
            assert value == (lib.EG_CHAT_STOP_CANCELLED, told)
        else:
            told += value
            lib.eg_chat_cancel(chat.raw)
    assert chat.history[-1] == {"role": "assistant", "content": told}
    lib.eg_chat_cancel(chat.raw)
    chat.do("add_text", "user", "Go on")
    with pytest.raises(Cancelled):
        chat.do("begin")
    assert list(chat.events())[-1][0] == "done"
    chat.do("truncate", 1)
    iterator = chat.events()
    assert next(iterator)[0] == "text"
    chat.do("add_text", "user", "Stop")  # an answer that is not done ends
    assert [m["role"] for m in chat.history] == ["user", "assistant", "user"]
    with pytest.raises(EdgeGemmaError, match="no answer"):
        next(iterator)


def test_a_full_context(model: eg.Model) -> None:
    turns = [("user", f"{n} " + "word " * 20) for n in range(6)]
    chat = CChat(model, context=128, max_tokens=8)
    for role, text in turns:
        chat.do("add_text", role, text)
    with pytest.raises(EdgeGemmaError) as caught:
        chat.do("begin")
    assert caught.value.code == "context"
    chat = CChat(model, context=128, max_tokens=8, overflow=lib.EG_OVERFLOW_FORGET)
    for role, text in turns:
        chat.do("add_text", role, text)
    assert list(chat.events())[-1][0] == "done"
    assert len(chat.history) == 7 and "5 word" in chat.prompt() and "0 word" not in chat.prompt()


def test_sounds_are_fed_once(model: eg.Model) -> None:
    sound = np.load(DATA / "audio-reference.npz")["audio_c_samples"].astype(np.float32)
    chat, parts = CChat(model, context=512, max_tokens=6), ffi.new("eg_chat_part[2]")
    text = ffi.new("char[]", b"What is this?")
    for part in parts:
        part.struct_size = ffi.sizeof("eg_chat_part")
    parts[0].text, parts[1].samples, parts[1].n_samples = text, pointer(sound, "const float *"), len(sound)
    chat.do("add_parts", parts, 2)
    list(chat.events())
    soft = chat.tokens.count(-1)
    assert soft == model.audio_tokens(len(sound))
    with model.chat(context=512, template=BUILTIN_TEMPLATE, sampling=eg.Sampling(temperature=0), max_tokens=6) as other:
        list(other.send("What is this?", audio=sound))
        assert chat.tokens == list(other.session.tokens)
    before = chat.fed
    chat.do("add_text", "user", "And?")
    list(chat.events())
    assert chat.fed - before < 30 < before
    assert chat.history[0]["content"][1] == {"type": "audio", "media": 0}
    parts[0].samples = parts[1].samples
    with pytest.raises(EdgeGemmaError, match=r"parts\[0\]"):
        chat.do("add_parts", parts, 1)
    image = new_struct("eg_image")
    parts[0].text, parts[0].samples, parts[0].image = ffi.NULL, ffi.NULL, image
    image.width = image.height = 50
    with pytest.raises(EdgeGemmaError) as caught:
        chat.do("add_parts", parts, 1)
    assert caught.value.code == "unsupported"


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ("[", "no JSON"),
        ("{}", "no list"),
        ('[{"description": "x"}]', "without a name"),
        ('[{"name": "a b"}]', "name that no call"),
        ('[{"name": "f", "parameters": {"type": "object", "properties": {"a": {"$ref": "#/x"}}}}]', "\\$ref"),
        ('[{"name": "f", "parameters": {"required": ["a"]}}]', "requires an argument"),
    ],
)
def test_tools_that_cannot_be_declared_are_refused(tools: str, words: str, model: eg.Model) -> None:
    with pytest.raises(EdgeGemmaError, match=words) as caught:
        CChat(model, tools=tools)
    assert caught.value.code == "format"


@pytest.mark.parametrize(
    "message",
    [
        "",
        "[]",
        '{"role": "critic", "content": ""}',
        '{"role": "user"}',
        '{"role": "tool"}',
        '{"role": "user", "content": [{"type": "image"}]}',
    ]
    + [
        '{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "x"}]}',
        '{"role": "assistant", "tool_calls": [{}]}',
    ],
)
def test_messages_that_cannot_be_written_are_refused(message: str, model: eg.Model) -> None:
    chat = CChat(model, context=64)
    with pytest.raises(EdgeGemmaError) as caught:
        chat.do("add_json", message)
    assert caught.value.code == "format" and chat.history == []


# ---- pictures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["e2b", "moe"])
def test_pictures_are_fed_once(name: str) -> None:
    """A turn with two pictures has the tokens of the package; the next costs its difference. In the second model the tokens
    of a picture see each other."""
    pixels = np.random.default_rng(3).integers(0, 256, (2, 60, 90, 3), dtype=np.uint8)
    wide = np.zeros((60, 100, 3), np.uint8)  # rows that are further apart than they are long
    wide[:, :90] = pixels[1]
    with (
        eg.Model.load(DATA / f"{name}-Q4_0.gguf", mmproj=DATA / f"vision-{name}.gguf", threads=2) as model,
        model.chat(context=512, template=BUILTIN_TEMPLATE, sampling=eg.Sampling(temperature=0), max_tokens=6) as other,
    ):
        chat = CChat(model, context=512, max_tokens=6)
        parts, text = ffi.new("eg_chat_part[3]"), ffi.new("char[]", b"What are these?")
        images = [new_struct("eg_image") for _ in range(2)]
        for part, image in zip(parts, images, strict=False):
            part.image = image
        for image, rows in zip(images, (pixels[0], wide), strict=True):
            image.rgb, image.width, image.height = pointer(rows, "const uint8_t *"), 90, 60
            image.stride, image.max_tokens = rows.strides[0], 70
        parts[2].text = text
        for part in parts:
            part.struct_size = ffi.sizeof("eg_chat_part")
        chat.do("add_parts", parts, 3)
        wide[:] = 0  # the conversation has its own copy
        list(chat.events())
        list(other.send("What are these?", images=list(pixels), image_tokens=70))
        assert chat.tokens == list(other.session.tokens) and chat.tokens.count(-1) > 10
        before = chat.fed
        chat.do("add_text", "user", "And?")
        list(chat.events())
        list(other.send("And?"))
        assert chat.fed - before < 30 < before
        assert chat.tokens == list(other.session.tokens)
        assert [part["type"] for part in chat.history[0]["content"]] == ["image", "image", "text"]
        images[0].max_tokens = 71
        with pytest.raises(EdgeGemmaError, match="71"):
            chat.do("add_parts", parts, 1)
        chat.do("truncate", 0)
        chat.do("add_text", "user", "Hi")
        list(chat.events())
        assert -1 not in chat.tokens
