"""What the server tells about itself at /metrics, in the form of Prometheus. Sizes and times only, never content."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..errors import EdgeGemmaError

if TYPE_CHECKING:
    from .job import Usage
    from .prefix_cache import PrefixCache

__all__ = ["Metrics"]

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The counters of one server. Any thread."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"edge_gemma_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"edge_gemma_{name}", text, registry=registry)

        self._requests = counter("requests", "Requests by route and status.", ("route", "status"))
        self._prompt = counter("prompt_tokens", "Tokens of prompts.")
        self._cached = counter("cached_tokens", "Tokens of prompts that were in the cache.")
        self._generated = counter("generated_tokens", "Tokens that were generated.")
        self._passes = counter("passes", "Passes through the weights.")
        self._drawn = counter("pass_answers", "Answers that got a token, over all passes.")
        self._rows = counter("pass_prompt_tokens", "Tokens of prompts that were read, over all passes.")
        self._busy = counter("pass_seconds", "Seconds of all passes.")
        self._failures = counter("failures", "Answers that failed, by the kind of error.", ("kind",))
        self._first = Histogram(
            "edge_gemma_first_token_seconds",
            "From the turn of a request to its first token.",
            registry=registry,
            buckets=_SECONDS,
        )
        self._active, self._queued = (
            gauge("active_answers", "Answers under way."),
            gauge("queued_requests", "Requests that wait."),
        )
        self._kept, self._size = (
            gauge("cache_entries", "Timelines in the cache."),
            gauge("cache_bytes", "Bytes of these."),
        )

    def text(self) -> bytes:
        """The page."""
        return generate_latest(self._registry)

    def count_request(self, route: str, status: int) -> None:
        """A request has been answered."""
        self._requests.labels(route, str(status)).inc()

    def count_pass(self, drawn: int, rows: int, seconds: float) -> None:
        """A pass: answers that got a token, tokens of prompts, seconds."""
        self._passes.inc()
        self._drawn.inc(drawn)
        self._rows.inc(rows)
        self._busy.inc(seconds)

    def count_answer(self, usage: Usage, first: float) -> None:
        """An answer has ended; `first`: seconds to its first token."""
        self._prompt.inc(usage.prompt)
        self._cached.inc(usage.cached)
        self._generated.inc(usage.generated)
        if usage.generated:
            self._first.observe(first)

    def count_failure(self, error: Exception) -> None:
        """An answer has failed."""
        self._failures.labels(error.code if isinstance(error, EdgeGemmaError) else type(error).__name__).inc()

    def show(self, counts: tuple[int, int], cache: PrefixCache) -> None:
        """The state between two passes."""
        self._active.set(counts[0])
        self._queued.set(counts[1])
        self._kept.set(len(cache.entries))
        self._size.set(cache.size)
