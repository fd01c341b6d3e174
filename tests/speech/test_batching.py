"""Segments that are heard together: the same words, in the same order, as one after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.audio.source import Source
from edge_gemma.demo.utterances import Playlist, bundled
from edge_gemma.engine.memory import MemoryLimit, memory_need, sessions_need
from edge_gemma.errors import Cancelled
from edge_gemma.hub.resolve import EMBEDDED, EMBEDDED_MMPROJ
from edge_gemma.speech.batching import batch_size
from support.listening import sound
from support.scripted import RATE, ScriptedModel, ScriptedSession

needs_toy = pytest.mark.skipif(not Path(EMBEDDED).is_file(), reason="this checkout has no embedded model")
SIX = sound(*((1.0 + 3 * n, 2.0 + 3 * n + 0.1 * n) for n in range(6)), seconds=20.0)


@pytest.fixture(scope="module")
def toy() -> Iterator[eg.Model]:
    with eg.Model.load(EMBEDDED, mmproj=EMBEDDED_MMPROJ, threads=2) as opened:
        yield opened


@pytest.fixture(scope="module")
def talk() -> np.ndarray:
    """All recorded commands, each with a pause behind it, twice."""
    with Playlist([*bundled(), *bundled()[::-1]]) as source:
        return np.concatenate(list(source))


@needs_toy
def test_the_same_segments_at_every_batch_size(toy: eg.Model, talk: np.ndarray) -> None:
    want = eg.transcribe(talk, toy, batch=1, detector="energy", detect_language="segments")
    said = {utterance.text for utterance in bundled()}
    assert len(want) == 18 and len({segment.text for segment in want} & said) >= 7
    for batch in (2, 5, 16, 64, None):
        assert eg.transcribe(talk, toy, batch=batch, detector="energy", detect_language="segments").segments == (
            want.segments
        )


@needs_toy
@pytest.mark.parametrize("options", [{"to": "de"}, {"no_speech": True}, {"word_times": True}, {"hot": True}])
def test_what_is_asked_of_segments_does_not_depend_on_the_batch(
    toy: eg.Model, talk: np.ndarray, options: dict[str, Any]
) -> None:
    sampling = eg.Sampling(temperature=1.5, seed=3) if options.pop("hot", False) else None
    part = talk[: 25 * RATE]
    one, six = (
        eg.transcribe(part, toy, "en", batch=batch, detector="energy", sampling=sampling, **options) for batch in (1, 6)
    )
    assert len(one) > 5 and one.segments == six.segments


@needs_toy
def test_a_run_goes_on_where_another_batch_ended(toy: eg.Model, talk: np.ndarray) -> None:
    with eg.Transcriber(toy, detector="energy", batch=4) as transcriber:
        whole = list(transcriber.segments(talk))
        for count in (1, 4, 17, 18):
            assert list(transcriber.segments(talk, done=whole[:count])) == whole[count:]


@needs_toy
def test_abandoned_and_cancelled_runs_leave_nothing_open(toy: eg.Model, talk: np.ndarray) -> None:
    with eg.Transcriber(toy, detector="energy", batch=8) as transcriber:
        before = toy.memory()
        want = list(transcriber.segments(talk[: 20 * RATE]))
        found = transcriber.segments(talk)
        assert next(found) == want[0]
        found.close()  # type: ignore[attr-defined]
        found = transcriber.segments(talk)
        next(found)
        transcriber.cancel()
        with pytest.raises(Cancelled):
            list(found)
        timer = threading.Timer(0.1, transcriber.cancel)
        timer.start()
        began = time.perf_counter()
        with pytest.raises(Cancelled):
            for _ in range(1000):
                list(transcriber.segments(talk))
        timer.join()
        assert time.perf_counter() - began < 30
        assert list(transcriber.segments(talk[: 20 * RATE])) == want
        assert toy.memory()["tables"] == before["tables"]


@needs_toy
def test_the_first_segment_waits_for_no_other(toy: eg.Model, talk: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no batch was chosen, somebody may be reading along: 1, 2, 4, ... segments are heard together."""
    heard: list[int] = []
    feed = eg.Session.feed_audio
    monkeypatch.setattr(eg.Session, "feed_audio", lambda self, *args: heard.append(1) or feed(self, *args))
    for batch, first, second in ((None, 1, (2, 4)), (8, 8, (8, 16))):
        with eg.Transcriber(toy, detector="energy", batch=batch) as transcriber:
            assert transcriber.batch == 8
            heard.clear()
            found = transcriber.segments(talk)
            next(found)
            assert len(heard) == first
            next(found)
            assert second[0] <= len(heard) <= second[1]
            found.close()  # type: ignore[attr-defined]


LONG = " ".join(map(str, range(100, 112)))


