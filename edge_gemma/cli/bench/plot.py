"""`edge-gemma bench --sweep --plot FILE`: the sweep as a chart, prefill on the left and decoding on the right.

The horizontal axis is the depth if several were measured, else the number of threads. Needs matplotlib, the extra `plot`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ...installation import pip_line
from ..common import UsageError, format_threads
from ..outputs import check_output


def check_plot(path: str, force: bool) -> None:
    """Raises UsageError if the chart cannot be written, or may not replace what is there. Called before the measurement,
    which may take hours."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise UsageError(f"--plot needs matplotlib: `{pip_line('edge-gemma[plot]')}`.") from None
    check_output(Path(path), force=force, text=False)
    types = FigureCanvasAgg.get_supported_filetypes()
    if os.path.splitext(path)[1][1:].lower() not in types:
        raise UsageError(
            f"--plot {path}: the name must end in one of {', '.join('.' + name for name in sorted(types))}."
        )


def write_plot(report: dict[str, Any], path: str) -> None:
    """Draws a report of `sweep.sweep`. Raises OSError."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    over = "depth" if len({row["depth"] for row in report["decode"]}) > 1 else "threads"
    figure = Figure(figsize=(11, 4.8), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    model = report["model"]
    figure.suptitle(f"{model['name'] or model['file']}   ({report['isa']}, kv {report['kv']})", fontsize=13)
    _draw(left, report["prefill"], over)
    _draw(right, report["decode"], over)
    left.set_title("Prefill")
    right.set_title(f"Decoding ({report['tokens']} tokens)")
    for axes in (left, right):
        axes.set_xlabel("tokens already in the cache" if over == "depth" else "threads")
        axes.set_ylabel("tokens per second")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if over == "depth":
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        if len(axes.lines) > 1:
            axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def _draw(axes: Any, rows: list[dict[str, Any]], over: str) -> None:
    """Draws one line for each prompt length and each value of the quantity that is not on the axis, with its range shaded."""
    other = "threads" if over == "depth" else "depth"
    lines = sorted({(row.get("prompt_tokens", 0), row[other]) for row in rows})
    several = {"prompt": len({line[0] for line in lines}) > 1, "other": len({line[1] for line in lines}) > 1}
    for prompt, value in lines:
        points = sorted(
            (row[over], row["tok_s"], min(row["values"]), max(row["values"]))
            for row in rows
            if row.get("prompt_tokens", 0) == prompt and row[other] == value
        )
        names = [f"prompt of {prompt:,}"] if several["prompt"] else []
        names += [format_threads(value) if other == "threads" else f"depth {value:,}"] if several["other"] else []
        x, y, low, high = zip(*points, strict=True)
        (line,) = axes.plot(x, y, marker="o", label=", ".join(names))
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15)
