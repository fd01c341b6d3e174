"""Many recordings in one call: each as if it were alone, in order, and one that fails costs no other."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.audio.source import open_audio
from edge_gemma.demo.utterances import FOLDER
from edge_gemma.errors import Cancelled
from edge_gemma.hub.resolve import EMBEDDED
from edge_gemma.speech.many import Recording
from support.listening import sound
from support.scripted import ScriptedModel

needs_toy = pytest.mark.skipif(not Path(EMBEDDED).is_file(), reason="this checkout has no embedded model")
NAMES = sorted(path.name for path in FOLDER.glob("*.wav"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        shutil.copy(FOLDER / name, tmp_path)
    (tmp_path / "4-broken.wav").write_text("no sound")
    return tmp_path


@needs_toy
def test_each_recording_is_as_if_it_were_alone(folder: Path) -> None:
    with eg.Model.load("toy") as model:
        options: dict[str, Any] = {"detector": "energy", "detect_language": "segments"}
        alone = {name: eg.transcribe(folder / name, model, guarded=True, batch=1, **options) for name in NAMES}
        for batch in (1, 4, None):
            done = list(eg.transcribe_many(folder, model, batch=batch, **options))
            assert [each.path.name for each in done] == sorted([*NAMES, "4-broken.wav"])
            for each in done:
                if each.path.name == "4-broken.wav":
                    assert each.transcript is None and "no sound" in str(each.error)
                else:
                    assert each.error is None and each.transcript is not None
                    assert each.transcript.segments == alone[each.path.name].segments
                    assert each.transcript.info["file"] == str(each.path)


def test_short_recordings_share_a_batch_and_come_in_order(tokenizer: Any, folder: Path) -> None:
    most = 0

    def say(session: Any) -> str:
        nonlocal most
        most = max(most, sum(not each.closed for each in model.sessions))
        return f"{session.seconds:.3f}"

    model = ScriptedModel(say, tokenizer=tokenizer)
    names = [folder / name for name in NAMES]
    done = list(eg.transcribe_many(names, model, batch=4, guarded=False, detector="none"))
    assert [each.path for each in done] == names and most == 1 + 4
    assert len({each.transcript.text for each in done if each.transcript}) == len(NAMES)
    assert all(session.closed for session in model.sessions)


def test_an_endless_list_is_asked_for_as_it_is_needed(tokenizer: Any, folder: Path) -> None:
    asked = 0

    def names() -> Iterator[Path]:
        nonlocal asked
        for number in itertools.count():
            copy = folder / f"copy{number}.wav"
            shutil.copy(folder / NAMES[0], copy)
            asked += 1
            yield copy

    model = ScriptedModel("Yes.", tokenizer=tokenizer)
    found = eg.transcribe_many(names(), model, batch=2, guarded=False, detector="none")
    assert [each.transcript.text for each in itertools.islice(found, 5) if each.transcript] == ["Yes."] * 5
    assert asked < 20
    found.close()  # type: ignore[attr-defined]
    assert all(session.closed for session in model.sessions)


def test_a_failure_in_the_middle_keeps_what_was_found(tokenizer: Any, tmp_path: Path) -> None:
    three = sound((1.0, 2.0), (4.0, 5.0), (7.0, 8.0), seconds=9.0)
    for batch in (1, 4):
        model = ScriptedModel(["a1", eg.EdgeGemmaError("no more.", "context"), "a3", "b1", "b2", "b3"])
        with eg.Transcriber(model, "en", detector="energy", batch=batch) as transcriber:
            recordings = [Recording(name, lambda: open_audio(three)) for name in ("a", "b")]
            told = [(e.recording.name, e.kind, e.segment and e.segment.text) for e in transcriber.many(recordings)]
        rest = [("b", "segment", text) for text in ("b1", "b2", "b3")]
        assert told == [("a", "segment", "a1"), ("a", "failed", None), *rest, ("b", "end", None)]
        assert all(session.closed for session in model.sessions)


def test_cancelled_runs(tokenizer: Any) -> None:
    model = ScriptedModel("Yes.", tokenizer=tokenizer)
    quiet = np.zeros(16000, np.float32)
    with eg.Transcriber(model, "en", detector="none", batch=2) as transcriber:
        events = transcriber.many(Recording(str(number), lambda: open_audio(quiet)) for number in itertools.count())
        assert next(events).kind == "segment"
        transcriber.cancel()
        with pytest.raises(Cancelled):
            list(events)
        assert transcriber.recognize(quiet) == ("Yes.", None)


def test_wrong_options_fail_at_once(tokenizer: Any) -> None:
    model = ScriptedModel("Yes.", tokenizer=tokenizer)
    with pytest.raises(TypeError, match="colour"):
        eg.transcribe_many("nowhere", model, colour="red")
    (missing,) = eg.transcribe_many("nowhere.wav", model)
    assert isinstance(missing.error, OSError) and missing.transcript is None
