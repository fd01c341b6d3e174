"""Names of models as people write them: short names, repositories, and the addresses of their pages.

Owns the table of short names. `parse` knows neither the cache nor the network.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from ..errors import EdgeGemmaValueError

__all__ = ["MOBILE", "NAMES", "Reference", "checkpoint_of", "is_checkpoint", "parse", "short_name"]

# In the order of preference. ggml-org has the smallest files, also of the encoders. Google has only Q4_0. The others have
# every quantization.
_SOURCES = (
    "ggml-org/gemma-4-{}-it-GGUF",
    "google/gemma-4-{}-it-qat-q4_0-gguf",
    "unsloth/gemma-4-{}-it-GGUF",
    "bartowski/google_gemma-4-{}-it-GGUF",
)
# Google's packed checkpoints of 2 and 4 bits, in safetensors. `pull --quant mobile` makes GGUF files of them, which lie in the
# cache of their repository.
_CHECKPOINTS = {
    name: f"google/gemma-4-{size}-it-qat-mobile-transformers" for name, size in (("e2b", "E2B"), ("e4b", "E4B"))
}
MOBILE = "MOBILE"
"""The quantization of a packed checkpoint, in names of files."""

_REPOSITORIES = {
    name: tuple(source.format(size) for source in _SOURCES) + ((_CHECKPOINTS[name],) if name in _CHECKPOINTS else ())
    for name, size in (("e2b", "E2B"), ("e4b", "E4B"), ("26b", "26B-A4B"), ("31b", "31B"))
}
NAMES = ", ".join(_REPOSITORIES)
"""The short names, for messages."""

# Ollama writes gemma4:e2b and gemma4:e2b-it-q4_K_M; people write gemma-4-E2B-it.
_SHORT = re.compile(r"(?:gemma-?4[-:]?)?(e2b|e4b|26b|31b)(?:-a4b)?(?:-it)?(?:-(q\w+))?", re.IGNORECASE)
_OLLAMA = re.compile(r"(?:ollama\s+(?:run|pull)\s+|https?://(?:www\.)?ollama\.com/(?:library/)?)", re.IGNORECASE)
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_PAGES = ("tree", "blob", "resolve", "raw")
_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")


class Reference(NamedTuple):
    """What a name refers to."""

    name: str  #: the short name, or OWNER/REPO
    repositories: tuple[str, ...]  #: where to look, in this order
    quant: str | None = None  #: the quantization that the name asks for
    revision: str | None = None  #: a branch, tag or commit
    file: str | None = None  #: one file of the repository


def parse(text: str) -> Reference | None:
    """What a name refers to; None for a text that is no name of a model.

    Understands `e2b`, `e2b:Q8_0`, `OWNER/REPO`, `OWNER/REPO:Q8_0`, `OWNER/REPO@REVISION`, `OWNER/REPO/FILE.gguf`, `hf.co/` or
    `hf:` before these, the addresses of the Hub's pages and files, and Ollama's `gemma4:e2b`.

    Raises EdgeGemmaValueError "argument" for the address of another place.
    """
    text = text.strip()
    if (start := _OLLAMA.match(text)) and (found := parse(text[start.end() :])):
        return found
    short, _, quant = text.partition(":") if not text.lower().startswith("gemma") else (text, "", "")
    if match := _SHORT.fullmatch(short):
        name = match[1].lower()
        return Reference(name, _REPOSITORIES[name], _quant(quant) or _quant(match[2]))
    path = _path(text)
    if path is None:  # not an address, so it may be the path of a file
        if text.startswith(("/", "~", ".")) or text.endswith("/"):
            return None
        path, is_address = text, False
    else:
        is_address = True
    path, _, quant = path.partition(":")
    path, _, revision = path.partition("@")
    parts = [unquote(part) for part in path.split("/") if part]
    repository, rest = "/".join(parts[:2]), parts[2:]
    if len(parts) < 2 or not _REPOSITORY.fullmatch(repository):
        return None
    if rest and not is_address and not rest[-1].endswith(".gguf") and rest[0] not in _PAGES:
        return None
    if rest[:1] and rest[0] in _PAGES:
        revision, rest = revision or "".join(rest[1:2]), rest[2:]
    file = "/".join(rest) if rest and rest[-1].endswith(".gguf") else None
    return Reference(repository, (repository,), _quant(quant), revision or None, file)


def short_name(repository: str) -> str:
    """The short name that stands for a repository, or the repository itself."""
    return next((name for name, places in _REPOSITORIES.items() if repository in places), repository)


def checkpoint_of(name: str) -> str | None:
    """The repository of the packed checkpoint of a short name, or of its own name; None if there is none."""
    return name if is_checkpoint(name) else _CHECKPOINTS.get(name)


def is_checkpoint(repository: str) -> bool:
    """Whether a repository has a packed checkpoint and no GGUF files."""
    return repository in _CHECKPOINTS.values()


def _quant(text: str | None) -> str | None:
    return text if text and text.lower() != "latest" else None


def _path(text: str) -> str | None:
    """What follows the host in an address of the Hub, OWNER/REPO first; None for what is no address."""
    lower = text.lower()
    for prefix in ("hf://", "hf:"):
        if lower.startswith(prefix):
            return text[len(prefix) :].lstrip("/").removeprefix("models/")
    if "://" in text:
        address = urlsplit(text)
        endpoint = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
        if address.netloc.lower() in (*_HOSTS, endpoint.netloc.lower()):
            return address.path.lstrip("/")
        raise EdgeGemmaValueError(
            f"{text} is no address of the Hugging Face Hub: download the file and give its path, or give one of {NAMES}.",
            "argument",
        )
    for host in _HOSTS:
        if lower.startswith(f"{host}/"):
            return text[len(host) + 1 :].partition("?")[0]
    return None
