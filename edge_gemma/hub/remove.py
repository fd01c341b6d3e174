"""What the cache has of models in GGUF files: a list, and removing.

The cache is shared with the tools of Hugging Face. Only files that `downloaded` lists, and their encoders, are removed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import EdgeGemmaOSError, EdgeGemmaValueError
from .cache import ENCODER_ORDER, cache_folder, newest_first, pick, sort_out
from .names import parse

__all__ = ["Downloaded", "downloaded", "remove"]


@dataclass(frozen=True)
class Downloaded:
    """A model in the cache.

    Attributes:
        name: what `Model.load` takes: "e2b:Q4_0", or "OWNER/REPO:Q4_0".
        repository: OWNER/REPO.
        quant: the quantization in the name of its file; None if there is none.
        model, mmproj: its files; of a split file the first part. None without encoders.
        size: bytes of the model, without its encoders.
        time: when it was downloaded, in seconds since 1970.
    """

    name: str
    repository: str
    quant: str | None
    model: Path
    mmproj: Path | None
    size: int
    time: float


def downloaded() -> list[Downloaded]:
    """The models of all repositories with GGUF files in the Hugging Face cache, the newest first; also foreign models."""
    found = [entry for folder in _repositories() for entry in _models(folder)]
    return sorted(found, key=lambda entry: entry.time, reverse=True)


def remove(name: str) -> int:
    """Removes a model from the cache, and the encoders of its repository if no model of it is left.

    Args:
        name: as `Downloaded.name`; the quantization may be left out if there is only one.

    Returns:
        The number of bytes that are free now.

    Raises:
        EdgeGemmaValueError: "argument" if the name is that of several models, or of none.
        EdgeGemmaOSError: "file" for a cache that cannot be written.
    """
    wanted = parse(name)
    places = {place.lower() for place in wanted.repositories} if wanted else set()
    found = [
        entry
        for entry in downloaded()
        if wanted
        and entry.repository.lower() in places
        and (not wanted.quant or (entry.quant or "").removeprefix("UD-") == wanted.quant.upper().removeprefix("UD-"))
        and (not wanted.file or str(entry.model).replace(os.sep, "/").endswith(f"/{wanted.file}"))
    ]
    if not found:
        have = ", ".join(entry.name for entry in downloaded()) or "nothing"
        raise EdgeGemmaValueError(f"{name} is not in {cache_folder()}, which has {have}.", "argument")
    names = sorted({entry.name for entry in found})
    if len(names) > 1:
        raise EdgeGemmaValueError(
            f"{name} is the name of several models: {', '.join(names)}. Name one of them.", "argument"
        )
    try:
        return sum(map(_remove, found))
    except PermissionError as error:
        raise EdgeGemmaOSError(f"{error.filename} cannot be removed: {error.strerror}.", "file") from error


def _repositories() -> Iterator[str]:
    with contextlib.suppress(OSError):
        for entry in sorted(os.listdir(cache_folder())):
            if entry.startswith("models--") and entry.count("--") >= 2:
                yield os.path.join(cache_folder(), entry)


def _models(folder: str) -> Iterator[Downloaded]:
    repository = os.path.basename(folder).removeprefix("models--").replace("--", "/", 1)
    short = next((name for name in ("e2b", "e4b", "26b", "31b") if repository in _places(name)), repository)
    seen: set[tuple[str, ...]] = set()
    for snapshot, weights in newest_first([folder]):
        parts = [os.path.join(snapshot, part) for part in weights.parts]
        real = tuple(map(os.path.realpath, parts))
        if real in seen:  # the same blob in another snapshot
            continue
        seen.add(real)
        encoders = _encoders(folder)
        yield Downloaded(
            f"{short}:{weights.quant}" if weights.quant else short,
            repository,
            weights.quant,
            Path(parts[0]),
            Path(encoders[0]) if encoders else None,
            sum(map(os.path.getsize, parts)),
            os.lstat(parts[0]).st_mtime,
        )


def _places(name: str) -> tuple[str, ...]:
    reference = parse(name)
    return reference.repositories if reference else ()


def _snapshots(folder: str) -> list[str]:
    place = os.path.join(folder, "snapshots")
    return [os.path.join(place, name) for name in sorted(os.listdir(place))] if os.path.isdir(place) else []


def _pointers(folder: str) -> Iterator[str]:
    """Every file of every snapshot of a repository."""
    for snapshot in _snapshots(folder):
        for place, _, names in os.walk(snapshot):
            yield from (os.path.join(place, name) for name in names)


def _encoders(folder: str) -> list[str]:
    """The encoders of a repository, the best first."""
    paths = {os.path.basename(path): path for path in _pointers(folder) if os.path.isfile(path)}
    _, encoders = sort_out(paths)
    best = pick(encoders, order=ENCODER_ORDER)
    rest = [path for weights in encoders if weights is not best for path in weights.parts]
    return [paths[name] for name in (*(best.parts if best else ()), *rest)]


def _remove(entry: Downloaded) -> int:
    """Removes the files of one model and what they leave useless."""
    folder = str(entry.model)
    while os.path.basename(folder) != "snapshots":
        folder = os.path.dirname(folder)
    folder = os.path.dirname(folder)
    blob, freed = os.path.realpath(entry.model), 0
    for snapshot in _snapshots(folder):
        for weights in sort_out(_relative(snapshot))[0]:
            files = [os.path.join(snapshot, part) for part in weights.parts]
            if os.path.realpath(files[0]) == blob:  # also where another snapshot has the same file
                freed += _unlink(files)
    if not any(sort_out(_relative(snapshot))[0] for snapshot in _snapshots(folder)):
        freed += _unlink(_encoders(folder))
        _clean(folder)
    return freed


def _relative(snapshot: str) -> list[str]:
    return [
        os.path.relpath(os.path.join(place, name), snapshot).replace(os.sep, "/")
        for place, _, names in os.walk(snapshot)
        for name in names
    ]


def _unlink(paths: list[str]) -> int:
    """Removes files of snapshots, and the blobs that they are links to. Returns the bytes that are free now."""
    freed = 0
    for path in paths:
        blob = os.path.realpath(path)
        inside = os.path.realpath(cache_folder()) + os.sep
        if os.path.isfile(blob) and blob.startswith(inside):
            freed += os.path.getsize(blob)
            os.remove(blob)
        if os.path.islink(path):
            os.remove(path)
    return freed


def _clean(folder: str) -> None:
    """Removes the folders of a repository that hold nothing any more."""
    for snapshot in _snapshots(folder):
        for place, _, _ in sorted(os.walk(snapshot), reverse=True):
            with contextlib.suppress(OSError):
                os.rmdir(place)
    if not any(_pointers(folder)):
        for place, _, names in sorted(os.walk(os.path.join(folder, "refs")), reverse=True):
            for name in names:
                os.remove(os.path.join(place, name))
        for place, _, _ in sorted(os.walk(folder), reverse=True):
            with contextlib.suppress(OSError):
                os.rmdir(place)
