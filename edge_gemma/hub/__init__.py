"""Models by name: `pull` downloads them from the Hugging Face Hub into its cache, where `Model.load` finds them.

    from edge_gemma.hub import pull
    pull("e2b")                                 # then Model.load("e2b")

cache.py searches the cache, resolve.py chooses the files that a command uses, and download.py downloads. Every command
imports this folder, so `pull` imports the downloader only when it is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import EdgeGemmaOSError, EdgeGemmaValueError
from .cache import ENCODER_ORDER, NAMES, pick, repositories, repository_folder, sort_out

__all__ = ["Progress", "Pulled", "pull"]

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
        name: "e2b", "e4b", "26b", "31b", or a repository as "OWNER/REPO"; ":QUANT" may follow.
        quant: such as "Q4_0", in upper or lower case; by default Q4_0 or the next best in the repository.
        mmproj: whether to fetch the encoders too.
        revision: a branch, tag or commit; "main" by default.
        progress: called while files are downloaded and checked.

    Raises:
        EdgeGemmaValueError: "argument" for a name or quantization that does not exist.
        EdgeGemmaOSError: "file" without huggingface_hub or a connection, for a repository or revision that does not exist
            or is not accessible, for a full disk, and for a damaged download.
    """
    name, _, named_quant = name.partition(":")
    quant = quant or named_quant or None
    places = repositories(name)
    if not places:
        raise EdgeGemmaValueError(f"{name!r} names no model: give {NAMES}, or a repository as OWNER/REPO.", "argument")
    from .download import AbsentError, Hub, fetch

    hub = Hub()
    absent: list[EdgeGemmaOSError] = []
    lacking: list[str] = []
    for repository in places:
        try:
            commit, files = hub.listing(repository, revision)
        except AbsentError as error:
            absent.append(error)
            continue
        models, encoders = sort_out(files)
        model = pick(models, quant)
        if model is None:
            have = ", ".join(sorted({weights.quant for weights in models if weights.quant})) or "no model in GGUF files"
            lacking.append(f"{repository} has {have}")
            continue
        encoder = pick(encoders, order=ENCODER_ORDER) if mmproj else None
        wanted = [files[part] for weights in (model, encoder) if weights for part in weights.parts]
        downloaded = fetch(hub, repository, revision or "main", commit, wanted, progress or (lambda *_: None))
        snapshot = os.path.join(repository_folder(repository), "snapshots", commit)
        return Pulled(
            repository,
            commit,
            model.quant,
            Path(snapshot, model.parts[0]),
            Path(snapshot, encoder.parts[0]) if encoder else None,
            sum(file.size for file in wanted),
            downloaded,
        )
    if lacking:
        what = f"{name} as {quant}" if quant else name
        raise EdgeGemmaValueError(f"there is no {what}: {'; '.join(lacking)}.", "argument")
    raise absent[0]
