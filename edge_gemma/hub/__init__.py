"""Models by name: `pull` downloads them from the Hugging Face Hub into its cache, where `Model.load` finds them.

    from edge_gemma.hub import pull
    pull("e2b")                                 # then Model.load("e2b")

names.py understands names, cache.py searches the cache, resolve.py chooses the files that a command uses, download.py
downloads, and remove.py removes. Every command imports this folder, so the downloader is imported only when it is called.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EdgeGemmaOSError, EdgeGemmaValueError
from .cache import (
    ENCODER_ORDER,
    Weights,
    encoders_of,
    is_readable,
    is_revision,
    newest_first,
    pick,
    repository_folder,
    snapshots_of,
    sort_out,
)
from .names import MOBILE, NAMES, Reference, is_checkpoint, parse
from .remove import Downloaded, downloaded, find, interrupted, remove
from .sidecar import adopt_sidecar

if TYPE_CHECKING:
    from .download import Hub, HubFile

__all__ = ["Downloaded", "Progress", "Pulled", "downloaded", "find", "interrupted", "pull", "remove"]

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
        unchecked: why the Hub was not asked whether there is something newer; None if it was.
    """

    repository: str
    revision: str
    quant: str | None
    model: Path
    mmproj: Path | None
    size: int
    downloaded: int
    unchecked: str | None = None


def pull(
    name: str,
    quant: str | None = None,
    *,
    mmproj: bool = True,
    revision: str | None = None,
    progress: Progress | None = None,
) -> Pulled:
    """Downloads a model and its encoders, unless they are in the cache already.

    An interrupted download is continued. Every file is compared with its checksum on the Hub. If the Hub cannot be asked, what
    the cache has is the result. While another process downloads the same file, this one waits for it.

    Args:
        name: "e2b", "e4b", "26b", "31b", or a repository as "OWNER/REPO"; ":QUANT" may follow. Also the address of a page or
            file of the Hub, "hf.co/OWNER/REPO:QUANT", "OWNER/REPO/FILE.gguf" and "OWNER/REPO@REVISION".
        quant: such as "Q4_0", in upper or lower case; by default Q4_0 or the next best in the repository.
        mmproj: whether to fetch the encoders too.
        revision: a branch, tag or commit; "main" by default.
        progress: called while files are downloaded and checked.

    Raises:
        EdgeGemmaValueError: "argument" for a name or quantization that does not exist, "unsupported" for a model of
            another kind than Gemma 4.
        EdgeGemmaOSError: "file" without huggingface_hub or a connection, for a repository or revision that does not exist
            or is not accessible, for a full disk, and for a damaged download.
    """
    wanted = parse(name)
    if wanted is None:
        raise EdgeGemmaValueError(f"{name!r} names no model: give {NAMES}, or a repository as OWNER/REPO.", "argument")
    wanted = wanted._replace(quant=quant or wanted.quant, revision=revision or wanted.revision)
    if (wanted.quant or "").upper() == MOBILE:
        raise EdgeGemmaValueError(
            "the packed checkpoint is no GGUF file: edge_gemma.files.mobile.pull_mobile downloads and converts it.",
            "argument",
        )
    if wanted.quant and not is_readable(wanted.quant):
        raise EdgeGemmaValueError(
            f"files of type {wanted.quant.upper()} cannot be read: take another quantization, such as Q4_0.", "argument"
        )
    from .download import UnreachableError, fetch

    try:
        hub, repository, commit, files, model, encoder = _find(wanted, mmproj)
    except UnreachableError as error:
        if found := _have(wanted, mmproj, str(error).partition(". ")[0].rstrip(".")):
            return found
        if mmproj and _have(wanted, False, ""):
            raise UnreachableError(f"{error} The cache has the model, but no encoders.", "file") from error
        raise
    needed = [files[part] for weights in (model, encoder) if weights for part in weights.parts]
    snapshot, done = fetch(hub, repository, wanted.revision or "main", commit, needed, progress or (lambda *_: None))
    for older in snapshots_of(repository_folder(repository)):
        adopt_sidecar(Path(snapshot, model.parts[0]), Path(older, model.parts[0]))
    return Pulled(
        repository,
        commit,
        model.quant,
        Path(snapshot, model.parts[0]),
        Path(snapshot, encoder.parts[0]) if encoder else None,
        sum(file.size for file in needed),
        done,
    )


def _find(wanted: Reference, mmproj: bool) -> tuple[Hub, str, str, dict[str, HubFile], Weights, Weights | None]:
    """Asks the repositories one after the other, until one has what is wanted.

    Returns the Hub, the repository, the commit and its files, the model, and its encoders.
    """
    from .download import AbsentError, Hub

    hub = Hub()
    absent: list[EdgeGemmaOSError] = []
    lacking: list[str] = []
    for repository in wanted.repositories:
        if is_checkpoint(repository) and len(wanted.repositories) > 1:  # no GGUF files
            continue
        try:
            commit, files, architecture = hub.listing(repository, wanted.revision)
        except AbsentError as error:
            absent.append(error)
            continue
        models, encoders = sort_out(files)
        if models and _is_foreign(repository, architecture):
            raise EdgeGemmaValueError(
                f"{repository} has a model of the architecture {architecture}, and only Gemma 4 can be run: give {NAMES}, or "
                "another repository.",
                "unsupported",
            )
        if model := _choose(models, wanted):
            return hub, repository, commit, files, model, pick(encoders, order=ENCODER_ORDER) if mmproj else None
        if any(wanted.file in weights.parts for weights in encoders):
            raise EdgeGemmaValueError(
                f"{wanted.file} has encoders and no model: pull {repository}, and they come with the model.", "argument"
            )
        lacking.append(f"{repository} has {_what_is_there(models)}")
    if lacking:
        what = wanted.file or (f"{wanted.name} as {wanted.quant}" if wanted.quant else wanted.name)
        raise EdgeGemmaValueError(f"there is no {what}: {'; '.join(lacking)}.", "argument")
    raise absent[0]


def _is_foreign(repository: str, architecture: str | None) -> bool:
    """Whether the Hub tells that a repository's model is none of Gemma 4. What it tells may be of a drafter or of encoders."""
    own = architecture is None or architecture == "clip" or architecture.startswith("gemma4")
    return not own and not re.search(r"gemma-?4", repository, re.IGNORECASE)


def _choose(models: list[Weights], wanted: Reference) -> Weights | None:
    if wanted.file:
        models = [weights for weights in models if wanted.file in weights.parts]
    return pick(models, wanted.quant)


def _what_is_there(models: list[Weights]) -> str:
    """The quantizations of a repository, for a message."""
    names = sorted({weights.quant for weights in models if weights.quant})
    readable = [name for name in names if is_readable(name)]
    if names and not readable:
        return f"only {', '.join(names)}, which cannot be read"
    return ", ".join(readable) or "no model in GGUF files (e2b, e4b, 26b and 31b name repositories that do)"


def _have(wanted: Reference, mmproj: bool, reason: str) -> Pulled | None:
    """What the cache has of it, since the Hub cannot be asked for this reason; None if something is missing."""
    for repository in wanted.repositories:
        for snapshot, weights in newest_first([repository_folder(repository)]):
            if _choose([weights], wanted) is None or not is_revision(snapshot, wanted.revision):
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
                reason,
            )
    return None
