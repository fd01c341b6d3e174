"""Speaks to Hugging Face's speech-to-speech (speech_to_speech.sh), whose model, ears and voice are a running edge_gemma server.

    FOLDER/program/bin/python tools/clients/speech_to_speech.py [RECORDING.wav] [--answers FILE.wav]

A recording is sent at the speed of speech, as from a microphone that stays open. There must be an answer, and it must sound.
What was asked of the server is told by the server's own counters. Ends with 1 if something was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import collections
import re
import sys
import urllib.request
import wave
from pathlib import Path

import numpy as np
from openai import AsyncOpenAI

RECORDING = Path(__file__).parents[2] / "edge_gemma/demo/data/utterances/1-en.wav"
RATE = 24000
PIECE = RATE // 25  # samples of a message
PATIENCE = 90.0  # seconds
LOUD = 300  # of 32,767, root mean square of an answer


def spoken(recording: Path) -> bytes:
    """The recording at the rate of the interface."""
    with wave.open(str(recording)) as file:
        assert file.getnchannels() == 1 and file.getsampwidth() == 2, "One channel of 16 bits, please."
        samples, rate = np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()
    at = np.arange(0, len(samples), rate / RATE)
    return bytes(np.interp(at, np.arange(len(samples)), samples).astype("<i2").tobytes())


def asked(base: str) -> collections.Counter[str]:
    """The requests that the server has answered, by route and status."""
    with urllib.request.urlopen(base + "/metrics", timeout=30) as answer:
        found = re.findall(
            r'^edge_gemma_requests_total\{route="(.*?)",status="(\d+)"\} (\S+)$', answer.read().decode(), re.M
        )
    return collections.Counter({f"{route} {status}": round(float(value)) for route, status, value in found})


async def talk(sound: bytes) -> tuple[str, str, bytes]:
    """One turn: the words that were heard, if they are told, those of the answer, and its sound."""
    client = AsyncOpenAI(
        base_url="http://127.0.0.1:8765/v1", api_key="none", websocket_base_url="ws://127.0.0.1:8765/v1"
    )
    async with client.realtime.connect(model="any") as connection:
        form = {"type": "audio/pcm", "rate": RATE}
        audio = {"input": {"format": form, "turn_detection": {"type": "server_vad"}}, "output": {"format": form}}
        session = {"type": "realtime", "output_modalities": ["audio"], "instructions": "You are the voice of a home."}
        await connection.session.update(session={**session, "audio": audio})

        async def speak() -> None:
            piece, at = 2 * PIECE, 0
            while True:
                heard = sound[at : at + piece].ljust(piece, b"\0")
                at += piece
                await connection.input_audio_buffer.append(audio=base64.b64encode(heard).decode())
                await asyncio.sleep(PIECE / RATE)

        speaking, heard, words, answer = asyncio.create_task(speak()), "", "", b""
        try:
            async with asyncio.timeout(PATIENCE):
                async for event in connection:
                    assert event.type != "error", event
                    if event.type == "response.output_audio.delta":
                        answer += base64.b64decode(event.delta)
                    elif event.type.endswith("input_audio_transcription.completed"):
                        heard = event.transcript
                    elif event.type == "response.output_audio_transcript.done":
                        words += event.transcript
                    elif event.type == "response.done":
                        return heard, words, answer
        finally:
            speaking.cancel()
    raise AssertionError("the connection was closed")


def main() -> int:
    """One turn, and what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", nargs="?", type=Path, default=RECORDING, metavar="RECORDING.wav")
    parser.add_argument(
        "--base", default="http://127.0.0.1:8080", metavar="URL", help="the server (default: %(default)s)"
    )
    parser.add_argument("--answers", type=Path, metavar="FILE", help="where the answer's sound goes")
    args = parser.parse_args()
    before = asked(args.base)
    heard, words, answer = asyncio.run(talk(spoken(args.recording)))
    if args.answers is not None:
        with wave.open(str(args.answers), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(answer)
    samples = np.frombuffer(answer, "<i2").astype(float)
    level = float(np.sqrt(np.mean(samples**2))) if len(samples) else 0.0
    new = {what: count for what, count in (asked(args.base) - before).items() if not what.startswith("/metrics")}
    good = level > LOUD and all(what.rpartition(" ")[2] < "400" for what in new)
    print(f"{'good' if good else 'WRONG'}: heard {heard!r}, answered {words!r}, {len(samples) / RATE:.1f} s of sound")
    print(f"  asked of the server: {new}")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
