"""Makes the sidecar of a model: a small file beside it with a leaner head, which the engine reads in place of the model's.

Published files of four bits keep the token embeddings at six or eight, and as the head these are the largest matrix that every
token reads. A sidecar has them at about four bits, so that a token reads less, and less stays in memory. The engine computes
the logits of the best tokens again with the rows of the model's own head (csrc/decoder/head.h). All other matrices, and the
embeddings of input tokens, are those of the model's file.

Owns the choice of the type. csrc/nn/sidecar.h describes the file. Opening a model with its sidecar is the engine's
work; only the making is here.

    prepare("gemma-4-E2B-it-Q4_0.gguf")         # gemma-4-E2B-it-Q4_0.lean.gguf
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..engine.gguf import GGUFFile
from ..engine.model import Model
from ..errors import EdgeGemmaError, EdgeGemmaValueError
from ..hub.resolve import locate
from ..hub.sidecar import sidecar_path
from .gguf_source import GGUFSource, SourceTensor
from .gguf_writer import GGUFWriter, OutputTensor, refuse_existing, text, u32
from .quantize import pieces, processors

__all__ = ["HEAD_TYPES", "Prepared", "is_worthwhile", "prepare", "saving"]

VERSION = 1
#: Types that a head may have in a sidecar. The first is the default: the smallest error of those with 4.25 to 4.5 bits a weight
#: that decode as fast as Q4_0.
HEAD_TYPES = ("IQ4_XS", "Q4_K", "IQ4_NL", "Q4_0", "Q5_K")

Progress = Callable[[int, int, str], None]


class Prepared(NamedTuple):
    """The result of `prepare`."""

    path: Path  #: of the sidecar
    head: str  #: type of the model's own head
    type: str  #: type of the head in the sidecar
    bytes: int  #: size of the sidecar
    saved: int  #: bytes that a token reads less, and that stay out of memory
    made: bool  #: False if the sidecar was there already


def prepare(
    model: str | os.PathLike[str],
    *,
    type: str = HEAD_TYPES[0],
    force: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Writes the sidecar of `model`, a GGUF file or the name of a downloaded one, unless it is there already.

    A sidecar of another file, or a damaged one, is replaced. What `progress` raises ends the work.

    Args:
        model: the file; of a split one the first part.
        type: the type of the head, one of HEAD_TYPES.
        force: whether to make a good sidecar again.
        threads: by default the processors of this process.
        progress: called with bytes done, all bytes, and the name of a tensor.

    Raises:
        OSError for a file that cannot be read or written, and before anything is written for a disk without room. No file is
            left behind then.
        ValueError: "unsupported" for a file that is no Gemma 4 model, or has no head that could be leaner; "argument" for
            another type; "format" for a damaged file.
    """
    wanted = kernels.writable_type(type)
    if wanted not in HEAD_TYPES:
        raise EdgeGemmaValueError(f"type is {type!r}; the head takes one of {', '.join(HEAD_TYPES)}.", "argument")
    source = Path(locate(model)[0])
    path = sidecar_path(source)
    metadata = _identity(source)
    head = _head(GGUFSource(source).tensors)
    target = _target(head, wanted)
    if head is None or target is None:
        raise EdgeGemmaValueError(
            f"{source} needs no sidecar: its head has type {head.type if head else 'unknown'}, and the sidecar's would have "
            f"{wanted}.",
            "unsupported",
        )
    refuse_existing([path], force=True)
    made = force or not _fits(path, source, target)
    if made:
        _write(GGUFWriter(path, metadata, [target]), head, target, threads or processors(), progress)
    return Prepared(path, head.type, target.type, path.stat().st_size, head.bytes - target.bytes, made)


def is_worthwhile(model: str | os.PathLike[str]) -> bool:
    """Whether a model should be prepared before it is used on a small device: it is one of the small models (E2B, E4B), its
    layers have about four bits, and its head has six or more."""
    tensors = GGUFSource(model).tensors
    layers = [tensor for tensor in tensors if tensor.name.startswith("blk.") and len(tensor.shape) > 1]
    small = any(tensor.name.startswith("per_layer_token_embd.") for tensor in tensors)
    head = _head(tensors)
    return (
        small and _bits(layers) < 5 and _target(head, HEAD_TYPES[0]) is not None and _bits([head] if head else []) > 5
    )


def saving(model: str | os.PathLike[str], type: str = HEAD_TYPES[0]) -> int:
    """Bytes that stay out of memory once a model has been prepared; 0 for one that has no head that could be leaner."""
    head = _head(GGUFSource(model).tensors)
    target = _target(head, type)
    return head.bytes - target.bytes if head and target else 0


def _identity(source: Path) -> dict[str, bytes]:
    """The metadata of the sidecar of this file. Raises ValueError for a file that is no model."""
    with GGUFFile(source) as file:
        if file.metadata.get("general.architecture") != "gemma4":
            raise EdgeGemmaValueError(f"{source} is no Gemma 4 model, which alone can have a sidecar.", "unsupported")
        size, digest = file.identity()
    return {
        "general.architecture": text("gemma4-sidecar"),
        "general.type": text("sidecar"),
        "sidecar.version": u32(VERSION),
        "sidecar.bytes": text(str(size)),
        "sidecar.digest": text(f"{digest:016x}"),
    }


def _head(tensors: Sequence[SourceTensor]) -> SourceTensor | None:
    """The token embeddings of a file that uses them as the head, too; None for one that has another head."""
    found = {tensor.name: tensor for tensor in tensors}
    return None if "output.weight" in found else found.get("token_embd.weight")


def _target(head: SourceTensor | None, type: str) -> OutputTensor | None:
    """The leaner head of that type, or of a similar one if rows are not whole blocks of it; None if it would not be smaller."""
    if head is None or len(head.shape) != 2 or kernels.per_channel(head.type):
        return None
    if head.shape[0] % kernels.type_info(type).block:
        type = "IQ4_NL"
    if head.shape[0] % kernels.type_info(type).block:
        return None
    target = OutputTensor("output_lean.weight", type, head.shape)
    return target if target.bytes < head.bytes else None


def _bits(tensors: Iterable[SourceTensor]) -> float:
    """Bits of a weight, on average."""
    tensors = list(tensors)
    return 8 * sum(tensor.bytes for tensor in tensors) / max(sum(int(np.prod(tensor.shape)) for tensor in tensors), 1)


def _fits(path: Path, source: Path, target: OutputTensor) -> bool:
    """Whether there is such a sidecar, and the engine takes it for this file."""
    if not path.is_file():
        return False
    try:
        with GGUFFile(path) as file:
            if [tensor.type_name for tensor in file.tensors] != [target.type]:
                return False
        with Model.load(source, threads=1) as model:
            return model.sidecar is not None
    except EdgeGemmaError:
        return False


def _write(
    writer: GGUFWriter, head: SourceTensor, target: OutputTensor, threads: int, progress: Progress | None
) -> None:
    def counted(data: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        done = 0
        for piece in data:
            yield piece
            done += piece.nbytes
            if progress:
                progress(done, target.bytes, head.name)

    with ThreadPoolExecutor(threads) as pool, writer:
        writer.tensor(target.name, counted(pieces(pool, threads, head, target.type)))
