"""Measures a server that it starts: several clients at once against one, and the first text after a spoken turn.

    python tools/server_speed.py MODEL.gguf MMPROJ.gguf SPEECH.wav [--clients 4] [--rounds 5] [OPTION OF serve ...]

Clients ask different questions over HTTP at the same time, and get answers of the same length, drawn with chance: greedy
answers of random weights loop. One client and several alternate. The recording is spoken to /v1/realtime as fast as a person
speaks, and the client ends the turn. Needs httpx and openai[realtime].
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import statistics
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import openai
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent / "clients"))

from load import serving

from edge_gemma.audio.source import SAMPLE_RATE, load_audio

PIECE = 0.04  # seconds of sound in a message
RATE = 24000


async def together(base: str, clients: int, tokens: int) -> float:
    """The tokens a second of all clients, from the first question to the last answer."""
    async with httpx.AsyncClient(base_url=base, timeout=600) as http:

        async def ask(number: int) -> int:
            question = {"role": "user", "content": f"Question {number} of {time.monotonic()}."}
            asked = {"messages": [question], "max_tokens": tokens, "temperature": 1.0, "seed": number}
            answer = (await http.post("/v1/chat/completions", json=asked)).raise_for_status().json()
            return int(answer["usage"]["completion_tokens"])

        begun = time.monotonic()
        counts = await asyncio.gather(*(ask(number) for number in range(clients)))
        return sum(counts) / (time.monotonic() - begun)


async def first_text(base: str, speech: NDArray[np.float32]) -> float:
    """Seconds from the last sample to the first text of the answer."""
    at = np.arange(0, len(speech), SAMPLE_RATE / RATE)
    samples = (np.clip(np.interp(at, np.arange(len(speech)), speech), -1, 1) * 32767).astype("<i2")
    step = round(PIECE * RATE)
    async with (
        openai.AsyncOpenAI(base_url=base + "/v1", api_key="none") as client,
        client.realtime.connect(model="any") as connection,
    ):
        heard = {"format": {"type": "audio/pcm", "rate": RATE}, "turn_detection": None}
        session = {"type": "realtime", "output_modalities": ["text"], "audio": {"input": heard}}
        await connection.session.update(session={**session, "max_output_tokens": 16})  # type: ignore[arg-type]
        begun = time.monotonic()
        for number, start in enumerate(range(0, len(samples), step)):
            data = base64.b64encode(samples[start : start + step].tobytes()).decode()
            await asyncio.sleep(begun + PIECE * (number + 1) - time.monotonic())  # a piece is there when it is spoken
            await connection.input_audio_buffer.append(audio=data)
        ended = time.monotonic()
        await connection.input_audio_buffer.commit()
        await connection.response.create()
        async for event in connection:
            if event.type == "response.output_text.delta":
                return time.monotonic() - ended
            if event.type in ("error", "response.done"):
                raise SystemExit(f"no text came: {event}")
    raise SystemExit("the server closed the connection.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("mmproj")
    parser.add_argument("speech")
    parser.add_argument("--clients", type=int, default=4, help="that ask at the same time (default: 4)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: 5)")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer (default: 64)")
    args, options = parser.parse_known_args()
    speech = load_audio(args.speech)
    with serving(["-m", args.model, "--mmproj", args.mmproj, "--parallel", str(args.clients), *options]) as (base, _):
        asyncio.run(together(base, args.clients, 8))  # reads the weights
        ratios = []
        for _ in range(args.rounds):
            one = asyncio.run(together(base, 1, args.tokens))
            several = asyncio.run(together(base, args.clients, args.tokens))
            ratios.append(several / one)
            print(f"one client {one:.1f} tokens/s, {args.clients} clients {several:.1f}: {ratios[-1]:.2f}", flush=True)
        print(f"{args.clients} clients get {statistics.median(ratios):.2f} times the tokens of one")
        waits = [asyncio.run(first_text(base, speech)) for _ in range(args.rounds)]
    milliseconds = ", ".join(f"{1000 * wait:.0f}" for wait in waits)
    print(f"first text after {len(speech) / SAMPLE_RATE:.1f} s of speech: {milliseconds} ms")


if __name__ == "__main__":
    main()
