"""The voice turn in C (eg_voice_*) and its endpointing: the utterances, words and answers of the package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.audio.endpointing import Endpointer
from edge_gemma.audio.source import open_audio
from edge_gemma.demo.home import Home
from edge_gemma.engine.native import check, ffi, lib, new_struct, pointer
from edge_gemma.errors import EdgeGemmaError
from edge_gemma.hub.resolve import EMBEDDED, EMBEDDED_MMPROJ
from edge_gemma.speech.prompts import asr_prompt
from support.c_chat import CChat, home_chats
from support.paths import DATA, ROOT

UTTERANCES = ROOT / "edge_gemma" / "demo" / "data" / "utterances"
ENDPOINTS = {1: "start", 2: "audio", 3: "pause", 4: "resume", 5: "end", 6: "cut"}


def utterance(name: str = "1-en.wav", before: float = 0.5, after: float = 1.2) -> np.ndarray:
    """A recording between faint noise, so that it is an utterance of its own."""
    sound = np.concatenate(list(open_audio(UTTERANCES / name)))
    noise = np.random.default_rng(1).normal(0, 1e-3, int((before + after) * 16000)).astype(np.float32)
    cut = int(before * 16000)
    return np.concatenate([noise[:cut], sound.astype(np.float32), noise[cut:]])


# ---- endpointing -------------------------------------------------------------------------------------------------------


def endpoints(sound: np.ndarray, size: int, **times: float) -> list[tuple[Any, ...]]:
    """The events of the engine's endpointer, neighbouring samples joined."""
    given, out, err = ffi.new("eg_endpoint_times *"), ffi.new("eg_endpointer **"), new_struct("eg_error")
    for name, seconds in times.items():
        setattr(given, name, seconds)
    check(lib.eg_endpointer_open(given, ffi.NULL, ffi.NULL, out, err), err)
    ends, found, count = ffi.gc(out[0], lib.eg_endpointer_close), [], ffi.new("size_t *")
    for at in [*range(0, len(sound), size), None]:
        piece = None if at is None else np.ascontiguousarray(sound[at : at + size])
        if piece is None:
            assert lib.eg_endpointer_finish(ends)
        else:
            assert lib.eg_endpointer_push(ends, pointer(piece, "const float *"), len(piece))
        events = lib.eg_endpointer_events(ends, count)
        for event in (events[n] for n in range(count[0])):
            samples = b""
            if event.n:
                samples = ffi.buffer(lib.eg_endpointer_samples(ends) + event.first, 4 * event.n)[:]
            found.append((ENDPOINTS[event.kind], event.time, event.keep, samples))
    return joined(found)


