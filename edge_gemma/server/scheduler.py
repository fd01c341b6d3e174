"""`Scheduler`: the one thread that drives the engine, for all requests.

It works in passes. A pass draws one token for every answer that is under way, and reads a piece of one prompt: all of it goes
through the weights together. So the weights are read once for all, and no request waits longer than a pass.

- **Fair.** Prompts are read one after the other, in the order of their arrival; of several clients those go first that have
  fewest answers under way, and an answer that is streamed goes before one that is not, until the latter has waited ten seconds.
  While others draw, the piece of a prompt is so short that a pass takes a quarter of a second.
- **Spoken turns first.** They run in threads of their own, and their sessions have a higher priority: the engine's pool lets
  them go before a pass, layer by layer. `call` runs a function between two passes, in this thread.
- **Cancelled within a layer.** `Job.cancel` ends the running pass; what the others lose of it is made again.
- **Bounded.** `parallel` answers are made at a time, `queue` requests wait for so many seconds at most, and a job whose
  mailbox is full is left out of passes.

What a job's timeline begins with comes from prefix_cache.py, at the moment when its prompt is about to be read: so requests
that come together share what the first of them has read.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from ..chat.prompt import Media
from ..chat.reply_stream import ReplyStream
from ..chat.timeline import Timeline
from ..engine.batch import next_tokens
from ..engine.model import Model
from ..errors import Cancelled
from ..vision.feeding import feed_pixels, soft_tokens
from .disk_cache import DiskCache
from .failures import RequestError, request_error
from .job import Began, Job
from .metrics import Metrics
from .prefix_cache import PrefixCache, before_last
from .settings import Settings

__all__ = ["Scheduler"]

_T = TypeVar("_T")
_ROWS = 128  # of a pass
_PASS_SECONDS = 0.25  # that others wait for a piece of a prompt
_LEAST_PIECE = 16
_PATIENCE = 10.0  # seconds after which an answer that is not streamed goes as early as others
_BEHIND = 48  # tokens of an answer after which its prompt is kept by itself
_WORTH_KEEPING = 128  # tokens of a prompt
_SOUND = 8000  # samples of a recording that are heard between two passes
_IDLE = 2.0  # seconds without work after which prefixes are written to disk


class Scheduler:
    """Takes jobs and tells their events. All methods may be called from any thread."""

    def __init__(
        self,
        model: Model,
        settings: Settings,
        metrics: Metrics,
        *,
        context: int,
        kv: str,
        disk: DiskCache | None = None,
    ) -> None:
        """`context`, `kv`: of all sessions."""
        self.cache = PrefixCache(model, settings.cache_bytes, kv)
        self._model, self._settings, self._metrics = model, settings, metrics
        self._context, self._kv, self._disk = context, kv, disk
        self._wake = threading.Condition()
        self._queued: list[Job] = []
        self._active: list[Job] = []
        self._calls: deque[Callable[[], None]] = deque()
        self._closing, self._stopped = False, False
        self._rate = 0.0  # rows of prompts that a second takes
        self._worked = time.monotonic()
        self._encoder = concurrent.futures.ThreadPoolExecutor(1, "edge-gemma-pictures")
        self._thread = threading.Thread(target=self._run, name="edge-gemma-scheduler", daemon=True)
        self._thread.start()

    # ---- from other threads ----

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queues the answers to one request. Raises RequestError 429 when too many wait, 503 when the server stops."""
        with self._wake:
            if self._closing:
                raise RequestError(503, "The server is being stopped.")
            if len(self._queued) + len(jobs) > self._settings.queue:
                raise RequestError(429, "The assistant is busy with other requests. Try again in a few seconds.")
            for job in jobs:
                job.mailbox.emptied = self.wake
            self._queued += jobs
            self._wake.notify()

    def wake(self) -> None:
        """There may be something to do."""
        with self._wake:
            self._wake.notify()

    def cancel(self, job: Job) -> None:
        """Ends a job; it frees its place within one layer."""
        job.cancel()
        self.wake()

    def call(self, function: Callable[[], _T]) -> concurrent.futures.Future[_T]:
        """Runs a function in the scheduler's thread, between two passes."""
        future: concurrent.futures.Future[_T] = concurrent.futures.Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:
                    future.set_exception(error)

        with self._wake:
            if self._stopped:
                raise RequestError(503, "The server is being stopped.")
            self._calls.append(work)
            self._wake.notify()
        return future

    def borrow(self, target: Sequence[Any], hint: str = "") -> concurrent.futures.Future[tuple[Timeline, int]]:
        """A timeline for a prompt, and how many of its units it holds. It belongs to the caller: others keep theirs."""

        def take() -> tuple[Timeline, int]:
            found = self.cache.find(target, hint)
            if found is None:
                return Timeline(self._open_session()), 0
            entry, units, tokens = found
            timeline = entry.timeline.fork()
            return timeline, units if timeline.rewind(tokens) else 0

        return self.call(take)

    def keep(self, timeline: Timeline, hint: str = "") -> concurrent.futures.Future[None]:
        """Takes a timeline over for later requests."""

        def take() -> None:
            self.cache.keep(timeline, timeline.session.position, "tip", hint)

        return self.call(take)

    @property
    def counts(self) -> tuple[int, int]:
        """How many answers are made, and how many requests wait."""
        return len(self._active), len(self._queued)

    def close(self, seconds: float = 0.0) -> None:
        """Takes no more jobs, lets the others go on for so long, ends them, and stops the thread."""
        with self._wake:
            self._closing = True
        deadline = time.monotonic() + seconds
        while any(self.counts) and time.monotonic() < deadline:
            time.sleep(0.02)
        with self._wake:
            for job in [*self._active, *self._queued]:
                job.cancel()
            self._stopped = True
            self._wake.notify()
        self._thread.join()
        self._encoder.shutdown()

    # ---- the thread ----

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._stopped or self._calls or self._has_work()):
                    if not self._wake.wait(self._pause()):
                        break
                if self._stopped and not self._active and not self._queued:
                    break
                calls = list(self._calls)
                self._calls.clear()
            for call in calls:
                call()
            try:
                self._admit()
                worked = self._pass()
            except Exception as error:  # a fault of this program: what was under way ends, and the server goes on
                for job in list(self._active):
                    self._give_up(job, error)
                worked = True
            if worked:
                self._worked = time.monotonic()
            elif not (self._active or self._queued or calls):
                self._write_prefix()
            self._metrics.show(self.counts, self.cache)
        self._close_all()

    def _has_work(self) -> bool:
        place = len(self._active) < self._settings.parallel
        return any(self._is_ready(job) for job in self._active) or (place and bool(self._queued))

    def _pause(self) -> float | None:
        """How long to wait for news."""
        if self._active or self._queued:
            return 0.25
        return _IDLE if self._disk is not None and self.cache.unsaved(("instructions",)) else None

    @staticmethod
    def _is_ready(job: Job) -> bool:
        if job.state == "encoding":
            return False
        if job.cancelled:
            return True
        if job.state == "feeding":
            return job.original is None or job.original.state in ("drawing", "ended")
        return job.state == "drawing" and not job.mailbox.full

    # ---- the queue ----

    def _admit(self) -> None:
        """Moves jobs from the queue to the active ones, and ends what has been cancelled or has waited for too long."""
        now = time.monotonic()
        for job in list(self._active):
            late = now - job.begun > self._settings.request_seconds
            stalled = job.mailbox.full and now - job.last_progress > self._settings.stall_seconds
            if job.state == "encoding":
                if late:
                    job.cancel()
                if job.cancelled and job.encoding is not None and job.encoding.cancel():
                    job.state = "feeding"  # it had not begun; otherwise it ends within a layer
                else:
                    continue
            if job.cancelled or late or stalled:
                self._finish(job, "cancelled" if job.cancelled or stalled else "length")
        with self._wake:
            for job in [
                job for job in self._queued if job.cancelled or now - job.arrived > self._settings.queue_seconds
            ]:
                self._queued.remove(job)
                job.fail(
                    RequestError(499, "The client has gone.")
                    if job.cancelled
                    else RequestError(503, "The assistant is busy with other requests. Try again in a few seconds.")
                )
            while self._queued and len(self._active) < self._settings.parallel:
                job = min(self._queued, key=self._order)
                self._queued.remove(job)
                job.state, job.begun, job.last_progress = "feeding", now, now
                self._active.append(job)

    def _order(self, job: Job) -> tuple[bool, int, float]:
        patient = not job.streamed and time.monotonic() - job.arrived < _PATIENCE
        same = sum(other.prepared.request.hint == job.prepared.request.hint for other in self._active)
        return patient, same, job.arrived

    # ---- a pass ----

    def _pass(self) -> bool:
        """One pass through the weights. Whether there was anything to do."""
        drawing = [job for job in self._active if job.state == "drawing" and self._is_ready(job) and not job.cancelled]
        for job in drawing:
            self._force(job)
        rows = sum(1 + len(job.prefix) for job in drawing)
        feeding = self._next_prompt()
        piece: list[int] = []
        if feeding is not None:
            try:
                piece = self._piece(feeding, max(_ROWS - rows, 1), bool(drawing))
            except Exception as error:
                self._give_up(feeding, error)
                return True
            if feeding.state != "feeding" or feeding.cancelled:
                return True
        if not piece:
            feeding = None
        elif feeding is not None and feeding.at + len(piece) == len(feeding.prepared.units):
            feeding.prefix = piece
            self._start_drawing(feeding)
            if feeding.state == "drawing":
                drawing.append(feeding)
            feeding, piece = None, []
        if not drawing and feeding is None:
            return False
        self._evaluate(drawing, feeding, piece)
        return True

    def _next_prompt(self) -> Job | None:
        """The job whose prompt is read next."""
        waiting = [job for job in self._active if job.state == "feeding" and not job.cancelled]
        started = [job for job in waiting if job.timeline is not None]
        ready = [job for job in waiting if self._is_ready(job)]
        return min(ready, key=lambda job: (self._order(job)[0], job not in started, job.arrived), default=None)

    def _piece(self, job: Job, room: int, others: bool) -> list[int]:
        """The next piece of a prompt; none when a picture or a recording comes next, which is fed here."""
        if job.timeline is None:
            self._assign(job)
        if job.at in job.prepared.marks:
            self._checkpoint(job)
        unit = job.unit
        if isinstance(unit, Media):
            self._see(job, unit) if unit.kind == "image" else self._hear(job, unit)
            return []
        if others and self._rate:
            room = min(room, max(_LEAST_PIECE, int(self._rate * _PASS_SECONDS)))
        return job.next_ids(room)

    def _evaluate(self, drawing: Sequence[Job], feeding: Job | None, piece: Sequence[int]) -> None:
        """Draws a token for each of these jobs and appends a piece of a prompt to another."""
        sessions = [_session(job) for job in drawing]
        before = [session.position for session in sessions]
        fed_before = _session(feeding).position if feeding else 0
        began = time.perf_counter()
        try:
            tokens = next_tokens(
                sessions,
                [job.prepared.sampling for job in drawing],
                special=True,
                constraints=[job.stream.constraint if job.stream else None for job in drawing],
                logprobs=[job.prepared.request.logprobs for job in drawing],
                prefixes=[job.prefix for job in drawing],
                feed=[(_session(feeding), piece)] if feeding else (),
            )
        except Exception as error:
            self._keep_appended(drawing, before)
            if feeding:
                feeding.at += _session(feeding).position - fed_before
            if not isinstance(error, Cancelled):
                self._blame(drawing, feeding, error)
            return
        seconds = time.perf_counter() - began
        rows = len(piece) + sum(len(job.prefix) for job in drawing)
        if rows >= 32:
            rate = rows / max(seconds, 1e-6)
            self._rate = rate if not self._rate else 0.7 * self._rate + 0.3 * rate
        self._metrics.count_pass(len(drawing), rows, seconds)
        if feeding:
            feeding.at += len(piece)
            feeding.high = max(feeding.high, _session(feeding).position)
            feeding.last_progress = time.monotonic()
        for job, token in zip(drawing, tokens, strict=True):
            job.prefix = []
            job.high = max(job.high, _session(job).position)
            try:
                job.take(token)
            except Exception as error:  # a constraint that cannot go on
                self._give_up(job, error)
                continue
            self._keep_prompt(job)
            if job.stream and job.stream.stop:
                self._finish(job, job.stream.stop)

    @staticmethod
    def _keep_appended(drawing: Sequence[Job], before: Sequence[int]) -> None:
        """After a pass that was not completed: what has been appended need not be appended again."""
        for job, position in zip(drawing, before, strict=True):
            job.prefix = job.prefix[_session(job).position - position :]

    def _blame(self, drawing: Sequence[Job], feeding: Job | None, error: Exception) -> None:
        """A pass has failed because of one of its jobs: each goes through a pass of its own."""
        alone = [*drawing, *([feeding] if feeding else [])]
        if len(alone) == 1:
            self._give_up(alone[0], error)
            return
        for job in drawing:
            self._evaluate([job], None, [])
        if feeding:
            piece = feeding.next_ids(_ROWS)
            self._evaluate([], feeding, piece if feeding.at + len(piece) < len(feeding.prepared.units) else piece[:-1])

    def _force(self, job: Job) -> None:
        """The tokens that the form of an answer leaves no choice for go into the pass of its next token."""
        if not job.prefix and job.stream is not None:
            with self._failing(job):
                job.prefix = job.stream.forced()

    @contextlib.contextmanager
    def _failing(self, job: Job) -> Iterator[None]:
        """What fails inside ends the job."""
        try:
            yield
        except Exception as error:
            self._give_up(job, error)

    # ---- the way of a job ----

    def _assign(self, job: Job) -> None:
        """Gives a job its timeline: one that has read a part of the prompt already, if there is any."""
        target, hint = job.prepared.units, job.prepared.request.hint
        shared = self._shared(job)
        found = self.cache.find(target, hint)
        stored = None if self._disk is None else self._disk.find(target, (found[2] if found else 0) + _WORTH_KEEPING)
        if shared is not None and (found is None or shared[2] > found[2]):
            source, job.at, job.cached = shared
            assert source.timeline is not None
            timeline = source.timeline.fork()
            timeline.rewind(job.cached)
            job.high = source.high
        elif stored is not None and (restored := self._restore(stored, target)) is not None:
            timeline, job.at, job.cached = restored
            job.high = stored.high
        elif found is not None:
            entry, job.at, job.cached = found
            timeline = self.cache.use(entry, job.cached, hint)
            job.high = entry.high
        else:
            timeline, job.at, job.cached = Timeline(self._open_session()), 0, 0
        if timeline.session.position != job.cached:  # it could not go back so far, and has gone to its beginning
            job.at = job.cached = 0
        job.bind(timeline)
        job.mailbox.put(Began(job.usage))

    def _open_session(self) -> Any:
        return self._model.session(context=self._context, kv=self._kv)

    def _shared(self, job: Job) -> tuple[Job, int, int] | None:
        """An active job whose timeline begins as this job's prompt, as far as going back there costs nothing."""
        best = None
        for other in self._active:
            if other is job or other.timeline is None or other.media is not None or other.cancelled:
                continue
            tokens = _session(other).tokens
            units, count = before_last(job.prepared.units, *other.timeline.common(job.prepared.units, tokens))
            free = self.cache.is_free(other.timeline, other.high, count)
            if free and count >= _WORTH_KEEPING and (best is None or count > best[2]):
                best = (other, units, count)
        return best

    def _restore(self, stored: Any, target: Sequence[Any]) -> tuple[Timeline, int, int] | None:
        assert self._disk is not None
        timeline = self._disk.restore(stored, self._model, self._context)
        if timeline is None:
            return None
        units, tokens = before_last(target, *timeline.common(target))
        if tokens < len(timeline.session.tokens) or stored.kind == "instructions":
            self.cache.keep(timeline.fork(), stored.high, stored.kind, "", saved=True)
        timeline.rewind(tokens)
        return timeline, units, tokens

    def _checkpoint(self, job: Job) -> None:
        """Keeps the end of the instructions, unless it is kept already."""
        assert job.timeline is not None
        position = job.timeline.session.position
        if position < _WORTH_KEEPING or job.cached == position or not self.cache.has_room(position):
            return
        self.cache.keep(job.timeline.fork(), job.high, "instructions", job.prepared.request.hint)

    def _keep_prompt(self, job: Job) -> None:
        """Keeps the end of the prompt when an answer becomes so long that the way back to there will be lost."""
        if not job.checkpoint_due or job.timeline is None or job.stream is None or job.stream.stop:
            return
        if job.timeline.session.position - job.prepared.tokens < _BEHIND:
            return
        job.checkpoint_due = False
        copy = job.timeline.fork()
        copy.rewind(job.prepared.tokens)
        hint = job.prepared.request.hint
        self.cache.replace_prompt(copy.session.tokens, hint)
        self.cache.keep(copy, job.high, "prompt", hint)

    def _see(self, job: Job, picture: Media) -> None:
        """Feeds a picture, whose soft tokens another thread makes first."""
        assert job.timeline is not None
        timeline, rows = job.timeline, job.media
        if rows is None:
            job.state = "encoding"

            def encode() -> None:
                try:
                    job.media = soft_tokens(timeline.session, picture.data, picture.budget, key=picture.key)
                except Exception as error:
                    job.media = error
                if job.state == "encoding":
                    job.state = "feeding"
                self.wake()

            job.encoding = self._encoder.submit(encode)
            return
        job.media = None
        if isinstance(rows, Exception):
            raise rows
        start = timeline.session.position
        # From the cache of soft tokens, which holds what was encoded a moment ago.
        feed_pixels(timeline.session, picture.data, picture.budget, key=picture.key)
        self._fed(job, start, picture)

    def _hear(self, job: Job, sound: Media) -> None:
        """Feeds half a second of a recording."""
        assert job.timeline is not None
        session = job.timeline.session
        if job.media is None:
            job.media = (session.position, 0)
            session.stream_audio()
        start, done = job.media
        feed = session.audio
        assert feed is not None
        feed.push(sound.data[done : done + _SOUND])
        job.media = (start, done + _SOUND)
        job.last_progress = time.monotonic()
        if done + _SOUND >= sound.data.size:
            feed.finish()
            job.media = None
            self._fed(job, start, sound)

    @staticmethod
    def _fed(job: Job, start: int, media: Media) -> None:
        assert job.timeline is not None
        job.timeline.note(start, media)
        job.at += 1
        job.high = max(job.high, job.timeline.session.position)
        job.last_progress = time.monotonic()

    def _start_drawing(self, job: Job) -> None:
        """The last piece of the prompt goes into the pass that draws the first token."""
        prepared = job.prepared
        assert job.timeline is not None
        with self._failing(job):
            seed = prepared.request.seed
            job.timeline.session.seed(secrets.randbits(63) if seed is None else seed + job.number)
            job.stream = ReplyStream(
                prepared.prompt,
                prepared.units,
                max_tokens=prepared.max_tokens,
                stop=prepared.request.stop,
                form=prepared.form,
                every_token=prepared.request.logprobs is not None,
                check_call=prepared.check_call,
            )
            job.at, job.state = len(prepared.units), "drawing"
            job.checkpoint_due = prepared.tokens >= _WORTH_KEEPING and self.cache.has_room(prepared.tokens)
            job.prefix = [*job.prefix, *job.stream.forced()]
            if job.stream.stop:  # not a single token is wanted
                self._finish(job, job.stream.stop)

    def _give_up(self, job: Job, error: Exception) -> None:
        """Ends a job that cannot go on."""
        if job.state == "ended":
            return
        if isinstance(error, Cancelled) or job.cancelled:
            self._finish(job, "cancelled")
            return
        self._metrics.count_failure(error)
        self._release(job, keep=False)
        job.fail(request_error(error))

    def _finish(self, job: Job, stop: str) -> None:
        """Ends a job, and keeps its timeline for the next request."""
        if job.state == "ended":
            return
        if job.stream is None:
            job.stream = ReplyStream(job.prepared.prompt, job.prepared.units, max_tokens=1)
        self._release(job, keep=job.media is None)
        self._metrics.count_answer(job.usage, (job.first or time.monotonic()) - job.begun)
        job.end(stop)

    def _release(self, job: Job, keep: bool) -> None:
        if job in self._active:
            self._active.remove(job)
        timeline = job.timeline
        job.bind(None)
        if timeline is None:
            return
        session = timeline.session
        with contextlib.suppress(Cancelled):
            session.feed_tokens([]) if session.audio is None else None  # uses up a request to cancel that came too late
        if not keep or session.audio is not None:
            session.close()
            return
        if job.state == "drawing":
            job.prepared.prompt.learn(session.tokens, min(job.prepared.tokens, session.position))
        self.cache.keep(timeline, job.high, "tip", job.prepared.request.hint)

    # ---- the end, and the disk ----

    def _write_prefix(self) -> None:
        """Writes one prefix to disk, while nobody waits."""
        if self._disk is None or time.monotonic() - self._worked < _IDLE * 0.9:
            return
        for entry in self.cache.unsaved(("instructions",))[:1]:
            entry.saved = True
            self._disk.store(entry.timeline, entry.tokens, entry.kind, entry.high)

    def _close_all(self) -> None:
        if self._disk is not None:
            for entry in reversed(self.cache.unsaved(("instructions", "prompt", "tip"))):
                if len(entry.tokens) >= _WORTH_KEEPING:
                    self._disk.store(entry.timeline, entry.tokens, entry.kind, entry.high)
        self.cache.clear()
        while self._calls:
            self._calls.popleft()()


def _session(job: Job | None) -> Any:
    """The session of an active job."""
    assert job is not None and job.timeline is not None
    return job.timeline.session
