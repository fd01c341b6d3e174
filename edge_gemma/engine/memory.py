"""How much memory a session needs, and which cache and context stay within a limit.

What is resident while a model answers: the process as it is; every weight but tables (those of per-layer embeddings, and of
token embeddings where a sidecar has the head), of which single rows are copied; the encoders of sound and pictures where they
are used; the session's K/V cache and its work space. The engine tells the last two exactly (`Model.estimate`), so a plan is
made before anything is allocated. It reads directories of files only.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from ..errors import EdgeGemmaMemoryError, EdgeGemmaValueError

__all__ = [
    "MemoryLimit",
    "MemoryNeed",
    "Plan",
    "available",
    "check_fits",
    "file_parts",
    "fit",
    "format_bytes",
    "memory_need",
    "parse_size",
    "sessions_need",
]

CACHES = ("f16", "q8")  # from the best to the smallest
STEP = 256  # a smaller context is a multiple of this many tokens
_PARTS = (("per_layer_token_embd.", "rows"), (("a.", "mm.a."), "encoder"), (("v.", "mm."), "image"))
# Modules that are imported later, buffers of texts, the logits that Python sees.
_SPARE = 24_000_000
_ENCODER_STATE, _ENCODER_WORK = (
    2_500_000,
    9_000_000,
)  # of a stream of sound; of all that are encoded one after the other
_PICTURE_WORK = 130_000_000  # while the largest picture is encoded
_PROCESS = 64_000_000  # an interpreter with NumPy, where the system does not tell
_FRESH = 34_000_000  # the same as Linux measures it, 31 MB, and some to spare

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_size(text: str) -> int:
    """Bytes of a size such as "1.5GB", "900 MB" or "2GiB"; no unit means bytes. Raises EdgeGemmaValueError "argument"."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?i?)b?\s*", text, re.IGNORECASE)
    if (
        not match
        or match[2].lower() not in _UNITS
        or not 0 < (size := float(match[1]) * _UNITS[match[2].lower()]) < 2**60
    ):
        raise EdgeGemmaValueError(f"{text!r} is not a size: write 1.5GB, 900MB or 2GiB.", "argument")
    return round(size)


def format_bytes(n: float) -> str:
    """Decimal units, three digits: 915968 -> '916 kB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 999.5:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:,.3g} TB" if n < 999.5 else f"{n:,.0f} TB"


@dataclass(frozen=True)
class MemoryLimit:
    """A limit in bytes, and what is known about the session that must stay within it.

    `least`: the smallest context that is of use. `sessions`: how many of them are alive at once, forks included.
    `audio`, `vision`: whether sound will be heard, and pictures seen; None if the model can. `fresh`: the plan is for a new
    process and not for this one. `grammar`: bytes that answers and calls of a given form will take, beside all else.
    """

    bytes: int
    least: int = STEP
    sessions: int = 1
    audio: bool | None = None
    vision: bool | None = None
    fresh: bool = False
    grammar: int = 0

    @classmethod
    def of(cls, limit: int | str | MemoryLimit, **known: Any) -> MemoryLimit:
        """A limit given as bytes or text, with what is `known`; one that is complete already stays as it is."""
        if isinstance(limit, MemoryLimit):
            return limit
        size = parse_size(limit) if isinstance(limit, str) else int(limit)
        if size <= 0:
            raise EdgeGemmaValueError(f"memory_limit is {size}; it must be above 0.", "argument")
        return cls(size, **known)


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that are resident at once when everything has been used, by purpose."""

    process: int  #: the interpreter, its libraries, tables of the model, and some to spare
    weights: int  #: what every token reads
    encoder: int  #: the encoders of sound and pictures; 0 where they are not used
    kv: int  #: caches of all sessions
    scratch: int  #: what else sessions hold, and the work space that they share
    grammar: int = 0  #: what limits answers and calls to a form; 0 where that is not used

    @property
    def total(self) -> int:
        """The sum."""
        return self.process + self.weights + self.encoder + self.kv + self.scratch + self.grammar


@dataclass(frozen=True)
class Plan:
    """A session that stays within a limit."""

    context: int
    kv: str
    need: MemoryNeed


def file_parts(tensors: Iterable[Any]) -> dict[str, int]:
    """Bytes of tensors, which have `name` and `bytes`: `weights`, which every token reads; `rows`, tables of which it copies
    single rows; `encoder`, for sound; `image`, for pictures."""
    tensors = list(tensors)
    parts = {"weights": 0, "rows": 0, "encoder": 0, "image": 0}
    # Without one of these the table of token embeddings is the head.
    has_head = any(tensor.name in ("output.weight", "output_lean.weight") for tensor in tensors)
    for tensor in tensors:
        part = next((part for names, part in _PARTS if tensor.name.startswith(names)), "weights")
        if has_head and tensor.name.startswith("token_embd."):
            part = "rows"
        parts[part] += tensor.bytes
    return parts


def memory_need(
    model: Any,
    context: int,
    kv: str = "f16",
    *,
    sessions: int = 1,
    audio: bool | None = None,
    vision: bool | None = None,
    fresh: bool = False,
    grammar: int = 0,
) -> MemoryNeed:
    """What `sessions` of that size take together with the process as it is now; `fresh`: with another that has opened the model
    and done nothing else. `audio`, `vision` and `grammar` as in `MemoryLimit`.

    An upper bound while nothing else in the process grows. Raises as `Model.estimate`.
    """
    estimate = model.estimate(context, kv)
    hears = model.has_audio if audio is None else audio and model.has_audio
    sees = model.has_vision if vision is None else vision and model.has_vision
    parts = model.weight_sizes()
    encoder = parts["encoder"] + sessions * _ENCODER_STATE + _ENCODER_WORK if hears else 0
    encoder += parts["image"] + _PICTURE_WORK if sees else 0
    # Weights that do not fit come from the disk, and are kept in what the rest leaves. A dense model is planned to fit, since
    # every token reads all of it; but a session of one that is open takes what there is.
    streams = model.weight_budget and (model.config.experts or not fresh)
    return MemoryNeed(
        process=(_FRESH + model.memory()["tables"] if fresh else _process(model)) + parts["vocabulary"] + _SPARE,
        weights=model.weight_least if streams else parts["weights"],
        encoder=encoder,
        grammar=grammar,
        **_session_sizes(estimate, sessions),
    )


