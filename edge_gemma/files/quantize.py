"""Quantizes a GGUF file: reads, quantizes and writes every matrix, some rows at a time, on several threads.

Owns the order of the work. The type of each tensor is chosen in recipes.py, and numbers are quantized in csrc/format. The
result does not depend on the number of threads.

    quantize("gemma-4-E2B-it-BF16.gguf", "gemma-4-E2B-it-Q4_0.gguf", "Q4_0")
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..engine.gguf import GGUFFile
from ..errors import EdgeGemmaValueError
from .gguf_source import GGUFSource, SourceTensor
from .gguf_writer import GGUFWriter, OutputTensor, refuse_existing, u32
from .recipes import MIXES, choose_types, is_float

__all__ = ["Quantized", "encode", "output_path", "pieces", "processors", "quantize"]

PIECE = 1 << 20  # values that a thread quantizes at a time: 4 MB of floats
QUANTIZATION_VERSION = 2  # of the block formats

Progress = Callable[[int, int, str], None]


class Quantized(NamedTuple):
    """The result of `quantize`."""

    path: Path
    types: dict[str, int]  #: type -> number of tensors
    notes: list[str]  #: sentences for the user, such as that some weights have now been quantized twice


def quantize(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    type: str,
    *,
    tensor_types: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    force: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """Writes the GGUF file `source`, a model or its encoders, with its matrices in another type.

    `out` is a file, or a directory, in which the file gets the source's name with the new type. `type` is a type or a mix,
    a key of `recipes.MIXES` such as "Q4_0" or "Q4_K_M". `tensor_types` maps shell patterns of tensor names to types and
    takes precedence over the mix. Norms, the router and other small tensors keep their type. A tensor whose rows are not
    whole blocks of a type gets a similar type. `force` replaces a file that exists. `threads` is the number of threads, by
    default that of the processors. `progress(done, total, name)` is called with bytes written and the name of a tensor.

    Raises OSError for files that cannot be read or written, ValueError for an unknown type, a damaged file, or a value
    that is infinite or NaN. No file is left behind then.
    """
    mix_name = type.upper()
    if mix_name not in MIXES:
        raise EdgeGemmaValueError(f"type is {type!r}; it must be one of {', '.join(MIXES)}.", "argument")
    pairs = list(tensor_types.items() if isinstance(tensor_types, Mapping) else tensor_types)
    overrides = [(pattern, kernels.writable_type(wanted)) for pattern, wanted in pairs]
    path = output_path(source, out, mix_name)
    refuse_existing([path], force)
    content = GGUFSource(source)
    if packed := [tensor for tensor in content.tensors if kernels.per_channel(tensor.type)]:
        raise EdgeGemmaValueError(
            f"{source}: tensor {packed[0].name} has type {packed[0].type}, which cannot be quantized again; start from BF16.",
            "unsupported",
        )
    encoders, heads_per_key = _shape(source)
    types = choose_types(content.tensors, mix_name, encoders=encoders, heads_per_key=heads_per_key, overrides=overrides)
    metadata = content.metadata | {
        "general.file_type": u32(MIXES[mix_name].file_type),
        "general.quantization_version": u32(QUANTIZATION_VERSION),
    }
    targets = [OutputTensor(tensor.name, types[tensor.name], tensor.shape) for tensor in content.tensors]
    writer, done = GGUFWriter(path, metadata, targets), 0
    with ThreadPoolExecutor(threads or processors()) as pool, writer:
        for tensor, target in zip(content.tensors, targets, strict=True):
            writer.tensor(target.name, pieces(pool, threads or processors(), tensor, target.type))
            done += target.bytes
            if progress:
                progress(done, writer.size, target.name)
    return Quantized(path, dict(Counter(types.values())), _notes(content.tensors, types))


def output_path(source: str | os.PathLike[str], out: str | os.PathLike[str], type: str) -> Path:
    """`out`, or the source's name with the type in it where `out` is a directory."""
    path = Path(out)
    if not path.is_dir():
        return path
    stem = Path(source).stem
    model, _, last = stem.rpartition("-")
    return path / f"{model if model and last.upper() in MIXES else stem}-{type.upper()}.gguf"


def encode(values: NDArray[np.float32], type: str, name: str) -> NDArray[np.uint8]:
    """Quantizes floats to the raw data of a type. Raises ValueError, naming the tensor, for values it cannot express."""
    try:
        return kernels.quantize(values, type)
    except EdgeGemmaValueError as error:
        raise EdgeGemmaValueError(f"tensor {name}: {error}", error.code) from None


def pieces(pool: ThreadPoolExecutor, threads: int, tensor: SourceTensor, type: str) -> Iterator[NDArray[np.uint8]]:
    """Yields the tensor's data in `type`, in order. Threads work on the pieces that follow the current one."""
    info = kernels.type_info(tensor.type)
    row_bytes = tensor.shape[0] // int(info.block) * int(info.bytes) or 1
    step = max(PIECE // max(tensor.shape[0], 1), 1) * row_bytes
    waiting: deque[Future[NDArray[np.uint8]]] = deque()
    try:
        for start in range(0, tensor.bytes, step):
            waiting.append(pool.submit(_piece, tensor, type, start, min(step, tensor.bytes - start)))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _piece(tensor: SourceTensor, type: str, start: int, count: int) -> NDArray[np.uint8]:
    """`count` bytes of whole rows of a tensor from byte `start` on, in another type."""
    data = tensor.read(start, count)
    return data if type == tensor.type else encode(kernels.dequantize(data, tensor.type), type, tensor.name)


def _shape(source: str | os.PathLike[str]) -> tuple[bool, int]:
    """Whether the file contains encoders, and how many query heads share a key head in its first layer."""
    with GGUFFile(source) as file:
        architecture = file.metadata.get("general.architecture", "")
        heads = file.metadata.get(f"{architecture}.attention.head_count", 1)
        keys = file.metadata.get(f"{architecture}.attention.head_count_kv", heads)
        return architecture == "clip", int(np.ravel(heads)[0]) // max(int(np.ravel(keys)[0]), 1)


def _notes(tensors: Sequence[SourceTensor], types: Mapping[str, str]) -> list[str]:
    """A note if weights that were quantized already are quantized again."""
    lossy = [tensor for tensor in tensors if not is_float(tensor.type) and types[tensor.name] != tensor.type]
    if not lossy:
        return []
    worst = Counter(tensor.type for tensor in lossy).most_common(1)[0][0]
    return [
        f"{len(lossy)} tensors were quantized before ({worst}), so their errors add up: start from BF16 if you can."
    ]


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
