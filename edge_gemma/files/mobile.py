"""Google's packed checkpoint of 2 and 4 bits as a GGUF file: downloaded, converted, and found by its name afterwards.

    pull_mobile("e2b")                          # then Model.load("e2b:mobile")

The checkpoint is in safetensors. hub/download.py fetches it, convert.py converts it, and then it is removed. The GGUF files lie
in the cache where others would, so that `list` and `rm` know them. Owns the order of these steps.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ..errors import EdgeGemmaOSError, EdgeGemmaValueError
from ..hub import Progress, Pulled
from ..hub.cache import locate, repository_folder
from ..hub.download import AbsentError, Hub, HubFile, UnreachableError, fetch
from ..hub.names import MOBILE, checkpoint_of, parse, short_name
from .convert import convert

__all__ = ["CONVERTING", "pull_mobile"]

CONVERTING = "converting "
"""Prefix of a name in `Progress` while the checkpoint is converted."""

_WEIGHTS = ".safetensors"
_SPARE = 64_000_000  # bytes of the GGUF files beyond those of the weights: the vocabulary


def pull_mobile(
    name: str, *, mmproj: bool = True, revision: str | None = None, progress: Progress | None = None
) -> Pulled:
    """Makes the GGUF files of a packed checkpoint, unless the cache has them already.

    An interrupted download is continued; an interrupted conversion begins anew. Room for both is checked before anything is
    downloaded.

    Args:
        name: "e2b" or "e4b".
        mmproj: whether to convert the encoders, too.
        revision: a branch, tag or commit; "main" by default.
        progress: called while files are downloaded, checked, and converted.

    Raises:
        EdgeGemmaValueError: "argument" for a model without such a checkpoint, "format" for one that is damaged.
        EdgeGemmaOSError: "file", as `hub.pull`.
    """
    wanted = parse(name)
    repository = checkpoint_of(wanted.name) if wanted else None
    if wanted is None or repository is None:
        raise EdgeGemmaValueError(f"there is no packed checkpoint of {name}: e2b and e4b have one.", "argument")
    revision, progress = revision or wanted.revision, progress or (lambda *_: None)
    try:
        hub = Hub()
        commit, files, _ = hub.listing(repository, revision, (_WEIGHTS, ".json", ".jinja"))
    except UnreachableError as error:
        if found := _have(wanted.name, mmproj, repository, str(error).partition(". ")[0].rstrip(".")):
            return found
        raise
    except AbsentError as error:
        if revision:
            raise
        raise AbsentError(
            f"{str(error).rstrip('.')}. The name of the packed checkpoint was never tried on the Hub, and may be another one: "
            "download it as it is called there, and convert its folder with `edge-gemma convert`.",
            "file",
        ) from error
    folder = Path(repository_folder(repository), "snapshots", commit)
    out = folder / f"{repository.rpartition('/')[2].partition('-qat-')[0]}-{MOBILE}.gguf"
    encoders = out.with_name(f"mmproj-{out.name}") if mmproj else None
    done = 0
    if not (out.is_file() and (encoders is None or encoders.is_file())):
        done = _make(hub, repository, revision or "main", commit, list(files.values()), out, encoders, progress)
    sizes = [path.stat().st_size for path in (out, encoders) if path]
    return Pulled(repository, commit, MOBILE, out, encoders, sum(sizes), done)


def _make(
    hub: Hub,
    repository: str,
    revision: str,
    commit: str,
    files: list[HubFile],
    out: Path,
    encoders: Path | None,
    progress: Progress,
) -> int:
    """Downloads the checkpoint, converts it and removes it. Returns the bytes that were downloaded."""
    room = sum(file.size for file in files if file.name.endswith(_WEIGHTS)) + _SPARE
    snapshot, done = fetch(hub, repository, revision, commit, files, progress, room)
    convert(
        snapshot,
        out,
        mmproj=encoders or False,
        force=True,
        progress=lambda at, total, _: progress(f"{CONVERTING}{out.name}", at, total),
    )
    for file in files:
        _remove(Path(snapshot, file.name))
    return done


def _remove(path: Path) -> None:
    """Removes a file of the cache, and the blob that it is a link to."""
    with contextlib.suppress(OSError):
        os.remove(os.path.realpath(path))
        path.unlink(missing_ok=True)


def _have(name: str, mmproj: bool, repository: str, reason: str) -> Pulled | None:
    """What the cache has, since the Hub cannot be asked for this reason; None if something is missing."""
    try:
        model, encoders = locate(f"{short_name(name)}:{MOBILE}")
    except EdgeGemmaOSError:
        return None
    if mmproj and encoders is None:
        return None
    paths = [Path(model), *([Path(encoders)] if encoders and mmproj else [])]
    size = sum(path.stat().st_size for path in paths)
    return Pulled(
        repository, paths[0].parent.name, MOBILE, paths[0], paths[1] if len(paths) > 1 else None, size, 0, reason
    )
