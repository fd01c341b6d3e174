"""What the cache has of models in GGUF files: a list, and removing.

The cache is shared with the tools of Hugging Face. Only files that `downloaded` lists, and their encoders, are removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import EdgeGemmaOSError, EdgeGemmaValueError
from .cache import cache_folder, encoders_of, entries, files_of, is_revision, newest_first, snapshots_of, sort_out
from .names import Reference, is_checkpoint, parse, short_name
from .sidecar import sidecar_files, sidecar_path

__all__ = ["Downloaded", "downloaded", "find", "interrupted", "remove"]


@dataclass(frozen=True)
class Downloaded:
    """A model in the cache.

    Attributes:
        name: what `Model.load` takes: "e2b:Q4_0", or "OWNER/REPO:Q4_0".
        repository: OWNER/REPO.
        quant: the quantization in the name of its file; None if there is none.
        model, mmproj: its files; of a split file the first part. None without encoders.
        sidecar: the file that `edge-gemma prepare` has made; None without.
        size: bytes of the model, without its encoders and its sidecar.
        time: when it was downloaded, in seconds since 1970.
    """

    name: str
    repository: str
    quant: str | None
    model: Path
    mmproj: Path | None
    size: int
    time: float
    sidecar: Path | None = None


def downloaded() -> list[Downloaded]:
    """The models of all repositories with GGUF files in the Hugging Face cache, the newest first; also foreign models.

    A name that would stand for several models is given to the newest of them; older ones have longer names.
    """
    found = [entry for folder in _repositories() for entry in _models(folder)]
    found.sort(key=lambda entry: entry.time, reverse=True)
    owners: dict[str, tuple[str, str]] = {}
    return [dataclasses.replace(entry, name=_free_name(entry, owners)) for entry in found]


def interrupted() -> dict[str, int]:
    """The bytes of downloads that were interrupted, by repository. `pull` continues them, and `remove` removes them."""
    sizes = {_repository(folder): sum(map(os.path.getsize, _partials(folder))) for folder in _repositories()}
    return {repository: size for repository, size in sizes.items() if size}


def find(name: str) -> list[Downloaded]:
    """The downloads that `remove` would remove: one model, which several commits of its repository may have.

    The list is empty if there is nothing but interrupted downloads.

    Raises:
        EdgeGemmaValueError: "argument" if the name is that of several models, or of none.
    """
    everything = downloaded()
    if exact := [entry for entry in everything if entry.name.lower() == name.strip().lower()]:
        return exact
    wanted = parse(name)
    found = [entry for entry in everything if wanted and _is_wanted(entry, wanted)]
    names = sorted({entry.name for entry in found})
    if len(names) > 1:
        raise EdgeGemmaValueError(
            f"{name} is the name of several models: {', '.join(names)}. Name one of them.", "argument"
        )
    if not found and not _interrupted_folders(wanted):
        have = ", ".join(dict.fromkeys(entry.name for entry in everything)) or "nothing"
        raise EdgeGemmaValueError(
            f"{name or 'a model without a name'} is not in {cache_folder()}, which has {have}.", "argument"
        )
    return found


def remove(name: str) -> int:
    """Removes a model and its sidecar from the cache. If no model of its repository is left, its encoders go too, and
    interrupted downloads.

    Args:
        name: as `Downloaded.name`; the quantization may be left out if there is only one.

    Returns:
        The number of bytes that are free now.

    Raises:
        EdgeGemmaValueError: "argument" if the name is that of several models, or of none.
        EdgeGemmaOSError: "file" for a cache that cannot be written.
    """
    found = find(name)
    try:
        if not found:
            return sum(map(_remove_partials, _interrupted_folders(parse(name))))
        return sum(map(_remove, found))
    except OSError as error:
        raise EdgeGemmaOSError(f"{error.filename} cannot be removed: {error.strerror}.", "file") from error


def _is_wanted(entry: Downloaded, wanted: Reference) -> bool:
    return (
        entry.repository.lower() in {place.lower() for place in wanted.repositories}
        and (not wanted.quant or (entry.quant or "").removeprefix("UD-") == wanted.quant.upper().removeprefix("UD-"))
        and (not wanted.file or entry.model.as_posix().endswith(f"/{wanted.file}"))
        and is_revision(_snapshot(entry), wanted.revision)
    )


def _free_name(entry: Downloaded, owners: dict[str, tuple[str, str]]) -> str:
    """The shortest name of a download that no newer model has; `owners` has the models by name."""
    file = os.path.relpath(entry.model, _snapshot(entry)).replace(os.sep, "/")
    model = entry.repository, file
    names = [entry.name, *([f"{entry.repository}:{entry.quant}"] if entry.quant else []), f"{entry.repository}/{file}"]
    return next(name for name in names if owners.setdefault(name, model) == model)


def _repositories() -> list[str]:
    """The folders of the cache's repositories."""
    return [folder for folder in entries(cache_folder()) if re.match(r"models--.+--", os.path.basename(folder))]


