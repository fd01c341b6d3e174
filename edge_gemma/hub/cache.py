"""Models by name: which repositories have them, which files of a repository to use, and where downloaded files are.

`e2b` is the file of Gemma 4 E2B that was downloaded last, `e2b:Q8_0` one of its quantizations, `OWNER/REPO` any other
repository. The cache is shared with the tools of Hugging Face, whose documentation describes it:

    CACHE/models--OWNER--REPO/snapshots/COMMIT/FILE -> ../../blobs/CHECKSUM

Every command that opens a model uses this module, so it needs neither the network nor huggingface_hub. Downloads are in
download.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..errors import EdgeGemmaOSError
from .names import NAMES, parse
from .sidecar import ENDING as SIDECAR_ENDING

__all__ = [
    "ENCODER_ORDER",
    "Weights",
    "cache_folder",
    "encoders_of",
    "entries",
    "files_of",
    "is_readable",
    "is_revision",
    "locate",
    "newest_first",
    "pick",
    "repository_folder",
    "snapshots_of",
    "sort_out",
]

Path = str | os.PathLike[str]

MODEL_ORDER = ("Q4_0", "Q4_K_M", "Q4_K_S", "IQ4_NL", "IQ4_XS", "Q5_K_M", "Q6_K", "Q8_0", "BF16", "F16")
"""Quantizations in the order of preference, for a name without quantization."""
ENCODER_ORDER = ("Q8_0", "BF16", "F16", "F32")
# Types that the engine cannot read, as the names of files have them. Q4_0_4_4 is an old order of Q4_0 for Arm. IQ4_K, IQ4_KS,
# Q6_0 and Q4_K_R4 are types of ik_llama.cpp.
_UNREADABLE = re.compile(r"IQ1_.*|NVFP4|FP8|Q[126]_0|I?Q\d_(0|NL)_\d_\d|IQ\d_K.*|Q8_[1K]|.*_R\d")

# Google writes gemma-4-E2B_q4_0-it.gguf, unsloth gemma-4-E2B-it-UD-Q4_K_XL.gguf.
_QUANT = re.compile(
    r"(?<![0-9a-z])((?:ud-)?[it]?q\d_(?:[01]|k(?:_(?:xxl|xl|xs|l|m|s)|ss?|t|l)?|nl|xxs|xs|m|s)(?:_\d_\d|_r\d)?"
    r"|mxfp4|nvfp4|fp8|bf16|f16|f32|mobile(?=\.gguf|$))(?![0-9a-z]|_\d)",
    re.IGNORECASE,
)
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
# Words in the names of files that are not models: drafters, adapters and calibration data. They name a quantization, too.
_NOT_MODELS = {"mtp", "dflash", "eagle", "eagle3", "draft", "assistant", "lora", "imatrix"}
_WORD = re.compile(r"[\w-]+(:[\w-]+)?")


class Weights(NamedTuple):
    """A GGUF file of a repository."""

    parts: tuple[str, ...]  #: names; a split file has several, in order
    quant: str | None  #: the quantization in the name, in capitals: "Q4_0", "UD-Q4_K_XL"


def sort_out(names: Iterable[str]) -> tuple[list[Weights], list[Weights]]:
    """The models and the encoders (mmproj) among the files of a repository. Split files with a missing part are left out."""
    found: dict[tuple[str, int], dict[int, str]] = {}
    for name in names:
        if (
            not name.endswith(".gguf")
            or name.endswith(SIDECAR_ENDING)
            or _NOT_MODELS & set(re.split(r"[-_./]", name.lower()))
        ):
            continue
        part = _PART.search(name)
        stem, number, count = (name[: part.start()], int(part[1]), int(part[2])) if part else (name[:-5], 1, 1)
        found.setdefault((stem, count), {})[number] = name
    models: list[Weights] = []
    encoders: list[Weights] = []
    for (stem, count), parts in sorted(found.items()):
        if set(parts) == set(range(1, count + 1)):
            quants = _QUANT.findall(stem.rpartition("/")[2]) or _QUANT.findall(stem) or [None]
            weights = Weights(tuple(parts[number] for number in sorted(parts)), quants[-1] and quants[-1].upper())
            (encoders if "mmproj" in stem.lower() else models).append(weights)
    return models, encoders


def is_readable(quant: str | None) -> bool:
    """Whether the engine can read files whose names have this quantization, in upper or lower case."""
    return not _UNREADABLE.fullmatch((quant or "").upper().removeprefix("UD-"))


def pick(found: Iterable[Weights], quant: str | None = None, order: tuple[str, ...] = MODEL_ORDER) -> Weights | None:
    """The file with the quantization `quant`, or without `quant` the first by `order`. Of equal ones, the shortest name."""
    found = [weights for weights in found if is_readable(weights.quant)]
    if quant:
        order = (quant.upper(), f"UD-{quant.upper()}")
        found = [weights for weights in found if weights.quant in order]

    def rank(weights: Weights) -> tuple[int, int, str]:
        place = order.index(weights.quant) if weights.quant in order else len(order)
        return place, len(weights.parts[0]), weights.parts[0]

    return min(found, key=rank, default=None)


def cache_folder() -> str:
    """The folder of the Hugging Face cache, from HF_HUB_CACHE or HF_HOME."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    home = os.environ.get("HF_HOME") or os.path.join(home, "huggingface")
    cache = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    return os.path.expandvars(os.path.expanduser(cache))


