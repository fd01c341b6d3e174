"""What fits within which memory limit, for `edge-gemma info`: the longest context, with and without sidecar and encoders.

Owns the table and its data. The arithmetic is in `engine/memory.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from ..engine.memory import MemoryLimit, fit, format_bytes
from .common import print_table

LIMITS = tuple(round(1e9 * size) for size in (0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64))


def what_fits(path: str, mmproj: str | None, limit: int | None, threads: int | None) -> list[dict[str, Any]]:
    """The longest context for each limit and each way to use the model: `limit` alone, or those of LIMITS that matter.

    An entry has `limit` in bytes; `sidecar`: True with the one that is there, "prepare" with one that could be made, False
    without; `encoders`: whether sound and pictures are used; and `context`, `kv` and `bytes`, which are None if nothing fits.
    Empty for a file that the engine cannot run.
    """
    from .. import Model
    from ..errors import EdgeGemmaError
    from ..files.prepare import saving

    with contextlib.ExitStack() as stack:
        try:
            plain = stack.enter_context(Model.load(path, mmproj=mmproj, threads=threads, sidecar=False))
            lean = stack.enter_context(Model.load(path, mmproj=mmproj, threads=threads))
            saved = 0 if lean.sidecar else saving(path)
        except EdgeGemmaError:
            return []
        ways: list[tuple[Any, bool | str, int]] = [(plain, False, 0)]
        if lean.sidecar or saved:
            ways.insert(0, (lean, True if lean.sidecar else "prepare", saved))
        senses = (False, True) if plain.has_audio or plain.has_vision else (False,)
        rows = []
        for size in (limit,) if limit else LIMITS:
            row = [_entry(*way, size, encoders) for way in ways for encoders in senses]
            rows.append(row)
            if all(entry["context"] == plain.config.context_length and entry["kv"] == "f16" for entry in row):
                break
    matter = [row for row in rows if limit or any(entry["context"] for entry in row)]
    return [entry for row in matter for entry in row]


def _entry(model: Any, sidecar: bool | str, saved: int, limit: int, encoders: bool) -> dict[str, Any]:
    """What fits: a sidecar that does not exist yet is as good as a limit that is higher by what it saves."""
    from ..errors import EdgeGemmaMemoryError

    entry = {"limit": limit, "sidecar": sidecar, "encoders": encoders, "context": None, "kv": None, "bytes": None}
    with contextlib.suppress(EdgeGemmaMemoryError):
        plan = fit(model, MemoryLimit(limit + saved, audio=encoders, vision=encoders, fresh=True))
        entry |= {"context": plan.context, "kv": plan.kv, "bytes": plan.need.total - saved}
    return entry


def print_fits(entries: Sequence[dict[str, Any]], command: str) -> None:
    """Prints a row for each limit and a column for each way."""
    ways = list(dict.fromkeys((entry["sidecar"], entry["encoders"]) for entry in entries))
    names = {True: "with sidecar", "prepare": "prepared", False: "without sidecar" if len(ways) > 1 else ""}
    header = [", ".join(filter(None, (names[way], "encoders" if encoders else "text"))) for way, encoders in ways]
    rows: list[tuple[str, ...]] = [("", *header)]
    for limit in dict.fromkeys(entry["limit"] for entry in entries):
        cells = [_cell(entry) for entry in entries if entry["limit"] == limit]
        rows.append((format_bytes(limit), *cells))
    print("\nlongest context within a memory limit, all that a process takes included")
    print_table(rows)
    if ("prepare", False) in ways:
        print(f"  prepared: after `{command} prepare`, which makes a leaner head")


def _cell(entry: dict[str, Any]) -> str:
    return f"{entry['context']} {entry['kv']}" if entry["context"] else "-"
