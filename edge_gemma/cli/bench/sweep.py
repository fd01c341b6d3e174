"""`edge-gemma bench --sweep`: speed by number of threads, length of the prompt, and depth.

The depth is the number of tokens in the cache when a measurement begins. Each measurement, a prefill or a decode, runs on a
fork of a session with so many random tokens. These tokens are evaluated once, with the largest number of threads, and the
session is saved for the other numbers: the bits of the cache do not depend on it. Definitions:

    prefill_tok_s    tokens of a prompt / time until the logits of its last token are there
    decode_tok_s     tokens decoded greedily / their time
    depth_cost_us    microseconds by which decoding one token becomes slower for each 1,000 tokens in the cache, at depths
                     beyond the sliding window: the cost of the global layers, by least squares
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ...engine.memory import format_bytes
from ..common import UsageError, format_threads, open_model, print_table
from ..terminal import Bar, Interrupt

_PIECE = 4096  # tokens fed between two updates of the progress bar


class _Sweep:
    """The state of one sweep: its sizes, the results so far, the progress, and the session that is working."""

    def __init__(self, args: argparse.Namespace, depths: list[int], bar: Bar) -> None:
        self.args, self.depths, self.bar = args, depths, bar
        self.prompts, self.tokens = sorted(set(args.prompt_tokens)), args.tokens
        self.threads = sorted(set(args.thread_counts), reverse=True)
        self.context = depths[-1] + max(self.prompts[-1], self.tokens + 2)
        self.prefill: list[dict[str, Any]] = []
        self.decode: list[dict[str, Any]] = []
        self.done = 0.0
        self._session: Any = None
        self._cancelled = False
        self._lock = threading.Lock()

    def total(self) -> float:
        """Number of tokens that the sweep evaluates, for the progress bar."""
        each = self.args.repeats * (sum(self.prompts) + self.tokens)
        return self.depths[-1] + len(self.threads) * len(self.depths) * each

    @contextlib.contextmanager
    def working(self, session: Any) -> Iterator[Any]:
        """Inside the `with` block, `cancel` cancels this session."""
        try:
            with self._lock:
                self._session = session
                if self._cancelled:
                    session.cancel()
            yield session
        finally:
            with self._lock:
                self._session = None

    def cancel(self) -> None:
        """Stops the session that works now, or the next one, from another thread."""
        with self._lock:
            self._cancelled = True
            if self._session is not None:
                self._session.cancel()

    def add(self, tokens: int) -> None:
        """Counts tokens that were evaluated, and updates the progress bar."""
        self.done += tokens
        self.bar.update(min(self.done, self.total()), self.total())


def sweep(args: argparse.Namespace, prompt_ids: Callable[[Any, int], list[int]]) -> dict[str, Any]:
    """Measures all combinations. `args.thread_counts` has the numbers of threads. The report's "interrupted" tells whether
    Ctrl-C ended the sweep."""
    from ...errors import Cancelled

    depths = sorted(set(args.depth or [0]))
    with (
        Bar("measuring", 0, 1, label=lambda done: f"{done:,.0f} tokens") as bar,
        tempfile.TemporaryDirectory() as folder,
    ):
        state = _Sweep(args, depths, bar)
        if args.context and args.context < state.context:
            raise UsageError(f"--context {args.context} is too short: the sweep needs {state.context} tokens.")
        report: dict[str, Any] = {}
        with Interrupt(state.cancel) as interrupt, contextlib.suppress(Cancelled):
            for at, threads in enumerate(state.threads):
                args.threads = threads or None
                with open_model(args) as model:
                    report = report or _about(model, state)
                    for depth in depths:
                        file = os.path.join(folder, str(depth))
                        with _filled(state, model, depth, file, at, prompt_ids) as base:
                            _measure(state, model, base, depth, interrupt, prompt_ids)
        costs = _depth_costs(state.decode, report.get("window", 0))
    interrupted = interrupt.hit
    return {
        **report,
        "prefill": state.prefill,
        "decode": state.decode,
        "depth_cost_us": costs,
        "interrupted": interrupted,
    }


def _about(model: Any, state: _Sweep) -> dict[str, Any]:
    from ... import __version__, isa

    config, kv = model.config, state.args.kv or "f16"
    if state.context > config.context_length:
        raise UsageError(
            f"the sweep needs {state.context} tokens of context, but the model has only {config.context_length}."
        )
    # Beyond the sliding windows, only the global layers' cache grows with the context.
    long = config.context_length
    longer = [model.estimate(context, kv)["kv"] for context in (long // 2, long)]
    return {
        "model": {"name": config.name, "file": model.path.name, "parameters": config.parameters},
        "isa": isa,
        "version": __version__,
        "kv": kv,
        "context": state.context,
        "tokens": state.tokens,
        "repeats": state.args.repeats,
        "window": config.sliding_window,
        "global_bytes_per_token": round((longer[1] - longer[0]) / max(long - long // 2, 1)),
    }


@contextlib.contextmanager
def _filled(
    state: _Sweep, model: Any, depth: int, file: str, at: int, prompt_ids: Callable[[Any, int], list[int]]
) -> Iterator[Any]:
    """Yields a session with `depth` random tokens. For the first model (`at` 0) the tokens beyond the previous depth are fed,
    and the session is saved to `file`; for the others it is restored."""
    if at and depth:
        with contextlib.closing(model.session(restore=file, context=state.context)) as session:
            yield session
        return
    before = max((d for d in state.depths if 0 < d < depth), default=0) if not at else 0
    previous = os.path.join(os.path.dirname(file), str(before))
    options: dict[str, Any] = {"restore": previous} if before else {"kv": state.args.kv}
    with contextlib.closing(model.session(context=state.context, **options)) as session:
        ids = prompt_ids(model.tokenizer, depth)[before:] if depth else []
        with state.working(session):
            for start in range(0, len(ids), _PIECE):
                session.feed_tokens(ids[start : start + _PIECE])
                state.add(len(ids[start : start + _PIECE]))
            if depth:
                session.logits()
        if depth:
            session.save(file)
        yield session


def _measure(
    state: _Sweep, model: Any, base: Any, depth: int, interrupt: Interrupt, prompt_ids: Callable[[Any, int], list[int]]
) -> None:
    from ...errors import Cancelled

    def timed(work: Callable[[Any], None]) -> float:
        """Seconds that `work` takes on a fork of the base session."""
        if interrupt.hit:
            raise Cancelled()
        with contextlib.closing(base.fork()) as session, state.working(session):
            start = time.perf_counter()
            work(session)
            end = time.perf_counter()
        if interrupt.hit:  # the work may have ended early, so its time does not count
            raise Cancelled()
        return end - start

    common = {"threads": model.threads, "depth": depth}
    if depth == 0:  # the first use of the weights takes longer, so it is not measured
        timed(lambda session: _prefill(session, prompt_ids(model.tokenizer, 16)))
    for prompt in state.prompts:
        ids = prompt_ids(model.tokenizer, prompt)
        values = []
        for _ in range(state.args.repeats):
            values.append(prompt / timed(lambda session, ids=ids: _prefill(session, ids)))  # type: ignore[misc]
            state.add(prompt)
        state.prefill.append({**common, "prompt_tokens": prompt, "tok_s": statistics.median(values), "values": values})
    values = []
    for _ in range(state.args.repeats):
        values.append(_decode_rate(state, base, model, timed))
        state.add(state.tokens)
    state.decode.append({**common, "tokens": state.tokens, "tok_s": statistics.median(values), "values": values})


def _prefill(session: Any, ids: list[int]) -> None:
    session.feed_tokens(ids)
    session.logits()


def _decode_rate(state: _Sweep, base: Any, model: Any, timed: Callable[..., float]) -> float:
    """Decoded tokens a second. The first token is drawn from logits that exist already, so its time does not count."""
    marks: list[float] = []

    def work(session: Any) -> None:
        if session.position == 0:
            session.feed_text("", bos=True)
        session.logits()
        draw(session, 1)
        marks.append(time.perf_counter())
        draw(session, state.tokens)
        marks.append(time.perf_counter())

    timed(work)
    return state.tokens / (marks[1] - marks[0])


def draw(session: Any, tokens: int) -> None:
    """Draws exactly so many tokens. Answers to random prompts may end at any time; then it draws the next answer.

    Raises Cancelled after a cancel.
    """
    from ...errors import Cancelled

    end = session.position + tokens
    while (before := session.position) < end:
        if session.generate(max_tokens=end - before, temperature=0.0).stop == "cancelled":
            raise Cancelled()
        if session.position == before:
            raise RuntimeError("the session draws no token")


def _depth_costs(decode: list[dict[str, Any]], window: int) -> list[dict[str, Any]]:
    """The slope of the time for a token over the depth, for each number of threads with at least two depths."""
    costs = []
    for threads in sorted({row["threads"] for row in decode}):
        points = [
            (row["depth"], 1 / row["tok_s"]) for row in decode if row["threads"] == threads and row["depth"] >= window
        ]
        if len({depth for depth, _ in points}) > 1:
            slope = statistics.linear_regression(*zip(*points, strict=True)).slope
            costs.append({"threads": threads, "us_per_1000_tokens": slope * 1e9})
    return costs


def print_sweep(report: dict[str, Any]) -> None:
    """Prints the report as one table: a row for each number of threads and depth, a column for each prompt and one for
    decoding."""
    model = report["model"]
    print(
        f"{model['name'] or model['file']}, {report['isa']}, kv {report['kv']}, tokens/s, median of {report['repeats']}\n"
    )
    prompts = sorted({row["prompt_tokens"] for row in report["prefill"]})
    rows: list[tuple[str, ...]] = [
        ("threads", "depth", *(f"prefill {n}" for n in prompts), f"decode {report['tokens']}")
    ]
    cells = {
        (row["threads"], row["depth"], row.get("prompt_tokens", 0)): row["tok_s"]
        for key in ("prefill", "decode")
        for row in report[key]
    }
    for threads, depth in sorted({key[:2] for key in cells}):
        values = [cells.get((threads, depth, n)) for n in (*prompts, 0)]
        rows.append((str(threads), str(depth), *("" if value is None else f"{value:.1f}" for value in values)))
    print_table(rows)
    for cost in report["depth_cost_us"]:
        longer = f"{cost['us_per_1000_tokens']:.0f} us"
        print(
            f"\n  global layers, {format_threads(cost['threads'])}: a token takes {longer} longer for"
            f" each 1,000 tokens in the cache ({format_bytes(1000 * report['global_bytes_per_token'])} of K/V)"
        )
    if report["interrupted"]:
        print("\n  interrupted: the table has the measurements until then")
