"""Models by name: `pull` downloads them from the Hugging Face Hub into its cache, where `Model.load` finds them.

    from edge_gemma.hub import pull
    pull("e2b")                                 # then Model.load("e2b")

names.py understands names, cache.py searches the cache, resolve.py chooses the files that a command uses, download.py
downloads, and remove.py removes. Every command imports this folder, so the downloader is imported only when it is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import EdgeGemmaOSError, EdgeGemmaValueError
from .cache import ENCODER_ORDER, UNREADABLE, Weights, encoders_of, newest_first, pick, repository_folder, sort_out
from .names import NAMES, Reference, parse
from .remove import Downloaded, downloaded, remove

__all__ = ["Downloaded", "Progress", "Pulled", "downloaded", "pull", "remove"]

#: Called with the name of a file, the number of bytes done, and the size of the file. While the file's checksum is computed,
#: the name has the prefix "checking ".
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Pulled:
    """What `pull` left in the cache.

    Attributes:
        repository, revision: the repository, and the commit of the revision.
        quant: the quantization in the file's name; None if the name has none.
        model, mmproj: the files; of a split file the first part.
        size, downloaded: bytes of all files, and bytes that this call has downloaded.
    """

    repository: str
    revision: str
    quant: str | None
    model: Path
    mmproj: Path | None
    size: int
    downloaded: int


def pull(
    name: str,
    quant: str | None = None,
    *,
    mmproj: bool = True,
    revision: str | None = None,
    progress: Progress | None = None,
) -> Pulled:
    """Downloads a model and its encoders, unless they are in the cache already.

    An interrupted download is continued. Every file is compared with its checksum on the Hub.

    Args:
        name: "e2b", "e4b", "26b", "31b", or a repository as "OWNER/REPO"; ":QUANT" may follow. Also the address of a page or
            file of the Hub, "hf.co/OWNER/REPO:QUANT", "OWNER/REPO/FILE.gguf" and "OWNER/REPO@REVISION".
        quant: such as "Q4_0", in upper or lower case; by default Q4_0 or the next best in the repository.
        mmproj: whether to fetch the encoders too.
        revision: a branch, tag or commit; "main" by default.
        progress: called while files are downloaded and checked.

    Raises:
        EdgeGemmaValueError: "argument" for a name or quantization that does not exist.
        EdgeGemmaOSError: "file" without huggingface_hub or a connection, for a repository or revision that does not exist
            or is not accessible, for a full disk, and for a damaged download.
    """
    wanted = parse(name)
    if wanted is None:
        raise EdgeGemmaValueError(f"{name!r} names no model: give {NAMES}, or a repository as OWNER/REPO.", "argument")
    wanted = wanted._replace(quant=quant or wanted.quant, revision=revision or wanted.revision)
    if wanted.quant and wanted.quant.upper() in UNREADABLE:
        raise EdgeGemmaValueError(
            f"files of type {wanted.quant.upper()} cannot be read: take another quantization, such as Q4_0.", "argument"
        )
    from .download import UnreachableError

    try:
        return _pull(wanted, mmproj, progress or (lambda *_: None))
    except UnreachableError:
        if found := _have(wanted, mmproj):
            return found
        raise


def _pull(wanted: Reference, mmproj: bool, progress: Progress) -> Pulled:
    """Asks the repositories one after the other, and downloads from the first that has what is wanted."""
    from .download import AbsentError, Hub, fetch

    hub = Hub()
    absent: list[EdgeGemmaOSError] = []
    lacking: list[str] = []
    for repository in wanted.repositories:
        try:
            commit, files = hub.listing(repository, wanted.revision)
        except AbsentError as error:
            absent.append(error)
            continue
        models, encoders = sort_out(files)
        model = _choose(models, wanted)
        if model is None:
            lacking.append(f"{repository} has {_what_is_there(models)}")
            continue
        encoder = pick(encoders, order=ENCODER_ORDER) if mmproj else None
        needed = [files[part] for weights in (model, encoder) if weights for part in weights.parts]
        done = fetch(hub, repository, wanted.revision or "main", commit, needed, progress)
        snapshot = os.path.join(repository_folder(repository), "snapshots", commit)
        return Pulled(
            repository,
            commit,
            model.quant,
            Path(snapshot, model.parts[0]),
            Path(snapshot, encoder.parts[0]) if encoder else None,
            sum(file.size for file in needed),
            done,
        )
    if lacking:
        what = wanted.file or (f"{wanted.name} as {wanted.quant}" if wanted.quant else wanted.name)
        raise EdgeGemmaValueError(f"there is no {what}: {'; '.join(lacking)}.", "argument")
    raise absent[0]


def _choose(models: list[Weights], wanted: Reference) -> Weights | None:
    if wanted.file:
        models = [weights for weights in models if wanted.file in weights.parts]
    return pick(models, wanted.quant)


def _what_is_there(models: list[Weights]) -> str:
    """The quantizations of a repository, for a message."""
    names = sorted({weights.quant for weights in models if weights.quant})
    readable = [name for name in names if name.removeprefix("UD-") not in UNREADABLE]
    if names and not readable:
        return f"only {', '.join(names)}, which cannot be read"
    return ", ".join(readable) or "no model in GGUF files (e2b, e4b, 26b and 31b name repositories that do)"


def _have(wanted: Reference, mmproj: bool) -> Pulled | None:
    """What the cache has of it; None if something is missing."""
    for repository in wanted.repositories:
        for snapshot, weights in newest_first([repository_folder(repository)]):
            if _choose([weights], wanted) is None:
                continue
            encoders = encoders_of(snapshot) if mmproj else None
            if mmproj and encoders is None:
                continue
            files = [os.path.join(snapshot, part) for part in weights.parts] + ([encoders] if encoders else [])
            return Pulled(
                repository,
                os.path.basename(snapshot),
                weights.quant,
                Path(files[0]),
                Path(encoders) if encoders else None,
                sum(map(os.path.getsize, files)),
                0,
            )
    return None
