"""The tokenizer of a Hugging Face checkpoint as GGUF metadata.

Reads tokenizer.json (BPE with byte fallback), and from other files the special tokens, the chat template and the tokens that
must not be generated. A tokenizer that splits text in another way than Gemma 4's is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EdgeGemmaValueError
from .gguf_writer import boolean, numbers, text, texts, u32
from .safetensors import read_json

__all__ = ["tokenizer_metadata"]

NORMAL, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 3, 4, 5, 6
SCORE = -1000.0  # not used, since the order of merges decides, but the format requires a number
SPACE = "\u2581"
# Special tokens that the parser of an answer has to see as text: channels, calls and their quotation mark.
VISIBLE = frozenset(
    ("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>')
)
NAMED = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad", "mask": "mask"}  # GGUF's name -> theirs
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def tokenizer_metadata(directory: Path, config: Mapping[str, Any], rows: int) -> dict[str, bytes]:
    """The `tokenizer.*` keys of a checkpoint directory. `config` is its config.json, `rows` the number of embeddings.

    Raises ValueError for a tokenizer that does not work like Gemma 4's, OSError when a file cannot be read.
    """
    path = directory / "tokenizer.json"
    tokenizer = read_json(path)
    model = tokenizer.get("model", {})
    _check(path, tokenizer, model)
    tokens, types = _tokens(path, model["vocab"], tokenizer.get("added_tokens", []), rows)
    metadata = {
        "tokenizer.ggml.model": text("gemma4"),
        "tokenizer.ggml.tokens": texts(tokens),
        "tokenizer.ggml.scores": numbers(np.full(len(tokens), SCORE), np.float32),
        "tokenizer.ggml.token_type": numbers(types, np.int32),
        "tokenizer.ggml.merges": texts([_merge(path, pair) for pair in model["merges"]]),
    }
    settings = _optional(directory / "tokenizer_config.json")
    ids = {token: index for index, token in enumerate(tokens)}
    for ours, theirs in NAMED.items():
        if (index := _special(settings, config, theirs, ids)) is not None:
            metadata[f"tokenizer.ggml.{ours}_token_id"] = u32(index)
    if template := _template(directory, settings):
        metadata["tokenizer.chat_template"] = text(template)
    metadata["tokenizer.ggml.add_space_prefix"] = boolean(False)
    metadata["tokenizer.ggml.add_bos_token"] = boolean(True)
    if suppressed := _optional(directory / "generation_config.json").get("suppress_tokens"):
        metadata["tokenizer.ggml.suppress_tokens"] = numbers(suppressed, np.int32)
    return metadata


def _check(path: Path, tokenizer: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Raises ValueError unless text is split as by Gemma 4's tokenizer: spaces become U+2581, then BPE over the whole text."""
    normalizer, splitter = tokenizer.get("normalizer") or {}, tokenizer.get("pre_tokenizer") or {}
    if (normalizer.get("type"), normalizer.get("content")) != ("Replace", SPACE):
        raise _unlike(path, f"its normalizer is {normalizer.get('type')}, not the one that replaces spaces by U+2581")
    if splitter and (splitter.get("type"), splitter.get("pattern")) != ("Split", {"String": " "}):
        raise _unlike(path, f"its pre_tokenizer {splitter.get('type')} splits text before the merges")
    if model.get("type", "BPE") != "BPE" or not model.get("byte_fallback"):
        raise _unlike(path, "it is not BPE with byte_fallback")
    if not isinstance(model.get("vocab"), dict) or not isinstance(model.get("merges"), list):
        raise _unlike(path, "it has no vocab or no merges")


def _tokens(path: Path, vocab: dict[str, int], added: list[dict[str, Any]], rows: int) -> tuple[list[str], list[int]]:
    """The tokens by id, and their types. Embeddings without a token get the text [PADi] and the type UNUSED."""
    by_id = {index: token for token, index in vocab.items()}
    by_id |= {entry["id"]: entry["content"] for entry in added}
    if min(by_id, default=0) < 0 or max(by_id, default=-1) >= rows:
        raise _unlike(path, f"it has token ids up to {max(by_id)}, but the embeddings have {rows} rows")
    types = [BYTE if _BYTE.fullmatch(by_id.get(i, "")) else NORMAL if i in by_id else UNUSED for i in range(rows)]
    for entry in added:
        hidden = entry.get("special") and entry["content"] not in VISIBLE
        types[entry["id"]] = CONTROL if hidden else USER_DEFINED
    return [by_id.get(i, f"[PAD{i}]") for i in range(rows)], types


def _merge(path: Path, pair: Any) -> str:
    """A merge as "left right". tokenizer.json has it in this form or as a list of two."""
    if isinstance(pair, str):
        return pair
    left, right = pair
    if " " in left or " " in right:
        raise _unlike(path, f"the merge {pair} contains a space")
    return f"{left} {right}"


def _special(settings: Mapping[str, Any], config: Mapping[str, Any], name: str, ids: Mapping[str, int]) -> int | None:
    """The id of a special token: from its text in tokenizer_config.json, else from its number in config.json."""
    token = settings.get(f"{name}_token")
    token = token.get("content") if isinstance(token, dict) else token
    if token in ids:
        return ids[token]
    number = config.get(f"{name}_token_id")
    number = number[0] if isinstance(number, list) and number else number
    return number if isinstance(number, int) else ids.get(f"<{name}>")


def _template(directory: Path, settings: Mapping[str, Any]) -> str | None:
    """The chat template, from the first of three files that has it."""
    if (path := directory / "chat_template.jinja").is_file():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template") or _optional(directory / "chat_template.json").get("chat_template")
    if isinstance(template, list):  # several templates, each with a name
        named = {entry.get("name"): entry.get("template") for entry in template}
        template = named.get("default")
    return template


def _optional(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if the file does not exist."""
    return read_json(path) if path.is_file() else {}


def _unlike(path: Path, reason: str) -> EdgeGemmaValueError:
    return EdgeGemmaValueError(f"{path}: {reason}; this is not a tokenizer of Gemma 4.", "unsupported")
