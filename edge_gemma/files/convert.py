"""Converts a Hugging Face checkpoint of Gemma 4 to GGUF files: the text model, and its encoders (mmproj) if it has any.

Owns the plan: the metadata that follows from the configuration, and the list of tensors with their types. The whole
checkpoint is checked before a byte is written. Then tensors are read, converted and written piece by piece. Names and shapes
are in checkpoint_names.py, packed matrices in qat.py, the tokenizer in tokenizer_export.py, the containers in safetensors.py
and gguf_writer.py.

    convert("gemma-4-E2B-it", "gemma-4-E2B-it-BF16.gguf")
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgeGemmaValueError
from ..kernels import type_info
from . import checkpoint_names as names
from .checkpoint_names import Row
from .gguf_writer import GGUFWriter, OutputTensor, boolean, f32, numbers, refuse_existing, text, u32
from .qat import Parts, find_parts, repack
from .quantize import encode
from .recipes import MIXES
from .safetensors import Checkpoint, StoredTensor, read_json
from .tokenizer_export import tokenizer_metadata

__all__ = ["Converted", "convert", "output_paths"]

TYPES = ("BF16", "F16", "F32", "Q8_0")
UNIFIED = "gemma4_unified"  # the 12B model, which has projections of pixels and samples in place of encoders
KINDS = ("gemma4", "gemma4_text", UNIFIED, "gemma4_unified_text")
PACKED = "gemma"  # the quant_method whose packed matrices are understood
PIECE = 1 << 22  # values converted at a time: 16 MB of floats
LOCAL, GLOBAL = "sliding_attention", "full_attention"
# Prefixes of tensor names, which depend on the version of the library that saved the checkpoint.
TEXT_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.")
PART_PREFIXES = ("model.", "")
NO_ROTATION = 1e30  # value of rope_freqs for a pair that does not rotate

Progress = Callable[[int, int, str], None]


class Converted(NamedTuple):
    """The files that `convert` has written."""

    model: Path
    mmproj: Path | None  #: None for a checkpoint without encoders, or for mmproj=False


def convert(
    hf_dir: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    mmproj: str | os.PathLike[str] | bool | None = None,
    type: str = "BF16",
    force: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Writes the checkpoint directory `hf_dir` as GGUF.

    `out` is the text model's file, or an existing directory, in which files get their usual names. `mmproj` is the
    encoders' file; None puts it beside `out`, False leaves the encoders out. `type` is the type of matrices: BF16, F16, F32
    or Q8_0. Norms and small tensors are always F32. Matrices that the checkpoint has packed (quant_method gemma) keep their
    values, in types that only this engine knows: QC2, QC4 and QC8 (one scale for each output channel). `force` replaces
    files that exist. `progress(done, total, name)` is called with bytes written and the name of a tensor.

    Raises OSError for files that cannot be read or written, ValueError for a checkpoint that is damaged or not a Gemma 4.
    No file is left behind then.
    """
    if (wanted := type.upper()) not in TYPES:
        raise EdgeGemmaValueError(f"type is {type!r}; it must be one of {', '.join(TYPES)}.", "argument")
    directory = Path(hf_dir)
    config = read_json(directory / "config.json")
    _refuse_others(directory, config)
    source = _Source(Checkpoint(directory))
    files = [_text_file(source, directory, config, wanted)]
    encoders = _encoder_file(source, directory, config, wanted)
    source.refuse_unknown(_is_tied(config))
    if encoders and mmproj is not False:
        files.append(encoders)
    elif not encoders and mmproj not in (None, False):
        raise EdgeGemmaValueError(f"{directory} has no encoders to write to {mmproj}.", "argument")
    label = "QAT" if _quant_method(config) else wanted
    paths = output_paths(directory, out, None if isinstance(mmproj, bool) else mmproj, label)[: len(files)]
    refuse_existing(paths, force)
    writers = [GGUFWriter(path, plan.metadata, plan.tensors) for path, plan in zip(paths, files, strict=True)]
    done, total = 0, sum(writer.size for writer in writers)
    with ExitStack() as stack:  # both files get their names at the end, or neither of them
        for writer, plan in zip(writers, files, strict=True):
            stack.enter_context(writer)
            for job in plan.jobs:
                writer.tensor(job.target.name, job.pieces())
                done += job.target.bytes
                if progress:
                    progress(done, total, job.target.name)
    return Converted(paths[0], paths[1] if len(paths) > 1 else None)


