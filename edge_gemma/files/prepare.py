"""Makes the sidecar of a model: a small file beside it with a leaner head, which the engine then uses in place of the model's.

Published files of four bits keep the token embeddings at six or eight, and as the head these are the largest matrix that every
token reads. A sidecar has the head at about four bits, so that a token reads less, and fewer pages stay in memory. The
embeddings of input tokens are still those of the model's file, and so are all other matrices.

Owns the choice of matrices and types. csrc/nn/sidecar.h describes the file. Opening a model with its sidecar is the engine's
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

__all__ = ["HEAD_TYPES", "Prepared", "is_worthwhile", "prepare"]

VERSION = 1
#: Types that a head may have in a sidecar. The first is the default: the smallest error of those with 4.25 to 4.5 bits a weight
#: that decode as fast as Q4_0.
HEAD_TYPES = ("IQ4_XS", "Q4_K", "IQ4_NL", "Q4_0", "Q5_K")

Progress = Callable[[int, int, str], None]


class Prepared(NamedTuple):
    """The result of `prepare`."""

    path: Path  #: of the sidecar
    types: dict[str, tuple[str, str]]  #: tensor of the sidecar -> type in the model's file, type in the sidecar
    bytes: int  #: size of the sidecar
    saved: int  #: bytes that a token reads less, and that stay out of memory
    made: bool  #: False if the sidecar was there already


class _Lean(NamedTuple):
    """A matrix of a sidecar."""

    source: SourceTensor
    target: OutputTensor


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
    content = GGUFSource(source)
    plan = _plan(content.tensors, wanted)
    if not plan:
        head = _head(content.tensors)
        raise EdgeGemmaValueError(
            f"{source} needs no sidecar: its head is {head.type if head else 'missing'}, which is not larger than {wanted}.",
            "unsupported",
        )
    refuse_existing([path], force=True)
    made = force or not _fits(path, source, plan)
    if made:
        _write(GGUFWriter(path, metadata, [lean.target for lean in plan]), plan, threads or processors(), progress)
    return Prepared(
        path,
        {lean.target.name: (lean.source.type, lean.target.type) for lean in plan},
        path.stat().st_size,
        sum(lean.source.bytes - lean.target.bytes for lean in plan),
        made,
    )


def is_worthwhile(model: str | os.PathLike[str]) -> bool:
    """Whether a model should be prepared before it is used on a small device: it is one of the small models (E2B, E4B), its
    layers have about four bits, and its head has more."""
    tensors = GGUFSource(model).tensors
    layers = [tensor for tensor in tensors if tensor.name.startswith("blk.") and len(tensor.shape) > 1]
    small = any(tensor.name.startswith("per_layer_token_embd.") for tensor in tensors)
    return small and _bits(layers) < 5 and bool(_plan(tensors, HEAD_TYPES[0]))


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
    """The matrix that makes logits: the token embeddings where the file has no other."""
    found = {tensor.name: tensor for tensor in tensors}
    return found.get("output.weight") or found.get("token_embd.weight")


def _plan(tensors: Sequence[SourceTensor], type: str) -> list[_Lean]:
    """The matrices of the sidecar: those that are larger in the model's file."""
    head = _head(tensors)
    if head is None or len(head.shape) != 2 or kernels.per_channel(head.type):
        return []
    if head.shape[0] % kernels.type_info(type).block:
        type = "IQ4_NL"
    if head.shape[0] % kernels.type_info(type).block:
        return []
    lean = _Lean(head, OutputTensor("output.weight", type, head.shape))
    return [lean] if lean.target.bytes < lean.source.bytes else []


def _bits(tensors: Iterable[SourceTensor]) -> float:
    """Bits of a weight, on average."""
    tensors = list(tensors)
    return 8 * sum(tensor.bytes for tensor in tensors) / max(sum(int(np.prod(tensor.shape)) for tensor in tensors), 1)


def _fits(path: Path, source: Path, plan: Sequence[_Lean]) -> bool:
    """Whether there is a sidecar that has what is planned, and that the engine uses for this file."""
    if not path.is_file():
        return False
    try:
        with GGUFFile(path) as file:
            types = {tensor.name: tensor.type_name for tensor in file.tensors}
        if types != {lean.target.name: lean.target.type for lean in plan}:
            return False
        with Model.load(source, threads=1) as model:
            return model.sidecar is not None
    except EdgeGemmaError:
        return False


def _write(writer: GGUFWriter, plan: Sequence[_Lean], threads: int, progress: Progress | None) -> None:
    done, total = 0, sum(lean.target.bytes for lean in plan)

    def counted(data: Iterable[NDArray[np.uint8]], name: str) -> Iterator[NDArray[np.uint8]]:
        nonlocal done
        for piece in data:
            yield piece
            done += piece.nbytes
            if progress:
                progress(done, total, name)

    with ThreadPoolExecutor(threads) as pool, writer:
        for lean in plan:
            writer.tensor(lean.target.name, counted(pieces(pool, threads, lean.source, lean.target.type), lean.source.name))
