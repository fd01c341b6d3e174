"""Measures how often the demo does something else than its transcript says, and how often it acts on what is no command.

    python contradictions.py [--count 200] [--seed 21]

Random commands in voices of espeak-ng are spoken to `edge_gemma.demo.demo.Demo`, then sentences about other things, and noise.
What a transcript says is looked up among the sentences of the domain; where it is none of them, nothing is counted.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import domain
import edge_gemma as eg
import voices
from edge_gemma.audio.source import open_audio
from edge_gemma.demo.demo import Demo, DemoExchange
from evaluate import RATE, normal
from words import LANGUAGES

KNOWN = 60000  # random sentences of the domain that transcripts are looked up in
OTHER = {
    "en": (
        "Renewable energy is the future of our country. | The quick brown fox jumps over the lazy dog. | Tell me a joke. | "
        "I would like to order a pizza with mushrooms. | How tall is mount Everest? | Call my mother. | Open the window. | "
        "What is the capital of France? | Send an email to Peter. | It has been raining since Monday. | Yes. | No. | Hello. | "
        "Where are my keys? | The train leaves in half an hour. | Buy two tickets for the concert."
    ),
    "es": (
        "Me gustaría una cerveza fría. | Mi hermana vive en Barcelona. | Cuéntame un chiste. | Llama a mi madre. | "
        "¿Cuál es la capital de Francia? | El perro ladra mucho. | Ayer fuimos a la playa. | ¿Dónde está el museo?"
    ),
    "de": (
        "Erzähl mir einen Witz. | Meine Schwester wohnt in Hamburg. | Ruf meine Mutter an. | Wie hoch ist der Eiffelturm? | "
        "Ich hätte gern ein Bier. | Der Zug fährt in zehn Minuten ab. | Gestern waren wir am See. | Wo ist der Bahnhof?"
    ),
}


def heard(demo: Demo, sound: NDArray[np.float32], noise: np.random.Generator) -> Iterator[DemoExchange]:
    """What comes of a sound in a quiet room."""
    samples = np.concatenate([np.zeros(RATE // 2), sound, np.zeros(RATE)])
    samples += 5e-4 * noise.standard_normal(len(samples))
    for event in demo.run(open_audio(samples.astype(np.float32))):
        if event.kind == "done" and event.exchange:
            yield event.exchange


def spoken(text: str, language: str, rng: random.Random) -> NDArray[np.float32]:
    voice = voices.draw(language, rng, "espeak")
    return (voices.speak([text], [voice])[0] / 32768).astype(np.float32)


def calls_of(sentence: domain.Sentence) -> list[tuple[str, dict[str, Any]]]:
    return [sentence.call] if sentence.call else []


def commands(demo: Demo, count: int, rng: random.Random, noise: np.random.Generator) -> dict[str, int]:
    """Speaks random commands, and prints those where something is wrong."""
    meanings: dict[str, domain.Sentence] = {}
    for _ in range(KNOWN):
        known = domain.draw(rng).sentence(rng.choice(LANGUAGES), rng)
        meanings[" ".join(normal(known.text))] = known
    found = dict.fromkeys(
        ("commands", "right transcripts", "right calls", "left alone", "looked up", "contradictions"), 0
    )
    for _ in range(count):
        language = rng.choice(LANGUAGES)
        what = domain.draw(rng).sentence(language, rng)
        for exchange in heard(demo, spoken(what.spoken, language, rng), noise):
            calls = [(call.name, call.arguments) for call in exchange.calls]
            words = normal(exchange.text or "")
            meant = what if words == normal(what.text) else meanings.get(" ".join(words))
            contradicts = meant is not None and not exchange.problem and calls != calls_of(meant)
            found["commands"] += 1
            found["right transcripts"] += words == normal(what.text)
            found["right calls"] += calls == calls_of(what)
            found["left alone"] += bool(exchange.problem)
            found["looked up"] += meant is not None
            found["contradictions"] += contradicts
            if contradicts or calls != calls_of(what):
                print(f"{what.text}\n   {exchange.text} | {calls} | {exchange.problem}", flush=True)
    return found


def others(demo: Demo, rng: random.Random, noise: np.random.Generator) -> dict[str, int]:
    """Speaks sentences about other things, and plays noise and tones."""
    found = dict.fromkeys(("other sentences", "acted upon", "noises", "noises acted upon"), 0)
    for language, texts in OTHER.items():
        for text in texts.split(" | "):
            for exchange in heard(demo, spoken(text, language, rng), noise):
                found["other sentences"] += 1
                found["acted upon"] += bool(exchange.calls)
    for loudness in (0.01, 0.1, 0.3):
        for seconds in (1, 3):
            hiss = noise.standard_normal(seconds * RATE)
            for sound in (hiss, np.cumsum(hiss) / 100, np.sin(np.arange(len(hiss)) * 0.2)):
                for exchange in heard(demo, (loudness * sound).astype(np.float32), noise):
                    found["noises"] += 1
                    found["noises acted upon"] += bool(exchange.calls)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=21)
    options = parser.parse_args()
    rng, noise = random.Random(options.seed), np.random.default_rng(options.seed)
    with eg.Model.load("toy") as model, Demo(model, detector="energy") as demo:
        found = commands(demo, options.count, rng, noise) | others(demo, rng, noise)
    for name, number in found.items():
        print(f"{name:20} {number:5}")


if __name__ == "__main__":
    main()