def joined(events: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    out: list[tuple[Any, ...]] = []
    for kind, time, keep, samples in events:
        if kind == "audio" and out and out[-1][0] in ("start", "audio"):
            out[-1] = (*out[-1][:3], out[-1][3] + samples)
        else:
            out.append((kind, time, keep, samples))
    return out


def expected(sound: np.ndarray, **times: float) -> list[tuple[Any, ...]]:
    ends = Endpointer("energy", **times)
    found = []
    for event in [*ends.push(sound), *ends.finish()]:
        kind = "cut" if event.reason == "cut" else event.kind
        found.append((kind, round(event.time * 16000), event.keep, event.samples.tobytes()))
    return joined(found)


def sounds() -> Iterator[np.ndarray]:
    """Utterances with pauses in them, and noise whose level wanders."""
    names = [f"{n}-{language}.wav" for n, language in ((1, "en"), (3, "es"), (4, "de"), (6, "es"))]
    yield np.concatenate([utterance(name, 0.4, after) for name, after in zip(names, (0.3, 1.0, 0.5, 2.0), strict=True)])
    for seed in range(6):
        random = np.random.default_rng(seed)
        levels = np.repeat(10 ** random.uniform(-4, -0.7, 60), 8000)
        yield (random.normal(0, 1, levels.size) * levels).astype(np.float32).clip(-1, 1)
    # Utterances behind blocks that may be speech: soft beginnings.
    random = np.random.default_rng(6)
    above = [np.r_[random.choice([0, 4.5, 5.5], 30, p=[0.6, 0.2, 0.2]), [20] * 10, [0] * 60] for _ in range(20)]
    levels = np.repeat(0.003 * 10 ** (np.concatenate(above) / 20), 512)
    yield (random.normal(0, 1, levels.size) * levels).astype(np.float32).clip(-1, 1)


@pytest.mark.parametrize(
    "times", [{}, {"silence": 0.3, "pause": 0.1, "max_seconds": 3.0}, {"min_speech": 0.3, "pre_roll": 0.05}]
)
@pytest.mark.parametrize("size", [100, 512, 7001])
def test_endpoints_are_those_of_the_package(times: dict[str, float], size: int) -> None:
    kinds = set()
    for sound in sounds():
        wanted = expected(sound, **times)
        assert endpoints(sound, size, **times) == wanted
        kinds |= {event[0] for event in wanted}
    assert {"start", "pause", "resume", "end"} <= kinds


def test_times_that_do_not_fit_are_refused() -> None:
    for times in ({"pause": 1.0}, {"silence": -1.0}, {"max_seconds": 0.5}, {"min_speech": float("nan")}):
        with pytest.raises(EdgeGemmaError) as caught:
            endpoints(np.zeros(1, np.float32), 1, **times)
        assert caught.value.code == "argument"


# ---- the turn ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Iterator[eg.Model]:
    with eg.Model.load(EMBEDDED, mmproj=EMBEDDED_MMPROJ, threads=2) as opened:
        yield opened


class Voice:
    """A voice of the C library."""

    def __init__(self, model: eg.Model, chat: CChat | None = None, **fields: Any) -> None:
        self.err, params, out = new_struct("eg_error"), new_struct("eg_voice_params"), ffi.new("eg_voice **")
        params.chat = chat.raw if chat else ffi.NULL
        for name, value in fields.items():
            setattr(params, name, value)
        check(lib.eg_voice_open(model.pointer, params, out, self.err), self.err)
        self.raw, self.chat = ffi.gc(out[0], lib.eg_voice_close), chat

    def push(self, sound: np.ndarray) -> None:
        sound = np.ascontiguousarray(sound, np.float32)
        check(lib.eg_voice_push(self.raw, pointer(sound, "const float *"), len(sound), self.err), self.err)

    def step(self) -> tuple[Any, ...]:
        """The next event: its kind, and what it tells."""
        event = new_struct("eg_voice_event")
        check(lib.eg_voice_step(self.raw, ffi.NULL if not self.chat else self.greedy, event, self.err), self.err)
        kind, text = int(event.kind), ffi.buffer(event.text, event.text_length)[:].decode()
        if kind != lib.EG_VOICE_ANSWER:
            return kind, text
        answer = event.answer
        words = ffi.buffer(answer.text, answer.text_length)[:].decode()
        call = ffi.string(answer.name).decode(), ffi.string(answer.arguments).decode()
        return kind, int(answer.kind), words, *call, int(answer.stop)

    greedy = new_struct("eg_sampling")

    def run(self) -> list[tuple[Any, ...]]:
        """All events until there is nothing to do."""
        found = []
        while (event := self.step())[0] != lib.EG_VOICE_IDLE:
            if event[0] != lib.EG_VOICE_BUSY:
                found.append(event)
        return found

    def hear(self, sound: np.ndarray, size: int = 1600) -> list[tuple[Any, ...]]:
        found = []
        for at in range(0, len(sound), size):
            self.push(sound[at : at + size])
            found += self.run()
        return found


def kinds(events: list[tuple[Any, ...]]) -> list[int]:
    return [event[0] for event in events]


@pytest.mark.parametrize("name", ["1-en.wav", "4-de.wav"])
def test_words_are_those_of_the_package(name: str, model: eg.Model) -> None:
    sound = utterance(name)
    clip = next(event for event in [expected(sound)])
    keep = next(event[2] for event in clip if event[0] == "end")
    samples = np.frombuffer(b"".join(event[3] for event in clip), np.float32)[:keep]
    with model.session(context=1536) as session:
        session.feed_text("<bos><|turn>user\n", special=True)
        session.feed_text(asr_prompt(None))
        session.feed_audio(samples)
        session.feed_text("<turn|>\n<|turn>model\n", special=True)
        words = "".join(session.generate(60, temperature=0)).strip()
    assert len(words) > 5
    for partial in (-1.0, 0.3):
        events = Voice(model, partial=partial).hear(sound)
        assert [event for event in events if event[0] == lib.EG_VOICE_WORDS] == [(lib.EG_VOICE_WORDS, words)]
        told = [event[1] for event in events if event[0] == lib.EG_VOICE_PARTIAL]
        assert bool(told) == (partial > 0)
        assert kinds(events)[0] == lib.EG_VOICE_SPEECH and lib.EG_VOICE_PAUSE in kinds(events)


def test_a_turn_with_a_tool_is_that_of_the_package(model: eg.Model) -> None:
    chat, other = home_chats(model, Home())
    voice = Voice(model, chat)
    events = voice.hear(utterance())
    (words,) = [event[1] for event in events if event[0] == lib.EG_VOICE_WORDS]
    answers = [event for event in events if event[0] == lib.EG_VOICE_ANSWER]
    told = list(other.send(words))
    (call,) = [event for event in told if event.kind == "tool_call"]
    assert [(e[3], json.loads(e[4])) for e in answers if e[1] == lib.EG_EVENT_CALL] == [(call.name, call.arguments)]
    assert kinds(events).index(lib.EG_VOICE_WORDS) < kinds(events).index(lib.EG_VOICE_ANSWER)
    (result,) = [event.result for event in told if event.kind == "tool_result"]
    chat.do("add_result", call.name, json.dumps(result))
    check(lib.eg_voice_answer(voice.raw, voice.err), voice.err)
    done = voice.run()[-1]
    assert told[-1].reply
    assert done[1:3] == (lib.EG_EVENT_DONE, told[-1].reply.content) and done[2]
    assert chat.tokens == list(other.session.tokens)
    other.close()


def test_a_speaker_who_goes_on_is_answered_once(model: eg.Model) -> None:
    """A pause begins an answer; when the speaker goes on, nothing of it is left in the history."""
    chat = CChat(model, context=1024, max_tokens=8)
    voice = Voice(model, chat, silence=1.5)
    first = utterance("1-en.wav", 0.5, 0.9)
    events = voice.hear(np.concatenate([first, utterance("5-en.wav", 0.1, 2.0)]))
    assert kinds(events).count(lib.EG_VOICE_PAUSE) >= 2 and lib.EG_VOICE_RESUME in kinds(events)
    assert kinds(events).count(lib.EG_VOICE_WORDS) == 1
    assert [m["role"] for m in chat.history] == ["user", "assistant"]
    (words,) = [event[1] for event in events if event[0] == lib.EG_VOICE_WORDS]
    assert chat.history[0]["content"] == words


def test_somebody_who_speaks_interrupts_the_answer(model: eg.Model) -> None:
    chat = CChat(model, context=1024, max_tokens=200)
    voice, sound = Voice(model, chat), utterance()
    voice.push(sound)
    seen = []
    while not any(event[0] == lib.EG_VOICE_ANSWER for event in seen):
        seen.append(voice.step())
    assert seen[-1][1] != lib.EG_EVENT_DONE
    events = voice.hear(sound)
    stops = [event[5] for event in events if event[0] == lib.EG_VOICE_ANSWER and event[1] == lib.EG_EVENT_DONE]
    assert kinds(events).count(lib.EG_VOICE_SPEECH) == 1 and len(stops) == 2
    assert stops[0] in (lib.EG_CHAT_STOP_CANCELLED, lib.EG_CHAT_STOP_TURN, lib.EG_CHAT_STOP_TOOL_RESPONSE)
    assert [m["role"] for m in chat.history] == ["user", "assistant"] * 2


@pytest.mark.parametrize("answered", [False, True])
def test_cancelling_ends_the_turn(answered: bool, model: eg.Model) -> None:
    chat = CChat(model, context=1024, max_tokens=200)
    voice, sound = Voice(model, chat), utterance()
    voice.push(sound if answered else sound[:-16000])
    seen = [voice.step()]
    while answered and seen[-1][0] != lib.EG_VOICE_ANSWER:
        seen.append(voice.step())
    lib.eg_voice_cancel(voice.raw)
    rest = voice.run()
    stops = [event[5] for event in rest if event[0] == lib.EG_VOICE_ANSWER and event[1] == lib.EG_EVENT_DONE]
    assert stops == ([lib.EG_CHAT_STOP_CANCELLED] if answered else [])
    assert [m["role"] for m in chat.history] == (["user", "assistant"] if answered else [])
    voice.push(np.zeros(16000, np.float32))
    assert [event[0] for event in voice.hear(sound)].count(lib.EG_VOICE_WORDS) == 1  # and the next turn works


def test_cancelling_in_a_pause_leaves_nothing(model: eg.Model) -> None:
    """The answer that the pause has begun was not told, and is not in the history."""
    chat = CChat(model, context=1024, max_tokens=200)
    chat.do("add_text", "user", "Hello.")
    chat.do("add_text", "assistant", "Good evening.")
    voice = Voice(model, chat, silence=1.5)
    voice.push(utterance(after=0.9))
    while len(chat.history) == 2:
        assert voice.step()[0] in (lib.EG_VOICE_BUSY, lib.EG_VOICE_SPEECH, lib.EG_VOICE_PAUSE)
    voice.step()
    lib.eg_voice_cancel(voice.raw)
    assert voice.run() == []
    assert [message["content"] for message in chat.history] == ["Hello.", "Good evening."]


def test_another_detector_decides(model: eg.Model) -> None:
    seen = []

    @ffi.callback("float(void *, const float *)")
    def never(_: Any, block: Any) -> float:
        seen.append(block[511])
        return 0.0

    voice, sound = Voice(model, detect=never), utterance()
    assert voice.hear(sound) == []
    assert len(seen) == len(sound) // 512 and seen[0] == sound[511]


def test_the_end_of_the_sound_ends_the_turn(model: eg.Model) -> None:
    voice = Voice(model)
    assert lib.EG_VOICE_WORDS not in kinds(voice.hear(utterance(after=0.1)))
    check(lib.eg_voice_finish(voice.raw, voice.err), voice.err)
    assert kinds(voice.run())[-1] == lib.EG_VOICE_WORDS
    with pytest.raises(EdgeGemmaError, match="no conversation"):
        check(lib.eg_voice_answer(voice.raw, voice.err), voice.err)


def test_a_model_that_hears_nothing_is_refused() -> None:
    with eg.Model.load(DATA / "e2b-Q4_0.gguf", threads=1) as deaf, pytest.raises(EdgeGemmaError) as caught:
        Voice(deaf)
    assert caught.value.code == "unsupported"