def test_results_keep_their_order_and_come_as_soon_as_they_can(tokenizer: Any) -> None:
    """The second segment takes long: the first comes before it is done, the others wait for it."""
    number = 0

    def say(session: ScriptedSession) -> str:
        nonlocal number
        number += 1
        return LONG if number == 2 else f"{number}"

    model = ScriptedModel(say, tokenizer=tokenizer)
    with eg.Transcriber(model, "en", detector="energy", batch=3) as transcriber:
        found = transcriber.segments(SIX)
        assert next(found).text == "1" and model.drawn < 20
        texts = [segment.text for segment in found]
    assert texts == [LONG, "3", "4", "5", "6"]
    assert all(session.closed for session in model.sessions)


def test_the_number_of_sessions_is_bounded(tokenizer: Any) -> None:
    most = 0

    def say(session: ScriptedSession) -> str:
        nonlocal most
        most = max(most, sum(not s.closed for s in model.sessions))
        return "Yes."

    for batch in (1, 4):
        most, model = 0, ScriptedModel(say, tokenizer=tokenizer)
        assert len(eg.transcribe(SIX, model, detector="energy", batch=batch)) == 6
        assert most == 1 + batch


def test_a_loop_is_drawn_again_beside_the_others(tokenizer: Any) -> None:
    loop = ["I say ", *["again and "] * 400]
    heard: list[int] = []

    def say(session: ScriptedSession) -> Any:
        heard.append(len(session.heard))
        return loop if heard.count(heard[-1]) == 1 and len(set(heard)) == 2 else f"{len(session.heard)}"

    model = ScriptedModel(say)
    with eg.Transcriber(model, "en", detector="energy", batch=4, max_seconds=4) as transcriber:
        texts = [segment.text for segment in transcriber.segments(SIX)]
    assert len(texts) == 6 and all(text.isdigit() for text in texts) and len(model.requests) == 7
    assert sum(not request.sampling.greedy for request in model.requests) == 1


def test_a_failure_comes_after_what_was_before_it(tokenizer: Any) -> None:
    class Torn(Source):
        def __init__(self) -> None:
            super().__init__()
            self._blocks = iter([SIX[: 8 * RATE]])

        def next_block(self, timeout: float | None) -> np.ndarray | None:
            block = next(self._blocks, None)
            if block is None:
                raise eg.EdgeGemmaError("the disk is broken.", "file")
            return block

    for batch in (1, 8):
        model = ScriptedModel("Yes.", tokenizer=tokenizer)
        with eg.Transcriber(model, "en", detector="energy", batch=batch) as transcriber:
            each = transcriber.segments(Torn())
            assert [next(each).text, next(each).text] == ["Yes.", "Yes."]
            with pytest.raises(eg.EdgeGemmaError, match="disk"):
                next(each)
    for batch in (1, 8):
        script = ["1", "2", eg.EdgeGemmaError("no more.", "context"), "4", "5", "6"]
        with eg.Transcriber(ScriptedModel(script), "en", detector="energy", batch=batch) as transcriber:
            each = transcriber.segments(SIX)
            assert [next(each).text, next(each).text] == ["1", "2"]
            with pytest.raises(eg.EdgeGemmaError, match=r"no more\."):
                next(each)


def test_sound_that_is_still_coming_in_is_not_waited_for(tokenizer: Any) -> None:
    """A complete segment of a live source is answered though the batch has room for more."""
    gate = threading.Event()

    class Live(Source):
        live = True

        def __init__(self) -> None:
            super().__init__()
            self._blocks = iter([SIX[: 4 * RATE], SIX[4 * RATE :]])
            self._given = 0

        def next_block(self, timeout: float | None) -> np.ndarray | None:
            if self._given and not gate.wait(timeout):
                return np.zeros(0, np.float32)
            self._given += 1
            return next(self._blocks, None)

    model = ScriptedModel("Yes.", tokenizer=tokenizer)
    with eg.Transcriber(model, "en", detector="energy", batch=8) as transcriber:
        found = transcriber.segments(Live())
        assert next(found).text == "Yes." and len(model.heard) == 1
        gate.set()
        assert len(list(found)) == 5


@needs_toy
def test_the_usual_batch_depends_on_threads_and_memory(toy: eg.Model) -> None:
    each = sessions_need(toy, 512, "f16", 1, audio=True)
    assert batch_size(toy, 512, "f16", 0) == 1 and batch_size(toy, 512, "f16", 3 * each) == 4
    assert batch_size(toy, 512, "f16", 1 << 40) == 4 * toy.threads == 8
    assert batch_size(ScriptedModel(), 512, "f16", 1 << 40) == 1  # type: ignore[arg-type]
    with eg.Transcriber(toy, max_seconds=5) as usual:
        assert usual.batch == 8
        context, kv = usual.request.session.context, usual.request.kv
    room = memory_need(toy, context, kv, sessions=2, audio=True, vision=False).total + 40_000_000
    extra = sessions_need(toy, context, kv, 1, audio=True)
    with eg.Transcriber(
        toy, max_seconds=5, memory_limit=MemoryLimit(room, sessions=2, audio=True, vision=False)
    ) as small:
        assert 1 <= small.batch <= 1 + 40_000_000 // extra and small.request.kv == kv
    for batch in (0, 65):
        with pytest.raises(ValueError, match="within 1 and 64"):
            eg.Transcriber(toy, batch=batch)