def _repository(folder: str) -> str:
    """OWNER/REPO of a folder of the cache."""
    return os.path.basename(folder).removeprefix("models--").replace("--", "/", 1)


def _partials(folder: str) -> list[str]:
    """The interrupted downloads of a repository: this program's alone, since others may be running. Of a packed checkpoint all
    files: they are removed when it has been converted."""
    pattern = "*" if is_checkpoint(_repository(folder)) else "*.edge-gemma.incomplete"
    return [str(path) for path in Path(folder, "blobs").glob(pattern) if path.is_file()]


def _interrupted_folders(wanted: Reference | None) -> list[str]:
    """The repositories of a name that have interrupted downloads."""
    places = {place.lower() for place in wanted.repositories} if wanted else set()
    return [folder for folder in _repositories() if _repository(folder).lower() in places and _partials(folder)]


def _remove_partials(folder: str) -> int:
    freed = _unlink(_partials(folder))
    _clean(folder)
    return freed


def _models(folder: str) -> Iterator[Downloaded]:
    repository = _repository(folder)
    short = short_name(repository)
    seen: set[tuple[str, ...]] = set()
    for snapshot, weights in newest_first([folder]):
        parts = [os.path.join(snapshot, part) for part in weights.parts]
        real = tuple(map(os.path.realpath, parts))
        if real in seen:  # the same blob in another snapshot
            continue
        seen.add(real)
        encoders = encoders_of(snapshot)
        yield Downloaded(
            f"{short}:{weights.quant}" if weights.quant else short,
            repository,
            weights.quant,
            Path(parts[0]),
            Path(encoders) if encoders else None,
            sum(map(os.path.getsize, parts)),
            os.lstat(parts[0]).st_mtime,
            next((path for path in (sidecar_path(parts[0]),) if path.is_file()), None),
        )


def _contents(folder: str) -> tuple[list[list[str]], list[list[str]]]:
    """The models and the encoders in all snapshots of a repository, each as the paths of its parts; also what links to blobs
    that are gone."""
    models: list[list[str]] = []
    encoders: list[list[str]] = []
    for snapshot in snapshots_of(folder):
        for paths, found in zip((models, encoders), sort_out(files_of(snapshot, dangling=True)), strict=True):
            paths += [[os.path.join(snapshot, part) for part in weights.parts] for weights in found]
    return models, encoders


def _remove(entry: Downloaded) -> int:
    """Removes the files of one model and what they leave useless."""
    folder = os.path.dirname(os.path.dirname(_snapshot(entry)))
    blob = os.path.realpath(entry.model)
    models, encoders = _contents(folder)
    same = [parts for parts in models if os.path.realpath(parts[0]) == blob]  # in other snapshots, too
    freed = sum(_unlink([*parts, *map(str, sidecar_files(parts[0]))]) for parts in same)
    if len(same) == len(models):
        freed += sum(map(_unlink, encoders)) + _unlink(_partials(folder))
        _clean(folder)
    return freed


def _snapshot(entry: Downloaded) -> str:
    """The folder of the commit that a download belongs to."""
    folder = str(entry.model)
    while os.path.basename(os.path.dirname(folder)) != "snapshots":
        folder = os.path.dirname(folder)
    return folder


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
    """Removes the folders of a repository that hold nothing any more, and its references if none of its files is left."""
    for snapshot in snapshots_of(folder):
        if is_checkpoint(_repository(folder)):
            for name in files_of(snapshot, dangling=True):
                if not os.path.exists(path := os.path.join(snapshot, name)):  # a link to a blob that is gone
                    os.remove(path)
        _remove_empty(snapshot)
    if not snapshots_of(folder):
        shutil.rmtree(os.path.join(folder, "refs"), ignore_errors=True)
        _remove_empty(folder)


def _remove_empty(folder: str) -> None:
    for place, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):  # it is not empty
            os.rmdir(place)
