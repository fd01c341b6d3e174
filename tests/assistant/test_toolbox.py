"""The tools of an assistant: a user's functions, notes, facts; which calls are asked back, and what yes is; its persona."""

from __future__ import annotations

import datetime
import functools
import importlib.util
import os
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_gemma.assistant.asking import confidence_of, yes_or_no
from edge_gemma.assistant.effects import effect_of_function, effect_of_hints, effect_of_name
from edge_gemma.assistant.notes import Notes
from edge_gemma.assistant.persona import Facts, SpokenPersona
from edge_gemma.assistant.phrases import failure
from edge_gemma.assistant.python_tools import load_tools
from edge_gemma.assistant.state import state_folder, write_text
from edge_gemma.assistant.timers import Timers
from edge_gemma.assistant.toolbox import Toolbox, open_toolbox
from edge_gemma.chat.calls import ToolCall
from edge_gemma.chat.tools import Tool
from edge_gemma.chat.tools import Toolbox as Calls
from edge_gemma.cli.assistant.checkup import check_tools
from edge_gemma.errors import EdgeGemmaError, EdgeGemmaOSError, EdgeGemmaValueError
from edge_gemma.speech.transcript import Word

HOME = '''
"""Tools of a home."""
from __future__ import annotations
import datetime
from dataclasses import dataclass
from typing import Literal
import beside

@dataclass
class Lamp:
    """A lamp"""
    room: str
    percent: int = 100

lamps: list[Lamp] = []

def switch(lamp: Lamp, color: Literal["red", "white"] = "white") -> str:
    """Switches a lamp on

    Args:
        color: of the light
    """
    lamps.append(lamp)
    return f"{type(lamp).__name__} {lamp.room} {lamp.percent} {color} {beside.WORD}"

def temperature(day: datetime.date) -> str:
    """Read-only."""
    return repr(day)

def open_door() -> str:
    """Opens the front door

    Ask first.
    """
    return "open"

def _helper() -> None: ...
'''


@pytest.fixture
def home(tmp_path: Path) -> str:
    (tmp_path / "beside.py").write_text("WORD = 'there'\ndef not_a_tool() -> None: ...\n")
    (tmp_path / "home.py").write_text(HOME)
    return str(tmp_path / "home.py")


def test_functions_of_a_file_are_tools(home: str) -> None:
    tools = load_tools(home)
    assert [tool.name for tool in tools] == ["switch", "temperature", "open_door"]
    parameters = tools[0].schema["function"]["parameters"]
    assert parameters["properties"]["color"] == {
        "type": "string",
        "enum": ["red", "white"],
        "description": "of the light",
    }
    assert parameters["properties"]["lamp"]["required"] == ["room"]
    calls = Calls(tools)
    assert calls.call("switch", {"lamp": {"room": "hall"}}) == "Lamp hall 100 white there"
    assert calls.call("temperature", {"day": "2026-11-28"}) == "datetime.date(2026, 11, 28)"


def test_a_file_may_say_which_functions_are_tools(tmp_path: Path) -> None:
    path = tmp_path / "chosen.py"
    path.write_text("class A:\n    def go(self, n: int) -> int: return n\ndef other() -> None: ...\ntools = [A().go]\n")
    assert [tool.name for tool in load_tools(str(path))] == ["go"]


