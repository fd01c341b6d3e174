"""Measures the demo model on sentences and pictures that its training did not contain, through the engine as an application
uses it.

    python evaluate.py CLIPS MODEL.gguf MMPROJ.gguf [--split known] [--count 300] [--seed 1]
    python evaluate.py CLIPS MODEL.gguf MMPROJ.gguf --forms
    python evaluate.py --spoken CLIPS MODEL.gguf MMPROJ.gguf [--split unknown] [--count 60]
    python evaluate.py --pictures 300 MODEL.gguf MMPROJ.gguf

Speech is fed in blocks of 20 ms, with silence around it, and answers are greedy. For each language and speech synthesizer
the program prints the word error rate of transcripts (without case and punctuation), and the percentages of transcripts,
translations and tool calls that are exactly right. Calls are made as the demo makes them, from the words of the transcript;
"sound" are those from the sound alone. Then it prints the same for typed words, which need no transcript.
With --forms it types the commands only, once as they are and once with calls that keep to the declarations of the tools, and
prints the percentages of right calls, greedy and at temperature 1.

With --spoken, the whole demo hears each sentence: it finds its beginning and its end, answers and acts. The program prints how
many calls are those that the same model makes of the shown words when they are typed in a chat, and how many are right.

Pictures are drawn at random sizes. For each budget of soft tokens the program prints the percentages of descriptions and
answers that are exactly right, of things whose box is found with an intersection over union of at least 0.7, and of lists
that have these boxes and no others.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import clips
import edge_gemma as eg
import scenes
from domain import Sentence
from edge_gemma.audio.source import open_audio
from edge_gemma.chat.call_grammar import call_grammar
from edge_gemma.chat.calls import format_tool_response
from edge_gemma.chat.conversation import Chat
from edge_gemma.chat.reply import parse_reply
from edge_gemma.chat.reply_grammar import ReplyForm
from edge_gemma.demo.demo import Demo
from edge_gemma.demo.home import INSTRUCTIONS, Home
from edge_gemma.engine.sampling import GREEDY
from edge_gemma.speech.prompts import split_translation
from edge_gemma.vision.describe import Describer
from tasks import SCHEMAS, Request, Tasks, result_for
from words import LANGUAGES

BLOCK, RATE = 320, 16000
LONGEST = 64  # tokens of an answer


def distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """The edit distance."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a):
        last, row[0] = row[0], i + 1
        for j, right in enumerate(b):
            last, row[j + 1] = row[j + 1], min(row[j + 1] + 1, row[j] + 1, last + (left != right))
    return row[-1]


def normal(text: str) -> list[str]:
    """The words of a text without case and punctuation."""
    return re.findall(r"[\w:]+", text.casefold())


class Speaker:
    """Asks a model for answers."""

    def __init__(self, model: eg.Model, kv: str = "f16") -> None:
        self.model, self.kv = model, kv
        self.pieces = model.tokenizer
        self.tasks = Tasks(self.pieces)
        self._bases: dict[Request, eg.Session] = {}

    def ask(self, request: Request, sound: NDArray[np.float32] | None, words: str = "") -> eg.Session:
        """The session after a request with its speech, its words, or its speech and then its words, before the answer."""
        if request not in self._bases:
            before = list(
                request.before if request.typed else request.before[:-1]
            )  # the session adds audio markers itself
            self._bases[request] = self.model.session(context=1280, kv=self.kv)
            self._bases[request].feed_tokens(before)
        session = self._bases[request].fork()
        if sound is None:
            session.feed_tokens(self.pieces.encode(words, special=False))
            session.feed_tokens(request.after)
        else:
            with session.stream_audio() as audio:
                for at in range(0, len(sound), BLOCK):
                    audio.push(sound[at : at + BLOCK])
            session.feed_tokens([*self.pieces.encode(words, special=False), *request.after[1:]])
        return session

    def answer(self, session: eg.Session, sampling: eg.Sampling = GREEDY, form: ReplyForm | None = None) -> str:
        """The model's next answer as text, with markers."""
        start = session.position
        for _ in session.generate(max_tokens=LONGEST, sampling=sampling, grammar=form):
            pass
        return self.model.tokenizer.decode(session.tokens[start:], special=True).removesuffix("<turn|>")


