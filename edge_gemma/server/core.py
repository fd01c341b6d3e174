"""`Core`: what all routes share. `Answer`: one answer while it comes.

    request = ChatRequest(messages=..., streamed=True)
    answers = await core.answers(request)               # raises RequestError; the prompt is written by then
    async for event in answers[0]: ...                  # Began, Said ..., Ended or Failed
    await/cancel                                        # leaving the loop early, or `answer.cancel()`, ends the answer

The model is loaded in a thread while requests are refused with 503. `model`, `scheduler` and `preparer` are there afterwards.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, TypeVar

from ..assistant.interface import Voice
from ..chat.vocabulary import view_bytes
from ..engine.memory import MemoryLimit, fit
from ..engine.model import Model
from ..engine.tokenizer import Tokenizer
from ..errors import EdgeGemmaError
from .bodies import Bodies
from .disk_cache import DiskCache
from .ears import Ears, memory_of_ears
from .failures import RequestError, request_error
from .heard import HeardWords
from .job import Began, Ended, Event, Failed, Job, Mailbox, Usage
from .metrics import Metrics
from .requests import ChatRequest, Prepared, Preparer
from .scheduler import Scheduler
from .settings import Settings

__all__ = ["Answer", "Core"]

_T = TypeVar("_T")
_CONTEXT = 16384
_LEAST_CONTEXT = 1024
_TURNS = 1  # of a conversation that hear at the same time, each with a fork, where memory is limited


class Answer:
    """The events of one job, for a route."""

    def __init__(self, job: Job, scheduler: Scheduler) -> None:
        self._job, self._scheduler = job, scheduler
        self._ended = False
        self._ahead: Event | None = None  # read, but not told

    @property
    def prepared(self) -> Prepared:
        """What was asked."""
        return self._job.prepared

    async def opened(self) -> Began:
        """Waits until it is the answer's turn. Raises RequestError when it fails before that. The event comes again."""
        if self._ahead is None:
            self._ahead = await self._job.mailbox.get()
        if isinstance(self._ahead, Failed):
            self._ended = True
            raise self._ahead.error
        return self._ahead if isinstance(self._ahead, Began) else Began(Usage())

    async def complete(self) -> Ended:
        """Waits for the end. Raises RequestError when the answer fails."""
        while not isinstance(event := await self.next(), Ended):
            if isinstance(event, Failed):
                raise event.error
        return event

    async def next(self) -> Event:
        """The next event; the last one is Ended or Failed."""
        event, self._ahead = self._ahead, None
        if event is None:
            event = await self._job.mailbox.get()
        self._ended = isinstance(event, (Ended, Failed))
        return event

    async def __aiter__(self) -> AsyncGenerator[Event, None]:
        """All events. Leaving early ends the answer."""
        try:
            while not self._ended:
                yield await self.next()
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Ends the answer, unless it has ended."""
        if not self._ended:
            self._scheduler.cancel(self._job)


class Core:
    """The model, the scheduler and what goes with them.

    Attributes:
        settings, metrics, bodies: see there.
        open_voice: opens the voice of a session; None where there is none.
        page: what the web page begins with: "defaults" of its settings, and "tools" that it offers instead of its own.
        name: what the model is called.
        created: when the server was started, in seconds since 1970.
        failure: why the model could not be loaded; "" otherwise.
    """

    def __init__(
        self,
        open_model: Callable[[], Model],
        settings: Settings,
        name: str,
        open_voice: Callable[[], Voice] | None = None,
    ) -> None:
        """`open_model` is called once, in a thread of its own; `open_voice` for every session that speaks."""
        self.open_voice = open_voice
        self.page: dict[str, Any] = {}
        if settings.memory_limit is not None:  # as many speak and send recordings as get answers
            few = {name: min(getattr(settings, name), settings.parallel) for name in ("recordings", "listeners")}
            settings = dataclasses.replace(settings, **few)
        self.settings, self.name = settings, name
        self.metrics, self.bodies = Metrics(), Bodies(settings)
        self.created = int(time.time())
        self.failure = ""
        self.context, self.kv = 0, "f16"
        self._open_model = open_model
        self._model: Model | None = None
        self._scheduler: Scheduler | None = None
        self._ears: Ears | None = None
        self._heard: HeardWords | None = None
        self._preparer: Preparer | None = None
        self._workers = concurrent.futures.ThreadPoolExecutor(2, "edge-gemma-requests")
        self._loader: threading.Thread | None = None
        self._stopping = False
        self._ender: threading.Thread | None = None
        self.started = threading.Event()

    # ---- the model ----

    def start(self) -> None:
        """Begins to load the model."""
        self._loader = threading.Thread(target=self._load, name="edge-gemma-loader", daemon=True)
        self._loader.start()
        self.started.set()

    def wait(self) -> None:
        """Waits until the model is loaded. Raises EdgeGemmaError when it cannot be."""
        if self._loader is not None:
            self._loader.join()
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raises EdgeGemmaError if the model could not be loaded."""
        if self.failure:
            raise EdgeGemmaError(self.failure, "file")

    def _load(self) -> None:
        try:
            model = self._open_model()
            self.context, self.kv = self._plan(model)
            preparer = Preparer(model, self.context, self.settings.moves_times)
            with contextlib.suppress(EdgeGemmaError):
                preparer.warm_up()
            folder = self.settings.cache_dir
            disk = None if folder is None else DiskCache(folder, model, self.kv, self.settings.cache_dir_bytes)
            scheduler = Scheduler(model, self.settings, self.metrics, context=self.context, kv=self.kv, disk=disk)
        except Exception as error:
            self.failure = str(error) or type(error).__name__
            return
        self._ears = Ears(model, self.settings, self.kv)
        turns = self.settings.listeners if self.settings.memory_limit is None else _TURNS
        self._heard = HeardWords(scheduler, preparer, model.has_audio, turns)
        self._model, self._preparer, self._scheduler = model, preparer, scheduler

    def _plan(self, model: Model) -> tuple[int, str]:
        """The context and the type of the caches, within the memory limit if there is one."""
        settings, longest = self.settings, model.config.context_length
        wanted = min(settings.context or _CONTEXT, longest)
        if settings.memory_limit is None:
            return wanted, settings.kv or "f16"
        beside = settings.cache_bytes + memory_of_ears(model, settings, settings.kv or "f16")
        limit = MemoryLimit(
            max(settings.memory_limit - beside, 1),
            least=min(_LEAST_CONTEXT, wanted),
            sessions=settings.parallel + (2 * _TURNS if model.has_audio else 0),
            grammar=view_bytes(model.tokenizer),
        )
        plan = fit(model, limit, wanted, settings.kv)
        return plan.context, plan.kv

    @property
    def ready(self) -> bool:
        """Whether requests can be answered."""
        return self._scheduler is not None and not self._stopping

    @property
    def model(self) -> Model:
        """The model. Raises RequestError 503 while it is being loaded."""
        self.check_ready()
        assert self._model is not None
        return self._model

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, also for the ends of answers while the server is stopped. Raises as `model`."""
        if self._model is None:
            self.check_ready()
        assert self._model is not None
        return self._model.tokenizer

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler. Raises as `model`."""
        self.check_ready()
        assert self._scheduler is not None
        return self._scheduler

    @property
    def preparer(self) -> Preparer:
        """What writes prompts. Raises as `model`."""
        self.check_ready()
        assert self._preparer is not None
        return self._preparer

    @property
    def ears(self) -> Ears:
        """What hears. Raises as `model`."""
        self.check_ready()
        assert self._ears is not None
        return self._ears

    @property
    def heard(self) -> HeardWords:
        """What was said lately. Raises as `model`."""
        self.check_ready()
        assert self._heard is not None
        return self._heard

    def check_ready(self) -> None:
        """Raises RequestError 503 while the model is being loaded, or the server is being stopped."""
        if self._stopping:
            raise RequestError(503, "The server is being stopped.")
        if self.failure:
            raise RequestError(503, "The model could not be loaded.", retry_after=60)
        if self._scheduler is None:
            raise RequestError(503, "The model is being loaded. Try again in a few seconds.")

    def begin_stop(self) -> None:
        """New requests are refused. Answers under way come to their end, or are ended after a while. Returns at once."""
        if not self._stopping:
            self._stopping = True
            self._ender = threading.Thread(target=self._end_answers, name="edge-gemma-end")
            self._ender.start()

    def _end_answers(self) -> None:
        if self._loader is not None:
            self._loader.join()
        if self._scheduler is not None:
            self._scheduler.close(self.settings.stop_seconds)
        if self._ears is not None:
            self._ears.close()

    def stop(self) -> None:
        """As `begin_stop`, waits for that, and closes everything."""
        self.begin_stop()
        if self._ender is not None:
            self._ender.join()
        self._workers.shutdown()
        if self._model is not None:
            self._model.close()

    # ---- work ----

    async def work(self, function: Callable[..., _T], *args: object) -> _T:
        """Runs a function that takes a while, in one of few threads. Exceptions become RequestErrors."""
        self.check_ready()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._workers, function, *args)
        except Exception as error:
            failure = request_error(error)
            if failure.status == 500:
                self.metrics.count_failure(error)
            raise failure from error

    async def answers(self, request: ChatRequest) -> list[Answer]:
        """Begins to answer: `request.n` answers. Raises RequestError."""
        prepared = await self.work(self.preparer.prepare, self.heard.joined(request))
        return self.begin(prepared)

    def begin(self, prepared: Prepared) -> list[Answer]:
        """As `answers`, for a prompt that is written."""
        loop = asyncio.get_running_loop()
        first = Job(prepared, Mailbox(loop))
        jobs = [first]
        jobs += [Job(prepared, Mailbox(loop), number=k, original=first) for k in range(1, prepared.request.n)]
        scheduler = self.scheduler
        scheduler.submit(jobs)
        return [Answer(job, scheduler) for job in jobs]

    @staticmethod
    async def complete(answers: Sequence[Answer]) -> list[Ended]:
        """Waits for the ends of answers. Raises RequestError when one failed; the others are ended then."""
        try:
            return list(await asyncio.gather(*(answer.complete() for answer in answers)))
        finally:
            for answer in answers:
                answer.cancel()
