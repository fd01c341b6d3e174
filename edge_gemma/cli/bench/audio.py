"""`edge-gemma bench --audio FILE`: the speed of the audio encoder, and the latency of answers to speech.

As in use, the request to transcribe (for English) is evaluated before the recording, and the weights have been read once.
Definitions:

    encoder_rtf                   seconds of sound that the audio encoder encodes in one second (10: ten times faster than
                                  real time)
    end_to_first_token_s          with the recording fed in real time, 20 ms at a time: from its last sample to the first
                                  token of the answer
    end_to_first_token_offline_s  the same with the whole recording fed at its end
    audio_s                       length of the recording; at most 30 s of it are used
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

MEASURES = ("encoder_rtf", "end_to_first_token_s", "end_to_first_token_offline_s")
_LONGEST, _BLOCK = 30.0, 0.02  # seconds


def load(path: str) -> Any:
    """The recording: (n,) float32 samples at 16 kHz. Raises EdgeGemmaError for a file that is too short."""
    from ...audio.source import SAMPLE_RATE, open_audio

    with open_audio(path) as source:
        samples = source.read(_LONGEST)
    if samples is None or len(samples) < _BLOCK * SAMPLE_RATE:
        from ...errors import EdgeGemmaError

        raise EdgeGemmaError(f"{path}: less than {_BLOCK:g} s of sound, which is too short to measure.", "format")
    return samples


def seconds(samples: Any) -> float:
    """Length of the recording in seconds."""
    from ...audio.source import SAMPLE_RATE

    return len(samples) / SAMPLE_RATE


def measure(model: Any, samples: Any, kv: str) -> dict[str, float]:
    """The three figures, measured once."""
    start = time.perf_counter()
    model.encode_audio(samples)
    encoding = time.perf_counter() - start
    return {
        "encoder_rtf": seconds(samples) / encoding,
        "end_to_first_token_s": _answer(model, samples, kv, _spoken),
        "end_to_first_token_offline_s": _answer(model, samples, kv, _at_once),
    }


def _answer(model: Any, samples: Any, kv: str, feed: Any) -> float:
    """Seconds from the end of the recording to the first token. `feed` feeds the recording and returns the time of its end."""
    from ...engine.sampling import GREEDY
    from ...speech.prompts import asr_prompt, speech_turn

    before, after = speech_turn(model.tokenizer, asr_prompt("English"))
    context = len(before) + model.audio_tokens(len(samples)) + 2 + len(after) + 1
    with contextlib.closing(model.session(context=context, kv=kv)) as session:
        session.feed_tokens(before)
        session.logits()  # touches the weights that prefill does not need
        end = feed(session, samples)
        session.feed_tokens(after)
        session.next(GREEDY)
        return time.perf_counter() - end


def _spoken(session: Any, samples: Any) -> float:
    """Feeds the recording in real time. Returns the time of its end."""
    from ...audio.source import SAMPLE_RATE

    block = round(_BLOCK * SAMPLE_RATE)
    with session.stream_audio() as audio:
        start = time.perf_counter()
        for at in range(0, len(samples), block):
            piece = samples[at : at + block]
            due = start + (at + len(piece)) / SAMPLE_RATE
            time.sleep(max(0.0, due - time.perf_counter()))
            audio.push(piece)
    return due


def _at_once(session: Any, samples: Any) -> float:
    """Feeds the whole recording at its end. Returns the time of its end."""
    end = time.perf_counter()
    session.feed_audio(samples)
    return end


def rows(report: dict[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """Lines of the table: label, value, note."""
    return (
        ("encoder", f"{report['encoder_rtf']:.1f} x", f"real time, {report['audio_s']:.1f} s of sound"),
        ("first token", f"{report['end_to_first_token_s']:.3f} s", "after the end of speech, fed in real time"),
        ("", f"{report['end_to_first_token_offline_s']:.3f} s", "after the end of speech, fed at its end"),
    )