def repository_folder(repository: str) -> str:
    """The folder of a repository in the cache."""
    return os.path.join(cache_folder(), "models--" + repository.replace("/", "--"))


def locate(model: Path, mmproj: Path | None = None) -> tuple[Path, Path | None]:
    """The files of a downloaded model that is given by name, with its encoders if `mmproj` is None.

    A path is returned as it is. An existing file takes precedence over a name. OWNER/REPO is a path unless the cache has
    this repository. Raises EdgeGemmaOSError with code "file" for a name whose model was not downloaded.
    """
    if not isinstance(model, str) or os.path.isfile(model):
        return model, mmproj
    wanted = parse(model)
    if wanted is None:
        if (_WORD.fullmatch(model) or "://" in model) and not os.path.exists(model):
            raise EdgeGemmaOSError(
                f"there is no file {model}, and no model of that name: the names are {NAMES}.", "file"
            )
        return model, mmproj
    folders = list(_downloaded(wanted.repositories))
    if not folders and "/" in model and model in (wanted.name, f"{wanted.name}/{wanted.file}"):
        return model, mmproj  # a path that looks like OWNER/REPO or OWNER/REPO/FILE.gguf
    found = newest_first(folders)
    for snapshot, weights in found:
        if not is_revision(snapshot, wanted.revision):
            continue
        if wanted.file in (None, *weights.parts) and (not wanted.quant or pick([weights], wanted.quant)):
            return os.path.join(snapshot, weights.parts[0]), mmproj or encoders_of(snapshot)
    name, quant = wanted.name, wanted.quant
    if found and quant:
        have = ", ".join(sorted({weights.quant or "?" for _, weights in found}))
        raise EdgeGemmaOSError(
            f"{name} was downloaded as {have}, not as {quant}: run `edge-gemma pull {name} --quant {quant}`.", "file"
        )
    command = f"{name}/{wanted.file}" if wanted.file else f"{name} --quant {quant}" if quant else name
    if wanted.revision not in (None, "main"):
        command += f" --revision {wanted.revision}"
    raise EdgeGemmaOSError(f"{name} is not in {cache_folder()} yet: run `edge-gemma pull {command}`.", "file")


def _downloaded(places: tuple[str, ...]) -> Iterator[str]:
    """The folders of those repositories that the cache has. Upper and lower case are the same, as on the Hub."""
    wanted = {os.path.basename(repository_folder(place)).lower() for place in places}
    for entry in entries(cache_folder()):
        if os.path.basename(entry).lower() in wanted:
            yield entry


def newest_first(folders: list[str]) -> list[tuple[str, Weights]]:
    """The models in these folders with their snapshots, the one that was downloaded last first."""
    found = [
        (max(os.lstat(os.path.join(snapshot, part)).st_mtime_ns for part in weights.parts), snapshot, weights)
        for folder in folders
        for snapshot in snapshots_of(folder)
        for weights in sort_out(files_of(snapshot))[0]
    ]
    found.sort(key=lambda item: item[0], reverse=True)
    return [(snapshot, weights) for _, snapshot, weights in found]


def is_revision(snapshot: str, revision: str | None) -> bool:
    """Whether a snapshot is that of a branch, tag or commit. Every snapshot will do for "main", which is the default."""
    commit = os.path.basename(snapshot)
    if revision in (None, "main", commit):
        return True
    try:
        with open(os.path.join(os.path.dirname(os.path.dirname(snapshot)), "refs", *revision.split("/"))) as reference:
            return reference.read().strip() == commit
    except (OSError, ValueError):
        return False


def encoders_of(snapshot: str) -> str | None:
    """The encoders in the snapshot of a model, or in another snapshot of its repository."""
    for place in (snapshot, *entries(os.path.dirname(snapshot))):
        if weights := pick(sort_out(files_of(place))[1], order=ENCODER_ORDER):
            return os.path.join(place, weights.parts[0])
    return None


def files_of(snapshot: str, *, dangling: bool = False) -> Iterator[str]:
    """Relative paths of the files in a snapshot. A link whose blob was deleted is left out unless `dangling`."""
    for folder, _, names in os.walk(snapshot):
        for name in names:
            path = os.path.join(folder, name)
            if dangling or os.path.isfile(path):
                yield os.path.relpath(path, snapshot).replace(os.sep, "/")


def snapshots_of(folder: str) -> list[str]:
    """The folders of the commits that the cache has of a repository."""
    return entries(os.path.join(folder, "snapshots"))


def entries(folder: str) -> list[str]:
    """Paths of the entries of a folder; [] if it cannot be read."""
    try:
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    except OSError:
        return []
