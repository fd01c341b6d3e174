"""The demo's tokenizer: about a thousand pieces for the domain, bytes for everything else, and Gemma 4's special tokens.

It works like the real tokenizer (BPE over text whose spaces are U+2581, no word splitting, byte fallback), so every runtime
can use it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers

import domain
import scenes
from edge_gemma.chat.calls import format_tool_response
from edge_gemma.chat.template import BUILTIN_TEMPLATE
from tasks import call_text, located, prompts, result_for
from words import LANGUAGES

SPECIAL = (
    "<pad> <eos> <bos> <unk> <mask> <|tool> <tool|> <|tool_call> <tool_call|> <|tool_response> <tool_response|> "
    '<|"|> <|think|> '
    "<|channel> <channel|> <|turn> <turn|> <|image> <image|> <|image|> <|audio> <audio|> <|audio|> <|video|>"
).split()
PIECES = 1152
SENTENCES, PICTURES, PROMPTS = 30000, 10000, 1000
SPACE = "\u2581"
SIDES = range(10, 1010, 10)  # of boxes; each is one piece


class Pieces:
    """The tokenizer as the package's `TokenizerLike`."""

    chat_template = None  # the package's template is used
    special_tokens = {token: at for at, token in enumerate(SPECIAL)}
    control_tokens = tuple(dict.fromkeys(SPECIAL))

    def __init__(self, path: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        self.vocab_size = self._tokenizer.get_vocab_size()
        self.eos = self.find("<eos>")

    def encode(self, text: str, special: bool = False, bos: bool = False) -> list[int]:
        """The ids of a text. Markers in it always become special tokens: texts of the domain contain no others."""
        begin = [self.find("<bos>")] if bos else []
        return begin + self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=not special)

    def find(self, text: str) -> int | None:
        """The id of a token."""
        return self._tokenizer.token_to_id(text)


# Merges do not cross the borders of these pieces: words with the space before them, single digits, punctuation marks; in the
# syntax of tools, names with the marks after them.
_WORDS = re.compile(r" ?[^\W\d_]+|\n+| ?\d| ?[^\w\s]| ")
_SYNTAX = re.compile(r" ?[A-Za-z_]+[:{]*|\d|[^A-Za-z_\d ]+| ")
_JSON = re.compile(r"\d+")  # the numbers of a list of boxes
_SPECIAL = re.compile("|".join(re.escape(token) for token in SPECIAL))


def _corpus() -> Iterator[str]:
    rng = random.Random("vocabulary")
    for _ in range(SENTENCES):
        sentence = domain.draw(rng).sentence(rng.choice(LANGUAGES), rng)
        result = result_for(sentence, rng)
        yield from _words(sentence.text)
        yield from _words(sentence.reply(result))
        yield from _words(call_text(sentence))
        yield from _words(format_tool_response("_", result))
    for _ in range(PICTURES):
        scene = scenes.draw(rng, 64, 48)
        yield from _words(scenes.description(scene))
        for question in scenes.questions(scene):
            yield from _words(question.text)
            yield from _words(question.answer)
        for things in scenes.labels(scene).values():
            answer = "".join(text for text, _ in located(scene, [("", thing) for thing in things]))
            yield from _JSON.split(answer.replace(" ", SPACE))
    for prompt in prompts():  # part of every request, so they are worth pieces of their own
        for _ in range(PROMPTS):
            yield from _words(prompt)


def _words(text: str) -> list[str]:
    return [
        word.replace(" ", SPACE)
        for part in _SPECIAL.split(text)
        for word in (_SYNTAX if ":" in part and "\n" not in part and ": " not in part else _WORDS).findall(part)
    ]


def _numbers() -> list[list[str]]:
    """Merges that make one piece of each side of a box, from 10 to 1000 in tens.

    A side that is one piece is read from a place in the picture by products alone. Its second digit is not: that goes up and
    down ten times across the picture.
    """
    digits = "123456789"
    tens = [[digit, "0"] for digit in digits]
    return [
        *tens,
        *([digit, "".join(ten)] for digit in digits for ten in tens),
        *(["".join(ten), "0"] for ten in tens),
        ["100", "0"],
    ]


def _with_numbers(merges: list[list[str]], numbers: list[list[str]]) -> list[list[str]]:
    """The merges, with those of numbers at the end. The space after a comma becomes a part of the comma's piece first, not of
    the digit's."""
    spaced = [merge for merge in merges if merge[0] == SPACE and merge[1].isdigit()]
    return [merge for merge in merges if merge not in spaced] + spaced + numbers


def build(folder: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    trainer = trainers.BpeTrainer(vocab_size=PIECES, special_tokens=[], show_progress=False, min_frequency=2)
    tokenizer.train_from_iterator(_corpus(), trainer)
    trained = json.loads(tokenizer.to_str())

    pieces = sorted(trained["model"]["vocab"], key=trained["model"]["vocab"].get)
    numbers = _numbers()
    trained["model"]["merges"] = _with_numbers(trained["model"]["merges"], numbers)
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, *map("".join, numbers)]
    tokens += [
        f"<unused{n}>" for n in range(-len(tokens) % 32)
    ]  # a multiple of 32, which suits quantized rows and threads
    trained["model"]["vocab"] = {token: at for at, token in enumerate(tokens)}
    # As in the real tokenizer, this never splits anything, since spaces are replaced first.
    trained["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"String": " "},
        "behavior": "MergedWithPrevious",
        "invert": False,
    }
    finished = Tokenizer.from_str(json.dumps(trained))
    finished.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    finished.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    finished.save(str(folder / "tokenizer.json"))
    config = {
        "backend": "tokenizers",
        "tokenizer_class": "TokenizersBackend",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "mask_token": "<mask>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "model_max_length": 4096,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(BUILTIN_TEMPLATE)


if __name__ == "__main__":
    import sys

    build(Path(sys.argv[1]))
