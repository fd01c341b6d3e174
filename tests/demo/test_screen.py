"""The screen of the demonstration, frame by frame, and its lines of text."""

from __future__ import annotations

import io
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edge_gemma.chat.calls import ToolCall
from edge_gemma.demo.demo import Demo, DemoEvent, DemoExchange, summary
from edge_gemma.demo.home import ROOMS, Home
from edge_gemma.demo.utterances import bundled
from support.dialogue import (
    DIALOGUE,
    dialogue_model,
    write_recordings,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("utterances"))


SIZES = [
    (60, 30, True),
    (60, 16, True),
    (80, 20, True),
    (80, 24, False),
    (80, 24, True),
    (100, 22, True),
    (140, 40, True),
]


def terminal(width: int, height: int, color: bool = True) -> Any:
    """A console that writes into memory."""
    return pytest.importorskip("rich.console").Console(
        file=io.StringIO(),
        width=width,
        height=height,
        force_terminal=True,
        no_color=not color,
        highlight=False,
        color_system="truecolor",
    )


def without_styles(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*\w", "", text)


@pytest.mark.parametrize("width, height, color", SIZES)
def test_the_screen(folder: Path, width: int, height: int, color: bool) -> None:
    """Every frame fits, the words and all of the home are in it, and the exchanges and the home stay."""
    main_console, frames, done = terminal(width, height, color), [], []
    from edge_gemma.demo.screen import LiveScreen

    with Demo(dialogue_model(), detector="energy") as demo:
        demo.home.play_music("classical", "bathroom")
        demo.home.set_alarm("\x1b[2J7:30")
        screen = LiveScreen(demo.home, 3, "edge_gemma: dialogue", main_console)
        for event in demo.perform(bundled(folder=folder), live=False):
            screen.show(event)
            if event.kind in ("result", "done"):
                frame = terminal(width, height, color)
                frame.print(screen._live.get_renderable())
                frames.append(frame.file.getvalue())
                done += [event.exchange] * (event.kind == "done")
        screen.close(summary(done, 3))
    for frame in frames:
        lines = without_styles(frame).splitlines()
        assert len(lines) <= height and "\x1b[2J" not in frame
        assert [line.rstrip() for line in lines if "home" in line] and lines[-1].rstrip().endswith("╯")
        for part in ("thermostat 19°", "volume 5", "front door unlocked", "garage closed", "timers none", "alarms"):
            assert part in without_styles(frame)
        rooms = [name for name in ROOMS if re.search(rf"│ {name} ", without_styles(frame))]
        assert rooms == list(ROOMS) or height < 22
        assert "classical" in frame or height < 20
    # The light of the living room, which has just changed: in its color, and the other way round in every case.
    assert ("\x1b[7;94m● blue" if color else "\x1b[7m● blue") in frames[2]
    assert "kitchen" in frames[0] and "Gern geschehen." in frames[-1]
    left = without_styles(main_console.file.getvalue().rpartition("\x1b[?1049l")[2])  # on the normal screen
    for line in DIALOGUE:
        assert line["text"].split()[-1] in left and line["reply"].split()[-1] in left
    assert left.count("╭") == 1 == left.count("╯") and left.rstrip().endswith("╯")
    assert all(f"│ {name} " in left for name in ROOMS) and max(map(len, left.splitlines())) <= width


def test_the_screen_has_the_size_of_its_window(folder: Path) -> None:
    from edge_gemma.demo.screen import LiveScreen

    console, home = terminal(100, 30), Home()
    screen = LiveScreen(home, 3, "edge_gemma: dialogue", console)
    console.size = type(console.size)(60, 24)
    before = len(console.file.getvalue())
    for _ in range(500):  # it is drawn again although nothing happens
        if without_styles(console.file.getvalue()[before:]).rstrip().endswith("╯"):
            break
        time.sleep(0.01)
    drawn = without_styles(console.file.getvalue()[before:]).splitlines()
    print("a warning", file=sys.stderr)  # appears at the end
    screen.close(summary([]))
    assert drawn and max(map(len, drawn)) == 60
    assert console.file.getvalue().rpartition("\x1b[?1049l")[2].replace("\x1b[?25h", "") == ""  # nothing was heard


def test_warnings_wait_for_the_end_of_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    from edge_gemma.demo.screen import LiveScreen

    console = terminal(80, 24)
    screen = LiveScreen(Home(), None, "edge_gemma: dialogue", console)
    print("a warning", file=sys.stderr)
    screen.show(DemoEvent("overrun", 1.0, lost=0.5))
    screen.show(DemoEvent("overrun", 2.0, lost=0.25))
    assert capsys.readouterr().err == "" and "0.75 s of sound were lost" in console.file.getvalue()
    screen.close(summary([]))
    assert capsys.readouterr().err == "a warning\n"
    left = console.file.getvalue().rpartition("\x1b[?1049l")[2]
    assert left.count("were lost") == 1 and "0.75 s of sound were lost" in left


def test_lines_of_an_exchange_are_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where a call is known before the words, and somebody speaks on before they are."""
    from edge_gemma.demo.screen import Lines

    lines, one, two = Lines(None), DemoExchange(0.0), DemoExchange(3.0)
    call = ToolCall("lock_door", {})
    lines.show(DemoEvent("start", 0.0, one))
    lines.show(DemoEvent("call", 1.0, one, call=call))
    lines.show(DemoEvent("result", 1.0, one, call=call, result="done", changes={"locked": True}))
    lines.show(DemoEvent("reply", 1.0, one, text="Locked.", final=True))
    lines.show(DemoEvent("start", 3.0, two))
    lines.show(DemoEvent("transcript", 1.0, one, text="Lock the door."))
    lines.show(DemoEvent("partial", 3.5, two, text="Thank you", agreed=""))
    lines.show(DemoEvent("partial", 3.6, two, text="Thank you so", agreed="Thank you"))
    lines.show(DemoEvent("partial", 3.7, two, text="Thank you some", agreed="Thank you"))
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        "[listening]",
        "[listening]",
        "heard: Lock the door.",
        "call:  lock_door()",
        "home:  front door locked",
        "reply: Locked.",
        "... Thank you",
    ]