@pytest.mark.parametrize(
    "code, message",
    [
        ("def a(:", r"broken\.py, line 1: "),
        ("\nimport nowhere_at_all", r"broken\.py, line 2: ModuleNotFoundError: "),
        ("\n\n1 / 0", r"broken\.py, line 3: ZeroDivisionError: division by zero\."),
        ("x = 1", r"broken\.py has no tools"),
        ("def a(*args): ...", r"broken\.py: Tool a takes"),
        ("tools = [3]", r"broken\.py: A tool is a function"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "broken.py").write_text(code)
    with pytest.raises(EdgeGemmaValueError, match=message) as caught:
        load_tools(str(tmp_path / "broken.py"))
    assert caught.value.code == "tool"
    with pytest.raises(EdgeGemmaOSError, match=r"cannot read .*missing\.py: No such file"):
        load_tools(str(tmp_path / "missing.py"))


# ---- functions that hang ---------------------------------------------------------------------------------------------


class Lamps:
    """Functions of a user, one of which hangs until it is let go."""

    def __init__(self) -> None:
        self.go_on, self.done, self.threads = threading.Event(), list[str](), set[str]()

    def slow(self) -> str:
        """Hangs."""
        self.go_on.wait(60)
        self.done.append("slow")
        return "late"

    def quick(self, name: str) -> str:
        """Does not."""
        self.threads.add(threading.current_thread().name + str(threading.get_ident()))
        return f"quick {name}"

    async def later(self) -> str:
        """Waits a little."""
        return "later"

    def leave(self) -> None:
        """Wants to end the program."""
        sys.exit(3)


def test_a_function_that_hangs_does_not_hang_the_assistant() -> None:
    lamps = Lamps()
    toolbox = Toolbox([lamps.slow, lamps.quick, lamps.later, lamps.leave], patience=0.2)
    calls = Calls(toolbox.tools)
    assert [calls.call("quick", {"name": name}) for name in "ab"] == ["quick a", "quick b"]
    assert len(lamps.threads) == 1  # what a function keeps for its thread stays usable
    error = calls.call("slow", {})["error"]
    assert "slow has not answered within 0.2 seconds" in error and failure({"error": error}, "en") != failure({}, "en")
    assert error in str(failure({"error": error}, "en"))  # it can be said
    assert "still busy" in calls.call("slow", {})["error"] and not lamps.done
    assert calls.call("quick", {"name": "c"}) == "quick c" and calls.call("later", {}) == "later"
    assert "SystemExit" in calls.call("leave", {})["error"]
    lamps.go_on.set()
    while calls.call("slow", {}) != "late":
        time.sleep(0.01)
    assert lamps.done == ["slow", "slow"]  # the late result of the first call is in no answer
    toolbox.close()


def test_stop_ends_the_waiting_for_a_function() -> None:
    lamps = Lamps()
    toolbox = Toolbox([lamps.slow], patience=60)
    calls, results = Calls(toolbox.tools), list[Any]()
    thread = threading.Thread(target=lambda: results.append(calls.call("slow", {})))
    thread.start()
    while thread.is_alive():
        toolbox.cancel()
        thread.join(0.01)
    assert "cancelled" in results[0]["error"]
    lamps.go_on.set()
    toolbox.close()


# ---- which calls are asked back --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, effect",
    [
        ("get_time", "reads"),
        ("getTime", "reads"),
        ("weather.read", "reads"),
        ("homeassistant__GetLiveContext", "reads"),
        ("intent__HassGetState", "reads"),
        ("intent__HassTurnOn", "changes"),
        ("light.turn-on", "changes"),
        ("clear_list", "changes"),
        ("set_what_is_shown", "changes"),
        ("gettysburg", "changes"),
        ("", "changes"),
    ],
)
def test_names_tell_what_reads(name: str, effect: str) -> None:
    assert effect_of_name(name) == effect and effect_of_hints(name, None) == effect
    assert effect_of_hints(name, True) == "reads" and effect_of_hints(name, False) == "changes"


def test_docstrings_tell_what_a_function_does(home: str) -> None:
    tools = {tool.name: tool for tool in load_tools(home)}
    effects = {name: effect_of_function(tool.function, name) for name, tool in tools.items() if tool.function}
    assert effects == {"switch": "changes", "temperature": "reads", "open_door": "asks"}
    assert effect_of_function(functools.partial(tools["open_door"].function or print), "open_door") == "asks"


def test_what_was_heard_badly_is_asked_back(home: str) -> None:
    box = Toolbox(load_tools(home), language="en")
    switch, read, door = ToolCall("switch", {"lamp": "hall"}), ToolCall("temperature", {}), ToolCall("open_door", {})
    assert box.needs_asking(switch, 0.9) is None and box.needs_asking(switch, None) is None
    assert box.needs_asking(switch, 0.3, "Switch the hall on.") == "Did you say: Switch the hall on?"
    assert box.needs_asking(switch, 0.3, "Licht an!", "de") == "Hast du gesagt: Licht an?"
    assert box.needs_asking(switch, 0.3) == "Shall I really do that: switch, lamp: hall?"
    assert box.needs_asking(read, 0.01, "How warm is it?") is None
    assert box.needs_asking(door, 1.0, "Open the door.") == "Shall I really do that: open door?"
    assert box.needs_asking(door, None) is not None
    assert box.needs_asking(ToolCall("unknown", {}), 0.1) is not None
    if importlib.util.find_spec("py3langid"):
        question = Toolbox(load_tools(home)).needs_asking(switch, 0.3, "Mach das Licht in der Küche an.")
        assert question == "Hast du gesagt: Mach das Licht in der Küche an?"
    assert Toolbox(load_tools(home), ask_below=0).needs_asking(switch, 0.01) is None


@pytest.mark.parametrize(
    "text, meaning",
    [
        *((text, True) for text in (
            "Yes.", "Yes, please.", "Do it.", "That's right.", "Okay", "Ja, bitte!", "Stimmt.", "Sí.", "Oui, c'est ça.",
            "Sì, certo", "Yes, the kitchen light.", "はい。", "да", "네", "是的",
        )),
        *((text, False) for text in (
            "No.", "No, the kitchen.", "Nope", "Don't do it.", "That's not right.", "Of course not.", "Nein!",
            "Das stimmt nicht.", "Bitte nicht.", "Please don't.", "Claro que no.", "Non, merci",
            "いいえ", "違います", "нет", "不是",
        )),
        *((text, None) for text in (
            "", "Hm?", "What time is it?", "Turn on the light.", "Play some music, please.", "Is it right to go there?",
            "Ja, aber nicht die Küche und auch nicht das Bad oder so.", "Okay, then tell me a story.",
        )),
    ],
)  # fmt: skip
def test_yes_and_no(text: str, meaning: bool | None) -> None:
    assert yes_or_no(text) is meaning


def test_the_least_probable_word_counts() -> None:
    words = [Word(word, probability=p) for word, p in (("Okay,", 0.1), ("turn", 0.9), ("on", 0.8), ("it.", None))]
    assert confidence_of(words, "turn on it.") == 0.8 and confidence_of(words, "Okay, turn on it.") == 0.1
    assert confidence_of(words, "") is None and confidence_of([], "turn") is None
    assert confidence_of([Word("turn")], "turn") is None
    unspaced = [Word(letter, probability=p) for letter, p in zip("ねえ止めて", (0.1, 0.2, 0.9, 0.8, 0.7), strict=True)]
    assert confidence_of(unspaced, "止めて") == 0.7 and confidence_of(unspaced, "ねえ止めて") == 0.1


# ---- collecting ------------------------------------------------------------------------------------------------------


class Source:
    """Tools of a server that does not exist."""

    def __init__(self, name: str, *tools: Callable[..., Any]) -> None:
        self.name, self.problem, self.closed = name, "", False
        self.tools = [Tool.of(tool) for tool in tools]

    def effect(self, name: str) -> Any:
        return "reads" if name.startswith("see") else "changes"

    def cancel(self) -> None:
        self.problem = f"{self.name} was cancelled."

    def close(self) -> None:
        self.closed = True


def test_tools_of_several_places(tmp_path: Path) -> None:
    def see() -> str:
        """Looks"""
        return "seen"

    def set_timer(minutes: int) -> str:
        """One of the user's own"""
        return "mine"

    first, second = Source("one", see), Source("my two!", see)
    box = Toolbox([set_timer], [first, second], timers=Timers(str(tmp_path / "t")), notes=Notes(str(tmp_path / "n")))
    names = [tool.name for tool in box.tools]
    assert names[:3] == ["set_timer", "see", "my_two_.see"] and "add_note" in names and names.count("set_timer") == 1
    calls = Calls(box.tools)
    assert calls.call("set_timer", {"minutes": 1}) == "mine" and calls.call("my_two_.see", {}) == "seen"
    assert [box.effect(name) for name in ("see", "my_two_.see", "set_timer", "get_time", "add_note")] == [
        "reads", "reads", "changes", "reads", "changes",
    ]  # fmt: skip
    second.tools = []  # servers come and go
    assert "my_two_.see" not in [tool.name for tool in box.tools] and box.problems == []
    box.cancel()
    assert box.problems == ["one was cancelled.", "my two! was cancelled."]
    box.close()
    assert first.closed and second.closed


def test_every_tool_that_is_built_in_has_an_effect(tmp_path: Path) -> None:
    box = open_toolbox(state=str(tmp_path), facts=Facts(str(tmp_path / "facts.md")))
    assert len(box.tools) == 10 and {box.effect(tool.name) for tool in box.tools} == {"reads", "changes"}
    assert all(tool.schema["function"]["description"] for tool in box.tools)
    assert open_toolbox(built_in=False).tools == []
    box.close()


def test_what_a_toolbox_refuses() -> None:
    def a() -> None: ...

    with pytest.raises(EdgeGemmaError, match="Two tools are called a"):
        Toolbox([a, a])
    with pytest.raises(EdgeGemmaError, match="has no function"):
        Toolbox([Tool(Tool.of(a).schema)])
    with pytest.raises(EdgeGemmaError, match="between 0 and 1"):
        Toolbox(ask_below=2)


def test_the_check_tells_of_tools(home: str) -> None:
    source = Source("house")
    source.cancel()  # leaves a problem
    found = list(check_tools(lambda: Toolbox(load_tools(home), [source])))
    assert [(finding.grade, finding.text) for finding in found] == [
        ("poor", "house was cancelled."),
        ("good", "3: switch, temperature, open_door."),
    ]

    def broken() -> Toolbox:
        raise EdgeGemmaError("home.py has no tools.")

    assert [(finding.grade, finding.text) for finding in check_tools(broken)] == [("bad", "home.py has no tools.")]
    assert [finding.text for finding in check_tools(Toolbox)] == ["none."]


# ---- notes, facts, files ---------------------------------------------------------------------------------------------


def test_notes(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("# My notes\n\n* by hand\n1. numbered\n")
    box = Calls(Notes(str(path)).tools)
    assert box.call("add_note", {"text": " buy \n milk "}) == "noted: buy milk"
    assert box.call("read_notes", {}) == ["by hand", "numbered", "buy milk"]
    assert path.read_text() == "# My notes\n\n* by hand\n1. numbered\n- buy milk\n"
    assert box.call("remove_note", {"text": "MILK"}) == "removed: buy milk"
    assert box.call("remove_note", {"text": "b"}) == {"error": "Several notes fit: by hand; numbered. Say which one."}
    assert box.call("remove_note", {"text": "bread"}) == {"error": "There is no note about 'bread'."}
    assert "1 to 500 characters" in box.call("add_note", {"text": " "})["error"]
    assert box.call("remove_note", {"text": "all"}) == "removed: by hand, numbered"
    assert path.read_text() == "# My notes\n\n" and box.call("read_notes", {}) == []


def test_facts_are_kept_in_a_file_that_can_be_edited(tmp_path: Path) -> None:
    path = tmp_path / "facts.md"
    facts = Facts(str(path))
    persona = SpokenPersona(facts=facts)
    now = datetime.datetime(2026, 11, 28, 7, 5)
    assert "What you know" not in persona.system_prompt(now) and not path.exists()
    box = Toolbox(facts=facts)
    assert (
        Calls(box.tools).call("remember", {"fact": "Anna is\nallergic to nuts."})
        == "remembered: Anna is allergic to nuts."
    )
    assert path.read_text() == "- Anna is allergic to nuts.\n"
    path.write_text("The cat is called Tom.\n- Anna is six.")
    facts.remember("Bread is baked on Monday.")
    assert path.read_text() == "The cat is called Tom.\n- Anna is six.\n- Bread is baked on Monday.\n"
    assert persona.system_prompt(now).endswith(path.read_text().strip())
    path.write_text("x" * 3990)
    assert "full" in Calls(box.tools).call("remember", {"fact": "One more fact."})["error"]
    path.write_text("x" * 5000)
    with pytest.raises(EdgeGemmaValueError, match=r"facts\.md has 5000 characters"):
        Facts(str(path))


def test_files_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, link = tmp_path / "there" / "file", tmp_path / "link"
    write_text(str(target), "one")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    target.chmod(0o644)
    link.symlink_to(target)
    write_text(str(link), "two")
    assert link.is_symlink() and target.read_text() == "two" and stat.S_IMODE(target.stat().st_mode) == 0o644

    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(EdgeGemmaOSError, match=r"cannot write .*file: No space left on device"):
        write_text(str(target), "three")
    assert target.read_text() == "two" and [path.name for path in target.parent.iterdir()] == ["file"]


def test_where_state_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    assert state_folder() == "/s/edge-gemma/assistant"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert state_folder().endswith("/.local/state/edge-gemma/assistant")


# ---- persona ---------------------------------------------------------------------------------------------------------


def test_the_prompt(tmp_path: Path) -> None:
    now = datetime.datetime(2026, 11, 28, 7, 5)
    prompt = SpokenPersona("Hal 9", "de").system_prompt(now)
    assert prompt.startswith("You are Hal 9, ") and "Answer in German." in prompt
    assert prompt.endswith("Today is Saturday, 28 November 2026.") and "7:05" not in prompt
    assert "language that you are spoken to in" in SpokenPersona().system_prompt(now)
    path = tmp_path / "prompt.txt"
    path.write_text("I am {name}. {language} {date} {other}\n")
    made = SpokenPersona("Eva", None, str(path), forget_after=60)
    assert made.system_prompt(now) == (
        "I am Eva. Answer in the language that you are spoken to in. Saturday, 28 November 2026 {other}"
    )
    assert (made.name, made.language, made.forget_after) == ("Eva", None, 60)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": " "}, "name of the assistant is empty"),
        ({"language": "Klingonese"}, "not known"),
        ({"forget_after": -1.0}, "-1 seconds"),
        ({"prompt_file": "/nowhere/prompt.txt"}, "no such file"),
    ],
)
def test_what_a_persona_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeGemmaError, match=message):
        SpokenPersona(**options)


def test_an_empty_prompt(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(EdgeGemmaError, match="empty has no words"):
        SpokenPersona(prompt_file=str(tmp_path / "empty"))