def output_paths(
    hf_dir: str | os.PathLike[str], out: str | os.PathLike[str], mmproj: str | os.PathLike[str] | None, type: str
) -> list[Path]:
    """The two files that `convert` writes: the text model's and the encoders'."""
    path = Path(out)
    if path.is_dir():
        path = path / f"{Path(hf_dir).resolve().name}-{type.upper()}.gguf"
    return [path, Path(mmproj) if mmproj else path.with_name(f"mmproj-{path.name}")]


# ---- plans ------------------------------------------------------------------------------------------------------


class _Job(NamedTuple):
    """One tensor to be written, with the tensor of the checkpoint, or the array, that has its values."""

    target: OutputTensor
    source: StoredTensor | NDArray[np.float32]
    change: str
    """What happens to the values: "" for nothing, "planes", "axes" or "softplus" as in `checkpoint_names.Row`, "packed" for
    codes as in qat.py."""

    def pieces(self) -> Iterator[bytes | NDArray[Any]]:
        """The data of the tensor, a few megabytes at a time."""
        source, name = self.source, self.target.name
        if isinstance(source, np.ndarray):
            yield source
        elif self.change == "planes":  # [..., (row, column, colour)] -> [..., (colour, row, column)]
            side = math.isqrt(source.shape[-1] // 3)
            patches = source.floats().reshape(-1, side, side, 3).transpose(0, 3, 1, 2)
            yield encode(np.ascontiguousarray(patches), self.target.type, name)
        elif self.change == "axes":
            values = source.floats().reshape(source.shape).swapaxes(0, 1)
            yield encode(np.ascontiguousarray(values), self.target.type, name)
        elif self.change == "packed":
            width = source.shape[1]
            for start in range(0, source.count, step := max(PIECE // width, 1) * width):
                codes = source.raw(start, min(step, source.count - start)).reshape(-1, width)
                yield repack(codes, 8 * width // self.target.shape[0])
        elif self.change == "softplus":
            yield encode(_softplus(source.floats()), self.target.type, name)
        else:
            step = max(PIECE // self.target.shape[0], 1) * self.target.shape[0]  # whole rows
            for start in range(0, source.count, step):
                count = min(step, source.count - start)
                if self.target.type == source.dtype:
                    yield source.read(start, count)
                else:
                    yield encode(source.floats(start, count), self.target.type, name)


@dataclass
class _Plan:
    """One file to be written."""

    metadata: dict[str, bytes] = field(default_factory=dict)
    jobs: list[_Job] = field(default_factory=list)

    @property
    def tensors(self) -> list[OutputTensor]:
        return [job.target for job in self.jobs]

    def begin(self, architecture: str, kind: str, name: str, file_type: str) -> None:
        """Adds the keys that every file has. general.file_type has no number for packed matrices, so it is left out."""
        packed = any(job.change == "packed" for job in self.jobs)
        self.metadata |= {
            "general.architecture": text(architecture),
            "general.type": text(kind),
            "general.name": text(name),
            "general.size_label": text(_size_label(self.tensors)),
            **({} if packed else {"general.file_type": u32(MIXES[file_type].file_type)}),
            "general.quantization_version": u32(2),
        }


class _Source:
    """A checkpoint whose tensors are claimed one by one. A tensor that is never claimed is an error in the end."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint, self._left = checkpoint, set(checkpoint)
        self._missing: list[str] = []

    def prefix(self, candidates: Sequence[str], name: str) -> str:
        """The first prefix under which the checkpoint has this tensor, packed or not; the first candidate if none fits."""
        found = (p for p in candidates if p + name in self.checkpoint or find_parts(self.checkpoint, p + name))
        return next(found, candidates[0])

    def claim(self, name: str) -> StoredTensor | None:
        """The tensor. If it is missing: None, and `refuse_missing` raises an error later."""
        if name not in self.checkpoint:
            self._missing.append(name)
            return None
        self._left.discard(name)
        return self.checkpoint[name]

    def drop(self, name: str) -> None:
        """Marks a tensor, and its scales if it is packed, as known but not needed."""
        self._left -= {name, *(find_parts(self.checkpoint, name) or ())}

    def refuse_missing(self) -> None:
        """Raises ValueError, with the names, if `claim` did not find a tensor."""
        if self._missing:
            raise _bad(self.checkpoint, f"lacks {_listing(self._missing)}, which config.json implies")

    def refuse_unknown(self, tied: bool) -> None:
        """Raises ValueError if tensors were not claimed, except for those that are known to be useless."""
        useless = {name for name in self._left if name.endswith(names.UNUSED)}
        useless |= {"lm_head.weight", "language_model.lm_head.weight"} if tied else set()
        if left := sorted(self._left - useless):
            raise _bad(self.checkpoint, f"has tensors that no Gemma 4 has: {_listing(left)}")


class _Rows:
    """Makes jobs of rows of the tables in checkpoint_names.py. A letter must mean the same dimension in all of them."""

    def __init__(self, source: _Source, jobs: list[_Job], type: str, known: Mapping[str, int]) -> None:
        self._source, self._jobs, self._type, self.dims = source, jobs, type, dict(known)

    def add(self, rows: Sequence[Row], theirs: str = "", ours: str = "") -> None:
        """Adds a job for each row, its names behind the prefixes `theirs` and `ours`."""
        for row in rows:
            if row.kind != "clipped":
                self._add(row, theirs + row.theirs, ours + row.ours)
                continue
            self._add(row, f"{theirs}{row.theirs}.linear.weight", f"{ours}{row.ours}.weight")
            bounds = [
                bound for bound in names.CLIP_BOUNDS if f"{theirs}{row.theirs}.{bound}" in self._source.checkpoint
            ]
            for bound in bounds:
                scalar = Row("", "", (), "f32")
                self._add(scalar, f"{theirs}{row.theirs}.{bound}", f"{ours}{row.ours}.{bound}")

    def forget(self, *letters: str) -> None:
        """Forgets dimensions that may be different in the next layer."""
        for letter in letters:
            self.dims.pop(letter, None)

    def _add(self, row: Row, theirs: str, ours: str) -> None:
        if parts := find_parts(self._source.checkpoint, theirs):
            self._add_packed(row, parts, ours)
            return
        tensor = self._source.claim(theirs)
        if tensor is None:
            return
        self._check(row, tensor, tensor.shape)
        shape = tensor.shape or (1,)
        if row.kind == "patch":
            shape = (shape[0], 3, 16, 16)
        elif row.kind == "depthwise":
            shape = (shape[0], shape[2])
        elif row.kind == "axes":
            shape = (shape[1], shape[0], *shape[2:])
        target = OutputTensor(ours, self._target(row.kind, ours, shape), shape[::-1])
        change = "planes" if row.kind == "patch" else row.kind
        self._jobs.append(_Job(target, tensor, change if change in ("planes", "axes", "softplus") else ""))

    def _add_packed(self, row: Row, parts: Parts, ours: str) -> None:
        """Adds a matrix of QC2, QC4 or QC8 with its scales and steps. The length of its rows tells the number of bits."""
        checkpoint = self._source.checkpoint
        if row.kind not in ("matrix", "clipped") or len(checkpoint[parts.codes].shape) != 2:
            raise _bad(checkpoint, f"has {parts.codes} packed, but only matrices can be packed")
        codes, scale = self._source.claim(parts.codes), self._source.claim(parts.scale)
        if codes is None or scale is None:
            return
        width = codes.shape[1]
        columns = width if codes.dtype == "I8" else self._size(row.shape[-1], width)
        bits = 8 * width // columns if columns else 0
        if bits not in (2, 4, 8) or columns * bits != 8 * width or (bits == 8) != (codes.dtype == "I8"):
            raise _bad(checkpoint, f"has {parts.codes} with rows of {width} bytes for {columns} values")
        self._check(row, codes, (codes.shape[0], columns))
        block = int(type_info(type := f"QC{bits}").block)
        if columns % block:
            raise _bad(
                checkpoint, f"has {parts.codes} with rows of {columns} values; {bits} bits need multiples of {block}"
            )
        several = scale.shape[-1] if parts.scale.endswith("embedding_scale") and len(scale.shape) == 2 else 1
        if scale.shape not in ((codes.shape[0],), (codes.shape[0], several)) or not several or columns % several:
            raise _bad(checkpoint, f"has {parts.scale} of shape {list(scale.shape)} for {codes.shape[0]} rows")
        stem = ours.removesuffix(".weight")
        self._jobs.append(_Job(OutputTensor(ours, type, (columns, codes.shape[0])), codes, "packed"))
        shape = (codes.shape[0],) if several == 1 else (several, codes.shape[0])
        self._jobs.append(_Job(OutputTensor(f"{stem}.scale", "F32", shape), scale, ""))
        for side in ("input", "output"):
            if (name := getattr(parts, side)) in checkpoint:
                self._add(Row("", "", checkpoint[name].shape and (1,), "f32"), name, f"{stem}.{side}_scale")

    def _check(self, row: Row, tensor: StoredTensor, shape: tuple[int, ...]) -> None:
        """Raises ValueError unless a tensor, whose unpacked shape is `shape`, fits its row."""
        if len(shape) != len(row.shape) or not all(map(self._fits, row.shape, shape)):
            wanted = [self.dims.get(dim, dim) if isinstance(dim, str) else dim for dim in row.shape]
            raise _bad(self._source.checkpoint, f"has {tensor.name} of shape {list(shape)} where {wanted} is expected")

    def _size(self, dim: str | int, default: int) -> int:
        """The value of a dimension; `default` for a letter without a value."""
        return dim if isinstance(dim, int) else self.dims.get(dim, default)

    def _fits(self, dim: str | int, size: int) -> bool:
        """Whether a dimension has this size. A letter without a value gets it."""
        return size == (dim if isinstance(dim, int) else self.dims.setdefault(dim, size))

    def _target(self, kind: str, name: str, shape: tuple[int, ...]) -> str:
        """The type in which a tensor is stored."""
        if kind in ("patch", "planes") and len(shape) > 1:
            return "F16" if self._type == "F16" else "F32"
        if kind not in ("matrix", "clipped"):
            return "F32"
        if self._type == "Q8_0" and name == "per_layer_model_proj.weight":
            return "BF16"
        return self._type if shape[-1] % type_info(self._type).block == 0 else "F16"


# ---- the text model ---------------------------------------------------------------------------------------------


def _text_file(source: _Source, directory: Path, config: Mapping[str, Any], type: str) -> _Plan:
    """The plan of the text model's file."""
    settings = _Settings(directory, config.get("text_config", config))
    prefix = source.prefix(TEXT_PREFIXES, "embed_tokens.weight")
    layers, kinds = settings.whole("num_hidden_layers"), settings.need("layer_types")
    if not isinstance(kinds, list) or len(kinds) != layers or set(kinds) - {LOCAL, GLOBAL}:
        raise settings.bad(f"layer_types is not a list of {layers} times {LOCAL} or {GLOBAL}")
    owners = layers - settings.whole("num_kv_shared_layers", 0)
    experts = settings.whole("num_experts", 0) if settings.get("enable_moe_block") else 0
    embedding = settings.whole("hidden_size_per_layer_input", 0)
    plan = _Plan()
    known = {"d": settings.whole("hidden_size"), "P": embedding, "L*P": layers * embedding, "E": experts}
    rows = _Rows(source, plan.jobs, type, known)
    if experts:
        rows.dims["I"] = settings.whole("moe_intermediate_size")
        rows.dims["2*I"] = 2 * rows.dims["I"]
    rows.add(names.TEXT[:1], prefix)
    rows.add(names.TEXT_PLE if embedding else (), prefix)
    per_layer: dict[str, list[int]] = {"D": [], "k": [], "F": [], "q": []}
    for layer, kind in enumerate(kinds):
        theirs, ours = f"{prefix}layers.{layer}.", f"blk.{layer}."
        rows.forget(*per_layer)
        rows.add(names.LAYER, theirs, ours)
        unused = [*names.LAYER_KV, *names.LAYER_VALUES] if layer >= owners else []
        for row in unused:  # layers that share K and V do not use these tensors, but some checkpoints have them
            source.drop(theirs + row.theirs)
        if layer < owners:
            rows.add(names.LAYER_KV, theirs, ours)
            if not (settings.get("attention_k_eq_v") and kind == GLOBAL):
                rows.add(names.LAYER_VALUES, theirs, ours)
        rows.add(names.LAYER_PLE if embedding else (), theirs, ours)
        rows.add(names.EXPERTS if experts else (), theirs, ours)
        for letter, sizes in per_layer.items():
            sizes.append(rows.dims.get(letter, 0))
    rows.add(names.TEXT[1:], prefix)
    if not _is_tied(config):
        head = source.prefix(("", "language_model."), "lm_head.weight")
        rows.add((Row("lm_head.weight", "output.weight", ("V", "d"), "matrix"),), head)
    source.refuse_missing()

    shape = _attention(settings, kinds, owners, per_layer)
    factors = _rope_factors(settings, shape["D"][GLOBAL])
    plan.jobs.insert(0, _Job(OutputTensor("rope_freqs.weight", "F32", factors.shape), factors, ""))
    plan.begin("gemma4", "model", directory.resolve().name, type)
    plan.metadata |= _text_metadata(settings, kinds, per_layer, shape, experts, owners)
    plan.metadata |= tokenizer_metadata(directory, settings.values, rows.dims["V"])
    return plan


def _attention(
    settings: _Settings, kinds: Sequence[str], owners: int, per_layer: Mapping[str, list[int]]
) -> dict[str, dict[str, int]]:
    """The size of a head, "D", and the number of key heads, "K", by kind of layer. All layers of a kind must have the same."""
    heads = settings.whole("num_attention_heads")
    found: dict[str, dict[str, int]] = {"D": {}, "K": {}}
    for layer, kind in enumerate(kinds):
        size, keys, queries = (per_layer[letter][layer] for letter in ("D", "k", "q"))
        if queries != heads * size:
            raise settings.bad(f"layer {layer} has {queries} rows of queries, not {heads} heads of {size}")
        agrees = found["D"].setdefault(kind, size) == size
        if layer < owners:
            agrees &= keys % size == 0 and found["K"].setdefault(kind, keys // size) == keys // size
        if not agrees:
            raise settings.bad(f"layer {layer} has heads of another size or number than other layers of its kind")
    if GLOBAL not in found["K"] or LOCAL not in found["K"]:
        raise settings.bad("a kind of layer has no keys and values of its own")
    return found


def _text_metadata(
    settings: _Settings,
    kinds: Sequence[str],
    per_layer: Mapping[str, list[int]],
    shape: Mapping[str, Mapping[str, int]],
    experts: int,
    owners: int,
) -> dict[str, bytes]:
    """The `gemma4.*` keys."""
    size, size_local = shape["D"][GLOBAL], shape["D"][LOCAL]
    values: dict[str, bytes] = {
        "block_count": u32(len(kinds)),
        "context_length": u32(settings.whole("max_position_embeddings")),
        "embedding_length": u32(settings.whole("hidden_size")),
        "feed_forward_length": _scalar_or_array(per_layer["F"]),
        "attention.head_count": u32(settings.whole("num_attention_heads")),
        "attention.head_count_kv": _scalar_or_array([shape["K"][kind] for kind in kinds]),
        "rope.freq_base": f32(settings.rope(GLOBAL)["rope_theta"]),
        "rope.freq_base_swa": f32(settings.rope(LOCAL)["rope_theta"]),
        "attention.layer_norm_rms_epsilon": f32(settings.get("rms_norm_eps", 1e-6)),
    }
    if experts:
        values["expert_count"] = u32(experts)
        values["expert_used_count"] = u32(settings.whole("top_k_experts"))
        values["expert_feed_forward_length"] = u32(settings.whole("moe_intermediate_size"))
    if cap := settings.need("final_logit_softcapping"):
        values["final_logit_softcapping"] = f32(cap)
    values |= {
        "attention.key_length": u32(size),
        "attention.value_length": u32(size),
        "attention.key_length_swa": u32(size_local),
        "attention.value_length_swa": u32(size_local),
        "attention.sliding_window": u32(settings.whole("sliding_window")),
        "attention.sliding_window_pattern": numbers([kind == LOCAL for kind in kinds], np.bool_),
        "attention.shared_kv_layers": u32(len(kinds) - owners),
        "embedding_length_per_layer_input": u32(settings.whole("hidden_size_per_layer_input", 0)),
        "rope.dimension_count": u32(size),
        "rope.dimension_count_swa": u32(size_local),
    }
    return {f"gemma4.{key}": value for key, value in values.items()}


def _rope_factors(settings: _Settings, head: int) -> NDArray[np.float32]:
    """The divisors [head / 2] of the rotary frequencies of global layers: only the first pairs rotate."""
    rope = settings.rope(GLOBAL)
    if rope.get("rope_type", "proportional") != "proportional":
        raise settings.bad(f"rope_type of {GLOBAL} is {rope['rope_type']}, not proportional")
    factors = np.full(head // 2, NO_ROTATION, np.float32)
    factors[: int(rope.get("partial_rotary_factor", 0.25) * head / 2)] = 1.0
    return factors


# ---- the encoders -----------------------------------------------------------------------------------------------


def _encoder_file(source: _Source, directory: Path, config: Mapping[str, Any], type: str) -> _Plan | None:
    """The plan of the encoders' file; None for a checkpoint without encoders."""
    plan, width = _Plan(), int(config.get("text_config", config)["hidden_size"])
    unified = config.get("model_type") == UNIFIED
    metadata: dict[str, bytes] = {}
    if vision := config.get("vision_config"):
        add = _unified_vision if unified else _vision
        metadata |= add(source, plan.jobs, _Settings(directory, vision), width, type)
    if audio := config.get("audio_config"):
        add = _unified_audio if unified else _audio
        metadata |= add(source, plan.jobs, _Settings(directory, audio), width, type)
    source.refuse_missing()
    if not metadata:
        return None
    plan.begin("clip", "mmproj", directory.resolve().name, type)
    plan.metadata |= metadata
    return plan


def _vision(source: _Source, jobs: list[_Job], settings: _Settings, width: int, type: str) -> dict[str, bytes]:
    """Adds the image encoder's tensors. Returns its metadata."""
    layers, patch = settings.whole("num_hidden_layers"), settings.whole("patch_size", 16)
    if patch != 16:
        raise settings.bad(f"patch_size of the image encoder is {patch}, not 16")
    tower = source.prefix(PART_PREFIXES, "vision_tower.patch_embedder.input_proj.weight") + "vision_tower."
    rows = _Rows(source, jobs, type, {"d": settings.whole("hidden_size"), "B": width})
    rows.add(names.VISION, tower)
    rows.add(names.VISION_STANDARDIZE if settings.get("standardize") else (), tower)
    for layer in range(layers):
        rows.add(names.VISION_LAYER, f"{tower}encoder.layers.{layer}.", f"v.blk.{layer}.")
    rows.add(names.VISION_PROJECTION, tower.removesuffix("vision_tower."))
    heads = settings.whole("num_attention_heads")
    metadata = _part("vision", "gemma4v", settings, width, rows.dims["d"], rows.dims.get("F", 0), layers, heads)
    if (pool := settings.whole("pooling_kernel_size", 3)) != 3:
        metadata["clip.vision.projector.scale_factor"] = u32(pool)
    return metadata | _pictures(settings.directory)


def _unified_vision(source: _Source, jobs: list[_Job], settings: _Settings, width: int, type: str) -> dict[str, bytes]:
    """Adds the tensors of the 12B model's projection of pixels. Returns its metadata."""
    if (side := settings.whole("patch_size", 16) * settings.whole("pooling_kernel_size", 3)) != 48:
        raise settings.bad(f"patch_size times pooling_kernel_size is {side}, not 48")
    pairs = {part + own: part + its for part in PART_PREFIXES for own, its in names.UNIFIED_VISION_PREFIXES.items()}
    own = source.prefix(tuple(pairs), "patch_dense.weight")
    rows = _Rows(source, jobs, type, {"d": settings.whole("mm_embed_dim"), "B": width})
    rows.add(names.UNIFIED_VISION, own)
    (projection,) = names.VISION_PROJECTION
    rows.add([projection._replace(theirs=projection.theirs.removeprefix("embed_vision."))], pairs[own])
    return _part("vision", "gemma4uv", settings, width, rows.dims["d"]) | _pictures(settings.directory)


def _pictures(directory: Path) -> dict[str, bytes]:
    """What other programs require about pictures. It is the same for all of Gemma 4."""
    return {
        "clip.vision.image_size": u32(224),  # without a meaning: pictures have many sizes
        "clip.vision.patch_size": u32(16),
        "clip.vision.image_mean": numbers(_image_setting(directory, "image_mean", [0.0, 0.0, 0.0]), np.float32),
        "clip.vision.image_std": numbers(_image_setting(directory, "image_std", [1.0, 1.0, 1.0]), np.float32),
    }


def _audio(source: _Source, jobs: list[_Job], settings: _Settings, width: int, type: str) -> dict[str, bytes]:
    """Adds the audio encoder's tensors. Returns its metadata."""
    layers, heads = settings.whole("num_hidden_layers"), settings.whole("num_attention_heads")
    size = settings.whole("hidden_size")
    tower = source.prefix(PART_PREFIXES, "audio_tower.output_proj.weight") + "audio_tower."
    rows = _Rows(source, jobs, type, {"d": size, "2*d": 2 * size, "D": size // heads, "B": width})
    rows.add(names.AUDIO, tower)
    for layer in range(layers):
        rows.add(names.AUDIO_LAYER, f"{tower}layers.{layer}.", f"a.blk.{layer}.")
    rows.add(names.AUDIO_PROJECTION, tower.removesuffix("audio_tower."))
    bins = 4 * rows.dims.get("W", 0) // max(rows.dims.get("C1", 1), 1)  # each of two convolutions halves them
    metadata = _part("audio", "gemma4a", settings, width, size, rows.dims.get("F", 0), layers, heads)
    return metadata | {"clip.audio.num_mel_bins": u32(bins)}


def _unified_audio(source: _Source, jobs: list[_Job], settings: _Settings, width: int, type: str) -> dict[str, bytes]:
    """Adds the 12B model's projection of samples. Returns its metadata."""
    (projection,) = names.AUDIO_PROJECTION
    size = settings.whole("audio_embed_dim", 640)
    rows = _Rows(source, jobs, type, {"O": size, "B": width})
    rows.add([projection], source.prefix(PART_PREFIXES, projection.theirs))
    # There is no mel spectrogram, but other programs require a number of its bins.
    return _part("audio", "gemma4ua", settings, width, size) | {"clip.audio.num_mel_bins": u32(128)}


def _part(
    part: str, projector: str, settings: _Settings, width: int, size: int, ffn: int = 0, layers: int = 0, heads: int = 0
) -> dict[str, bytes]:
    """The keys that pictures ("vision") and sound ("audio") have in common; zeros for what a projection does not have."""
    values = {
        "projection_dim": u32(width),
        "embedding_length": u32(size),
        "feed_forward_length": u32(ffn),
        "block_count": u32(layers),
        "attention.head_count": u32(heads),
        "projector_type": text(projector),
        "attention.layer_norm_epsilon": f32(settings.get("rms_norm_eps", 1e-6)),
    }
    return {f"clip.has_{part}_encoder": boolean(True), **{f"clip.{part}.{key}": value for key, value in values.items()}}


def _image_setting(directory: Path, key: str, default: list[float]) -> list[float]:
    """A setting of the image processor, from the first of two files that has it."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (path := directory / name).is_file():
            settings = read_json(path)
            if value := settings.get("image_processor", settings).get(key):
                return list(value)
    return default


# ---- configuration and messages ---------------------------------------------------------------------------------


class _Settings:
    """A part of config.json; errors name the file and the key."""

    def __init__(self, directory: Path, values: Mapping[str, Any]) -> None:
        self.directory, self.values = directory, values

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or the default where it is absent or null."""
        value = self.values.get(key)
        return default if value is None else value

    def need(self, key: str) -> Any:
        """The value. Raises ValueError where the key is absent."""
        if key not in self.values:
            raise self.bad(f"it has no {key}")
        return self.values[key]

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number that is not negative."""
        value = self.get(key, default)
        if type(value) is not int or not 0 <= value < 2**31:
            raise self.bad(f"{key} is {value!r}, not a whole number")
        return value

    def rope(self, kind: str) -> Mapping[str, Any]:
        """The rotary settings of a kind of layer."""
        values = self.get("rope_parameters", {}).get(kind)
        if not isinstance(values, dict) or "rope_theta" not in values:
            raise self.bad(f"it has no rope_parameters.{kind}.rope_theta")
        return values

    def bad(self, reason: str) -> EdgeGemmaValueError:
        """The error for an invalid configuration."""
        return EdgeGemmaValueError(f"{self.directory / 'config.json'}: {reason}.", "format")


def _refuse_others(directory: Path, config: Mapping[str, Any]) -> None:
    """Raises ValueError for another model than Gemma 4, and for weights that are packed in an unknown way."""
    kind = config.get("model_type")
    if kind not in KINDS:
        raise EdgeGemmaValueError(
            f"{directory}: model_type is {kind!r}; only {', '.join(KINDS)} can be converted.", "unsupported"
        )
    if (method := _quant_method(config)) not in ("", PACKED):
        raise EdgeGemmaValueError(
            f"{directory}: its weights are packed by quant_method {method!r}, but only {PACKED!r} can be converted; use the"
            " checkpoint with BF16 weights of the same model.",
            "unsupported",
        )


def _quant_method(config: Mapping[str, Any]) -> str:
    """The method by which the checkpoint's weights are packed; empty if they are not packed."""
    settings = config.get("quantization_config") or config.get("text_config", {}).get("quantization_config")
    return str(settings.get("quant_method")) if settings else ""


def _is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the embedding table is also the output head."""
    return bool(config.get("tie_word_embeddings", config.get("text_config", config).get("tie_word_embeddings", True)))


def _scalar_or_array(values: Sequence[int]) -> bytes:
    return u32(values[0]) if len(set(values)) == 1 else numbers(values, np.int32)


def _softplus(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.logaddexp(values.astype(np.float64), 0).astype(np.float32)


def _size_label(tensors: Sequence[OutputTensor]) -> str:
    """The number of parameters as in file names: 4.6B; with experts 128x6.3B, the number of experts times the size of one
    expert with the shared weights."""
    shared = expert = experts = 0
    for tensor in tensors:
        size = int(np.prod(tensor.shape, dtype=np.int64))
        if "_exps." in tensor.name and len(tensor.shape) == 3:
            experts = tensor.shape[2]
            expert += size // experts
        else:
            shared += size
    count = shared + expert
    scale, unit = next((pair for pair in ((1e12, "T"), (1e9, "B"), (1e6, "M")) if count > pair[0]), (1e3, "K"))
    digits = f"{count / scale:.{1 if round(count / scale) < 10 else 0}f}{unit}"
    return f"{experts}x{digits}" if experts else digits


def _listing(entries: Sequence[str], most: int = 5) -> str:
    """The first names of a list, and the number of the others."""
    more = f" and {len(entries) - most} more" if len(entries) > most else ""
    return ", ".join(entries[:most]) + more


def _bad(checkpoint: Checkpoint, reason: str) -> EdgeGemmaValueError:
    return EdgeGemmaValueError(f"{checkpoint.directory}: the checkpoint {reason}.", "format")
