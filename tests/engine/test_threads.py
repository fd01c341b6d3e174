"""Handles that several threads touch: closing what another thread uses, one session in two threads, Ctrl-C in long calls."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from support.paths import DATA, ROOT

MODEL, MMPROJ = DATA / "e2b-Q4_0.gguf", DATA / "audio-e2b.gguf"


def in_thread(work: Any) -> tuple[threading.Thread, list[BaseException]]:
    """Starts `work` again and again until it raises; the errors come into the list."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            while True:
                work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def check_ended(thread: threading.Thread, errors: list[BaseException]) -> None:
    thread.join(30)
    assert not thread.is_alive()
    (error,) = errors
    assert isinstance(error, eg.EdgeGemmaError) and error.code in ("cancelled", "state")


def session_work(session: eg.Session) -> Any:
    def work() -> None:
        session.feed_tokens([5] * 200)
        assert list(session.generate(max_tokens=20, special=True)) is not None
        session.forward([5, 6])
        session.rewind_to(0)
        _ = session.tokens, session.position, session.stats, session.memory()

    return work


@pytest.mark.parametrize("what", ["session", "model", "with", "del"])
def test_closing_what_another_thread_uses(what):
    """The other thread gets an error, and the memory is freed when its call has returned."""
    for number in range(12):
        model = eg.Model.load(MODEL, threads=2)
        session = model.session()
        thread, errors = in_thread(session_work(session))
        time.sleep(0.002 * number)
        if what == "session":
            session.close()
        elif what == "model":
            model.close()
        elif what == "with":
            with model:
                pass
        else:
            del model  # the thread's session keeps what it needs
            gc.collect()
            session.close()
        check_ended(thread, errors)


def test_closing_a_tokenizer_and_an_encoder_in_use():
    for number in range(12):
        model = eg.Model.load(MODEL, mmproj=MMPROJ, threads=2)
        tokenizer, encoder = model.tokenizer, model.audio_encoder()
        texts = in_thread(lambda t=tokenizer: t.decode(t.encode("hello world" * 50)))
        sounds = in_thread(lambda e=encoder: (e.push(np.ones(8000, np.float32)), e.finish()))
        time.sleep(0.002 * number)
        model.close()
        check_ended(*texts)
        check_ended(*sounds)


def test_closing_a_file_in_use():
    for number in range(12):
        file = eg.GGUFFile(MODEL)
        names = file.metadata["tokenizer.ggml.tokens"]
        thread, errors = in_thread(lambda n=names: list(n))
        time.sleep(0.001 * number)
        file.close()
        check_ended(thread, errors)


def test_one_session_in_two_threads():
    """Exactly one call runs at a time; the other is refused, and nothing is mixed up."""
    with eg.Model.load(MODEL, threads=2) as model, model.session(context=512) as session:
        refused, done = [], []

        def feed() -> None:
            for _ in range(100):
                try:
                    session.feed_tokens([7])
                    done.append(1)
                except eg.EdgeGemmaError as error:
                    assert error.code == "state" and "another thread" in str(error) and "fork()" in str(error)
                    refused.append(1)

        threads = [threading.Thread(target=feed) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) + len(refused) == 400 and session.position == len(done)


def test_a_closed_session_says_so():
    with eg.Model.load(MODEL) as model:
        session = model.session()
        session.close()
        session.close()
        with pytest.raises(eg.EdgeGemmaError, match="session is closed") as caught:
            session.feed_tokens([5])
        assert caught.value.code == "state"
    with pytest.raises(eg.EdgeGemmaError, match="closed"):
        model.session()


def test_a_session_outlives_its_model_object():
    session = eg.Model.load(MODEL).session()
    gc.collect()
    session.feed_tokens([5, 6])
    assert session.logits().size


# ---- long calls in pieces ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hearing() -> Any:
    with eg.Model.load(MODEL, mmproj=MMPROJ) as model:
        yield model


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, round(16000 * seconds)).astype(np.float32)


def test_pieces_give_the_same_bits(hearing):
    """Sound, soft tokens and prompts that are longer than a piece give what one call of the engine gives."""
    sound = noise(9.0)
    with hearing.session(context=512) as whole, hearing.session(context=512) as cut:
        whole.feed_audio(sound)
        with cut.stream_audio() as audio:
            for start in range(0, sound.size, 1000):
                audio.push(sound[start : start + 1000])
        assert whole.tokens == cut.tokens and np.array_equal(whole.logits(), cut.logits())
    rows = hearing.encode_audio(sound)
    with hearing.session(context=512) as whole, hearing.session(context=512) as cut:
        whole.feed_embeddings(rows)
        for row in rows:
            cut.feed_embeddings(row[None])
        assert np.array_equal(whole.logits(), cut.logits())
    ids = list(np.random.default_rng(1).integers(5, 200, 300))
    with hearing.session(context=512) as whole, hearing.session(context=512) as cut:
        logits = whole.forward(ids)
        assert np.array_equal(
            logits, np.concatenate([cut.forward(ids[:1]), cut.forward(ids[1:77]), cut.forward(ids[77:])])
        )
        whole.rewind_to(0)
        assert whole.hidden_states(ids).shape == (hearing.config.layers + 1, 300, hearing.config.hidden_size)


def test_what_is_refused_is_refused_as_a_whole(hearing):
    bad = noise(9.0)
    bad[-1] = np.nan
    with hearing.session(context=100) as session:
        session.feed_tokens([5])
        for sound, code in ((bad, "argument"), (noise(9.0), "context"), (noise(0.005), "argument")):
            with pytest.raises(eg.EdgeGemmaError) as caught:
                session.feed_audio(sound)
            assert caught.value.code == code and session.position == 1
        with pytest.raises(eg.EdgeGemmaError) as caught:
            session.feed_embeddings(np.zeros((300, hearing.config.hidden_size), np.float32))
        assert caught.value.code == "context" and session.position == 1
        with pytest.raises(eg.EdgeGemmaError) as caught:
            session.forward([5] * 300)
        assert caught.value.code == "context" and session.position == 1
        with session.stream_audio() as audio:
            audio.push(noise(1.0))
            before = session.position
            for sound, code in ((bad, "argument"), (noise(9.0), "context")):
                with pytest.raises(eg.EdgeGemmaError) as caught:
                    audio.push(sound)
                assert caught.value.code == code and session.position == before


INTERRUPTED = """
import sys, numpy as np, edge_gemma as eg
model = eg.Model.load(sys.argv[1], mmproj=sys.argv[2], threads=1)
session = model.session()
session.feed_tokens([5])
sound = np.random.default_rng(0).normal(0, 0.1, 16000 * 150).astype(np.float32)
print("ready", flush=True)
try:
    for _ in range(1000):
        getattr(session, "feed_audio")(sound) if sys.argv[3] == "sound" else session.forward([5] * 4000)
        session.rewind_to(1)
except KeyboardInterrupt:
    print(session.position < 4000, session.audio, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("what", ["sound", "prompt"])
def test_ctrl_c_ends_long_calls(what):
    """A recording that takes seconds is given up between two pieces, and the session stays usable."""
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + INTERRUPTED
    command = [sys.executable, "-c", code, str(MODEL), str(MMPROJ), what]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert process.stdout and process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and output == "True None\n"