def padded(sound: NDArray[np.int16]) -> NDArray[np.float32]:
    """The sound as floats, with 0.3 s of silence before it and 0.5 s after it."""
    return np.concatenate([np.zeros(RATE * 3 // 10), sound / 32768, np.zeros(RATE // 2)]).astype(np.float32)


def examine(speaker: Speaker, what: Sentence, sound: NDArray[np.float32] | None, rng: random.Random) -> dict[str, Any]:
    """Which of the answers to one sentence are right, and how wrong the transcripts are."""
    tasks, target = speaker.tasks, rng.choice([name for name in LANGUAGES if name != what.language])
    found: dict[str, Any] = {}
    if sound is None:
        translated = speaker.answer(speaker.ask(tasks.typed_translation(what.language, target), None, what.text))
        session = speaker.ask(tasks.typed_command(), None, what.text)
    else:
        heard = speaker.answer(speaker.ask(tasks.transcription(what.language), sound))
        found["transcript"] = heard == what.text
        found["edits"] = distance(normal(heard), normal(what.text))
        found["words"] = len(normal(what.text))
        found["heard"] = heard
        unnamed = speaker.answer(speaker.ask(tasks.transcription(None), sound))
        found["unnamed"] = distance(normal(unnamed), normal(what.text))
        translated = speaker.answer(speaker.ask(tasks.translation(what.language, target), sound))
        translated = split_translation(translated, target, what.language)[1] or ""
        alone = parse_reply(speaker.answer(speaker.ask(tasks.command(), sound)))
        found["sound"] = [(call.name, call.arguments) for call in alone.tool_calls] == (
            [what.call] if what.call else []
        )
        session = speaker.ask(tasks.typed_command(), None, heard)
    found["translation"] = translated == what.translations[target]
    found["translated"] = translated
    said = parse_reply(speaker.answer(session))
    calls = [(call.name, call.arguments) for call in said.tool_calls]
    found["call"] = calls == ([what.call] if what.call else [])
    found["called"] = calls
    if what.call and found["call"]:
        result = result_for(what, rng)
        response = speaker.pieces.encode(format_tool_response(what.call[0], result), special=True)
        if session.tokens[-1] == response[0]:
            response = response[1:]
        session.feed_tokens(response)
        found["reply"] = speaker.answer(session) == what.reply(result)
    elif not what.call:
        found["reply"] = said.content == what.reply(None)
    return found


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """One line for each group, with its results in percent."""
    lines = []
    for group, found in sorted(results.items()):
        parts = [f"{group:24} {len(found):4}"]
        words = sum(one.get("words", 0) for one in found)
        for name, key in (("WER", "edits"), ("WER, language not named", "unnamed")):
            if words:
                parts.append(f"{name} {100 * sum(one[key] for one in found) / words:.2f}")
        for key in ("transcript", "translation", "sound", "call", "reply"):
            values = [one[key] for one in found if key in one]
            if values:
                parts.append(f"{key} {100 * sum(values) / len(values):.1f}")
        lines.append("  ".join(parts))
    return "\n".join(lines)


def run(speaker: Speaker, folder: Path, split: str, count: int, seed: int, verbose: bool) -> str:
    """Examines `count` clips of a split, and their sentences typed. Returns the table."""
    entries, samples = clips.load(folder, split)
    rng = random.Random(seed)
    chosen = rng.sample(entries, min(count, len(entries)))
    results: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for clip in chosen:
        what = clip.sentence
        spoken = examine(speaker, what, padded(samples[clip.begin : clip.end]), rng)
        typed = examine(speaker, what, None, rng)
        for group in (f"{what.language} {clip.voice.split()[0]}", f"{what.language} all", "spoken"):
            results[group].append(spoken)
        results["typed"].append(typed)
        results[f"{what.language} typed"].append(typed)
        if verbose and not (spoken["transcript"] and spoken["call"] and spoken["translation"]):
            print(
                f"{clip.voice}: {what.text}\n   {spoken['heard']} | {spoken['translated']} | {spoken['called']}",
                flush=True,
            )
    return table(results)


def run_forms(speaker: Speaker, folder: Path, split: str, count: int, seed: int, verbose: bool) -> str:
    """Types `count` sentences of a split. Returns the percentages of right calls, free and of the declared form."""
    entries, _ = clips.load(folder, split)
    declared = call_grammar(SCHEMAS, speaker.pieces)
    forms = {"free": None, "of the form": ReplyForm(declared, None)}
    right: dict[str, int] = defaultdict(int)
    chosen = random.Random(seed).sample(entries, min(count, len(entries)))
    for number, clip in enumerate(chosen):
        for how in ("greedy", "temperature 1"):
            sampling = GREEDY if how == "greedy" else eg.Sampling(temperature=1.0, top_k=0, top_p=1.0, seed=number)
            for name, form in forms.items():
                with speaker.ask(speaker.tasks.typed_command(), None, clip.sentence.text) as session:
                    said = parse_reply(speaker.answer(session, sampling, form))
                calls = [(call.name, call.arguments) for call in said.tool_calls]
                good = calls == ([clip.sentence.call] if clip.sentence.call else []) and not said.broken_calls
                right[f"{how}, {name}"] += good
                if verbose and not good:
                    print(f"{how}, {name}: {clip.sentence.text} | {calls}", flush=True)
    return "\n".join(f"{name:28} {len(chosen):4}  call {100 * n / len(chosen):.1f}" for name, n in right.items())


# ---- the whole demo --------------------------------------------------------------------------------------------------


def typed_calls(model: eg.Model, words: str) -> list[tuple[str, dict[str, Any]]]:
    """What the model calls when somebody types these words in a chat."""
    sampling = eg.Sampling(temperature=0)
    with Chat(model, INSTRUCTIONS, Home().tools, sampling=sampling, max_rounds=2, constrain=False) as chat:
        return [(event.call.name, event.call.arguments) for event in chat.send(words) if event.kind == "tool_call"]


def run_spoken(model: eg.Model, folder: Path, split: str, count: int, seed: int, verbose: bool) -> str:
    """Speaks `count` clips of a split to the demo, one after the other. Returns a line."""
    entries, samples = clips.load(folder, split)
    chosen = random.Random(seed).sample(entries, min(count, len(entries)))
    same = right = words = unsure = 0
    for clip in chosen:
        what = clip.sentence
        with Demo(model, what.language, detector="energy") as demo:
            events = list(demo.run(open_audio(padded(samples[clip.begin : clip.end]))))
        exchanges = [event.exchange for event in events if event.kind == "done" and event.exchange]
        shown = " ".join(exchange.text or "" for exchange in exchanges)
        calls = [(call.name, call.arguments) for exchange in exchanges for call in exchange.calls]
        left = any(exchange.problem for exchange in exchanges)
        typed = [] if left else [call for one in exchanges if one.text for call in typed_calls(model, one.text)]
        expected = [what.call] if what.call else []
        same, right, words = same + (calls == typed), right + (calls == expected), words + (shown == what.text)
        unsure += left
        if verbose and (calls != expected or calls != typed):
            print(f"{clip.voice}: {what.text}\n   {shown}\n   spoken {calls}, typed {typed}", flush=True)
    parts = {"as typed": same, "right": right, "words right": words, "left alone": unsure}
    return "  ".join(
        [f"spoken to the demo, {split} {len(chosen)}"]
        + [f"{name} {100 * value / max(1, len(chosen)):.1f}" for name, value in parts.items()]
    )


# ---- pictures --------------------------------------------------------------------------------------------------------


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def look(describer: Describer, scene: scenes.Scene, budget: int, rng: random.Random, verbose: bool) -> dict[str, Any]:
    """Which answers about one picture are right: one question of each kind, and one label to locate."""
    found: dict[str, Any] = {}

    def check(name: str, question: str | None, right: str) -> None:
        said = describer.describe(scene.pixels, question, budget).text
        found[name] = said == right
        if verbose and said != right:
            print(f"{budget} {question or 'describe'}\n   {right}\n   {said}", flush=True)

    check("describe", None, scenes.description(scene))
    asked = scenes.questions(scene)
    for kind in sorted({question.about for question in asked}):
        question = rng.choice([question for question in asked if question.about == kind])
        check(kind, question.text, question.answer)
    label, things = rng.choice(list(scenes.labels(scene).items()))
    boxes = [(box.left, box.top, box.right, box.bottom) for box in describer.locate(scene.pixels, label, budget)]
    found["boxes"] = [max((overlap(thing.box, box) for box in boxes), default=0.0) >= 0.7 for thing in things]
    found["lists"] = all(found["boxes"]) and len(boxes) == len(things)
    if verbose and not found["lists"]:
        print(f"{budget} {label}\n   {[thing.box for thing in things]}\n   {boxes}", flush=True)
    return found


def run_pictures(model: eg.Model, count: int, seed: int, verbose: bool) -> str:
    """Shows `count` pictures that training does not contain. Returns the table."""
    lines = []
    with Describer(model) as describer:
        for budget in (70, 140, 280):
            rng = random.Random(f"pictures {seed}")
            sums: dict[str, list[bool]] = defaultdict(list)
            for number in range(count):
                width, height = rng.randint(200, 640), rng.randint(200, 640)
                # One half are of kinds that are held out; in the other half only the picture is new.
                scene = scenes.draw(rng, width, height, held_out=True if number % 2 else None)
                for name, right in look(describer, scene, budget, rng, verbose).items():
                    sums[name] += right if isinstance(right, list) else [right]
            parts = [f"{name} {100 * sum(values) / len(values):.1f}" for name, values in sums.items()]
            lines.append("  ".join([f"pictures, {budget} tokens {count:4}", *parts]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="CLIPS MODEL.gguf MMPROJ.gguf; CLIPS not with --pictures")
    parser.add_argument("--pictures", type=int, metavar="COUNT", help="show pictures instead of playing recordings")
    parser.add_argument("--forms", action="store_true", help="type commands, with and without a grammar of the calls")
    parser.add_argument("--spoken", action="store_true", help="speak to the whole demo")
    parser.add_argument("--split", default="known", choices=["known", "variants", "unknown", "train"])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--kv", default="f16", choices=["f16", "f32", "q8"], help="type of the KV cache")
    parser.add_argument("--verbose", action="store_true", help="print what is wrong")
    options = parser.parse_args()
    wanted = 2 if options.pictures else 3
    if len(options.files) != wanted:
        parser.error(f"{wanted} files are wanted: {'' if options.pictures else 'CLIPS '}MODEL.gguf MMPROJ.gguf.")
    clips_folder, (file, mmproj) = options.files[0], options.files[-2:]
    with eg.Model.load(file, mmproj=mmproj, threads=options.threads) as model:
        if options.pictures:
            print(run_pictures(model, options.pictures, options.seed, options.verbose))
        elif options.spoken:
            print(run_spoken(model, clips_folder, options.split, options.count, options.seed, options.verbose))
        else:
            speaker = Speaker(model, options.kv)
            examined = run_forms if options.forms else run
            print(examined(speaker, clips_folder, options.split, options.count, options.seed, options.verbose))


if __name__ == "__main__":
    main()
