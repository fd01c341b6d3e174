"""`DiskCache`: prefixes in a folder, so that they outlive the process.

    FOLDER/MODEL-DIGEST/NAME.session    the timeline, as Session.save writes it
    FOLDER/MODEL-DIGEST/NAME.json       its tokens and media

The digest is of the model's files, its encoders, the type of cache and the version of this package, so another model never sees
them; the engine compares the model once more. A timeline holds what was said, so the folder is for its owner alone. What
was not used for the longest time is removed when the folder becomes too large. A damaged or foreign file counts as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .._version import __version__
from ..chat.prompt import Media, Unit
from ..chat.timeline import Timeline, common_prefix
from ..engine.model import Model
from ..errors import EdgeGemmaError, EdgeGemmaOSError

__all__ = ["DiskCache", "Stored", "model_digest"]

_FREE = 127  # tokens that every timeline can go back by; one is needed for the logits of a prompt that is known whole
_SAMPLE = 1 << 20  # bytes of a file's beginning and end that its digest covers


def model_digest(model: Model, kv: str) -> str:
    """Tells a model, with its encoders and the type of its caches, from others."""
    digest = hashlib.blake2b(f"{__version__} {kv}".encode(), digest_size=12)
    for path in (model.path, model.mmproj, model.sidecar):
        if path is None:
            digest.update(b"none")
            continue
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(f"{size} ".encode() + file.read(_SAMPLE))
            file.seek(max(size - _SAMPLE, 0))
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


@dataclass
class Stored:
    """A timeline on disk: its file without ending, tokens and media, kind, bytes, when it was used, and the most tokens that it
    has had."""

    path: Path
    tokens: list[int]
    spans: dict[int, tuple[int, Media]]
    kind: str
    size: int
    used: float
    high: int


class DiskCache:
    """The prefixes of one model. Of the scheduler's thread."""

    def __init__(self, folder: str | os.PathLike[str], model: Model, kv: str, budget: int) -> None:
        """Reads what the folder has. Raises EdgeGemmaOSError "file" for a folder that cannot be used."""
        self._folder = Path(folder) / f"{model.path.stem[:60]}-{model_digest(model, kv)}"
        self._budget = budget
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            os.chmod(self._folder, 0o700)
        except OSError as error:
            raise EdgeGemmaOSError(f"The folder {folder} cannot be used: {error.strerror}.", "file") from error
        self.entries = [entry for path in self._folder.glob("*.json") if (entry := _read(path)) is not None]

    def find(self, target: Sequence[Unit], least: int) -> Stored | None:
        """The entry that holds the longest beginning of a prompt, more than `least` tokens, and can go back to its end without
        reading anything again."""
        best, best_tokens = None, least
        for entry in self.entries:
            tokens = common_prefix(target, entry.tokens, entry.spans)[1]
            if tokens > best_tokens and entry.high - tokens <= _FREE:
                best, best_tokens = entry, tokens
        return best

    def restore(self, entry: Stored, model: Model, context: int) -> Timeline | None:
        """The timeline of an entry; None, and the entry is removed, when it is damaged."""
        try:
            timeline = Timeline(model.session(context=context, restore=entry.path.with_suffix(".session")))
        except EdgeGemmaError:
            self._remove(entry)
            return None
        if timeline.session.tokens != entry.tokens:
            timeline.session.close()
            self._remove(entry)
            return None
        timeline.spans = dict(entry.spans)
        entry.used = time.time()
        with contextlib.suppress(OSError):
            os.utime(entry.path.with_suffix(".json"))
        return timeline

    def store(self, timeline: Timeline, tokens: Sequence[int], kind: str, high: int) -> bool:
        """Writes a timeline, unless an equal one is there. False if that fails: a full disk ends no answer."""
        if any(entry.tokens == list(tokens) and entry.spans == timeline.spans for entry in self.entries):
            return True
        path = self._folder / secrets.token_hex(8)
        spans = [
            {"start": start, "end": end, "kind": media.kind, "key": media.key.hex(), "budget": media.budget}
            for start, (end, media) in timeline.spans.items()
        ]
        session: object = timeline.session
        try:
            session.save(path.with_suffix(".session"))  # type: ignore[attr-defined]
            os.chmod(path.with_suffix(".session"), 0o600)
            size = path.with_suffix(".session").stat().st_size
            with open(os.open(path.with_suffix(".json"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                json.dump({"tokens": list(tokens), "spans": spans, "kind": kind, "high": high}, file)
        except (OSError, EdgeGemmaError):
            _unlink(path)
            return False
        self.entries.append(Stored(path, list(tokens), dict(timeline.spans), kind, size, time.time(), high))
        while sum(entry.size for entry in self.entries) > self._budget:
            self._remove(min(self.entries, key=lambda entry: entry.used))
        return True

    def _remove(self, entry: Stored) -> None:
        self.entries.remove(entry)
        _unlink(entry.path)


def _read(path: Path) -> Stored | None:
    try:
        content = json.loads(path.read_text())
        spans = {
            int(span["start"]): (
                int(span["end"]),
                Media(str(span["kind"]), bytes.fromhex(span["key"]), None, int(span["budget"])),
            )
            for span in content["spans"]
        }
        tokens, kind = [int(token) for token in content["tokens"]], str(content["kind"])
        size = path.with_suffix(".session").stat().st_size
        used, high = path.stat().st_mtime, int(content["high"])
        return Stored(path.with_suffix(""), tokens, spans, kind, size, used, high)
    except (OSError, ValueError, KeyError, TypeError):
        _unlink(path.with_suffix(""))
        return None


def _unlink(path: Path) -> None:
    for ending in (".json", ".session"):
        with contextlib.suppress(OSError):
            path.with_suffix(ending).unlink()