def sessions_need(model: Any, context: int, kv: str, sessions: int, audio: bool = False) -> int:
    """What `sessions` more of that size take beside those of a plan; `audio`: sound is streamed into them. Raises as
    `Model.estimate`."""
    estimate = model.estimate(context, kv)
    return int(sessions * (estimate["kv"] + estimate["scratch"] + (_ENCODER_STATE if audio else 0)))


def _session_sizes(estimate: dict[str, int], sessions: int) -> dict[str, int]:
    """`kv` and `scratch` of so many sessions, one of which computes at a time."""
    return {
        "kv": sessions * estimate["kv"],
        "scratch": sessions * estimate["scratch"] + estimate["workspace"],
    }


def fit(model: Any, limit: int | str | MemoryLimit, context: int | None = None, kv: str | None = None) -> Plan:
    """The best session within a limit: the wanted context with an f16 cache, else with a q8 one, else a smaller context.

    Args:
        model: an open model.
        limit: bytes, a size such as "1.5GB", or all that is known.
        context: tokens wanted; None for as many as the model can have.
        kv: the type of the cache, if there is no choice.

    Raises:
        EdgeGemmaMemoryError: "memory" when nothing fits; the message says what would.
    """
    limit = MemoryLimit.of(limit)
    wanted = context or model.config.context_length
    least = min(limit.least, wanted)
    caches = (kv,) if kv else CACHES
    needs: dict[tuple[int, str], MemoryNeed] = {}
    fixed = memory_need(
        model,
        wanted,
        caches[0],
        sessions=limit.sessions,
        audio=limit.audio,
        vision=limit.vision,
        fresh=limit.fresh,
        grammar=limit.grammar,
    )

    def need(tokens: int, cache: str) -> MemoryNeed:
        """As `memory_need`, with one look at the process for all."""
        if (tokens, cache) not in needs:
            size = _session_sizes(model.estimate(tokens, cache), limit.sessions)
            needs[tokens, cache] = replace(fixed, **size)
        return needs[tokens, cache]

    for cache in caches:
        if need(wanted, cache).total <= limit.bytes:
            return Plan(wanted, cache, need(wanted, cache))
    cache = caches[-1]
    if need(least, cache).total > limit.bytes:
        raise EdgeGemmaMemoryError(
            _refusal(limit, {key: need(*key) for key in ((wanted, cache), (least, cache))}), "memory"
        )
    smaller = [least, *range(least // STEP * STEP + STEP, wanted, STEP)]
    first = bisect.bisect_left(smaller, True, lo=1, key=lambda tokens: need(tokens, cache).total > limit.bytes)
    return Plan(smaller[first - 1], cache, need(smaller[first - 1], cache))


def check_fits(session: Any, limit: int | str | MemoryLimit) -> None:
    """Raises EdgeGemmaMemoryError "memory" when an open session goes beyond the limit once it is used."""
    limit, model, sizes = MemoryLimit.of(limit), session.model, session.memory()
    known = {"sessions": limit.sessions, "audio": limit.audio, "vision": limit.vision, "grammar": limit.grammar}
    need = memory_need(model, 1, **known)
    # What it has touched by now counts as part of the process already; so this is never too little.
    total = need.total - need.kv - need.scratch + sum(_session_sizes(sizes, limit.sessions).values())
    if total > limit.bytes:
        raise EdgeGemmaMemoryError(
            f"The session takes {format_bytes(total)} in all with its {session.context} tokens, more than the memory limit of "
            f"{format_bytes(limit.bytes)}: allow that, or begin a new one.",
            "memory",
        )


def _refusal(limit: MemoryLimit, needs: dict[tuple[int, str], MemoryNeed]) -> str:
    sizes = [
        f"{format_bytes(need.total)} at {tokens} tokens" + (f" with a {kv} cache" if not at else "")
        for at, ((tokens, kv), need) in enumerate(needs.items())
    ]
    need = list(needs.values())[-1]
    parts = f"{format_bytes(need.weights)} are weights, {format_bytes(need.process)} the process"
    if need.encoder:
        parts += f", {format_bytes(need.encoder)} the encoders"
    if need.grammar:
        parts += f", {format_bytes(need.grammar)} the grammars of answers and calls; constrain=False leaves calls free"
    return (
        f"The memory limit of {format_bytes(limit.bytes)} is too small: the model needs {'; '.join(sizes)} ({parts}). "
        "Allow that, or take a smaller quantization."
    )


def _process(model: Any) -> int:
    """Bytes of this process that are resident now, without the model's files."""
    rss = resident()
    memory: dict[str, int] = model.memory()
    return _PROCESS + memory["tables"] if rss is None else max(rss - memory["resident"], 0)


def available() -> int | None:
    """Bytes of memory that the machine can give to programs without swapping; None where the system does not tell."""
    try:
        with open("/proc/meminfo") as meminfo:
            for line in meminfo:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def resident(key: str = "VmRSS") -> int | None:
    """Bytes of this process in memory now, or the most there have been ("VmHWM"); None where the system does not tell."""
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith(key + ":"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
