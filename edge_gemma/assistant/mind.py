"""`Mind`: the conversation of an assistant, in a thread of its own.

Owns the chat, its history and the session that has read the instructions. The words of the transcript are what the model
reads, so a call is made from what is shown. An answer may be begun before it is certain that the words are all: its text comes,
but no tool runs before `commit`. The listener's sessions have a higher priority, so hearing goes on meanwhile.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from ..chat.calls import ToolCall, plain_data
from ..chat.conversation import Chat
from ..chat.prompt import Prompt
from ..engine.interface import ModelLike, SessionLike
from ..engine.sampling import Sampling
from ..errors import EdgeGemmaError
from .asking import yes_or_no
from .interface import AssistantToolbox
from .phrases import failure, language_of, phrase

__all__ = ["Mind", "MindEvent", "Thought"]

_FULL = 0.7  # of the context: more of a conversation is forgotten, oldest first
_KEPT = 0.4  # of the context, that is kept then


@dataclass(eq=False)
class Thought:
    """An answer that is asked for.

    Attributes:
        text: what was said to the assistant.
        confidence: the probability of that; None when it was not measured.
    """

    text: str
    confidence: float | None = None
    over: bool = False  # whether nothing more of it is made
    sure: bool = False  # whether the words are all, so that tools may run
    dropped: bool = False  # nothing of it is to stay
    stopped: bool = False  # no more of it is to be made
    heard: str = ""  # of a stopped one: what was heard of the reply
    mark: int = 0  # messages of the history before it
    carried: str = ""  # words of an earlier turn that got no answer


@dataclass(frozen=True)
class MindEvent:
    """Something that happens to a thought.

    Attributes:
        kind: "token", the first token is known; "text", more of the reply; "call", a tool is about to run; "result", it has
            returned; "question", a call is asked back, and `text` is the question; "done", the thought is over; "failed", it
            broke off, and `text` says why.
        thought: which one.
        text: of text, question, failed.
        call, result: of call and result.
        stats: of done, those of `Chat`.
    """

    kind: Literal["token", "text", "call", "result", "question", "done", "failed"]
    thought: Thought
    text: str = ""
    call: ToolCall | None = None
    result: Any = None
    stats: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Question:
    """Calls that were asked back.

    Attributes:
        text: the question.
        calls: what a yes makes.
        words: that they were made of.
        turn: the messages since these words, without the question.
        later: what is asked after that, whatever the answer is: questions with their calls.
        made: whether other calls of the same words were made.
    """

    text: str
    calls: list[ToolCall]
    words: str
    turn: list[dict[str, Any]]
    later: list[tuple[str, list[ToolCall]]]
    made: bool


class Mind:
    """Thinks. Any thread may use it; events come from its own thread."""

    def __init__(
        self,
        model: ModelLike,
        instructions: Callable[[], str],
        tools: AssistantToolbox,
        *,
        on_event: Callable[[MindEvent], None],
        context: int | None = None,
        kv: str | None = None,
        sampling: Sampling | None = None,
        max_tokens: int = 400,
        remembers: bool = True,
        wait_while: Callable[[], bool] = lambda: False,
        language: str | None = None,
    ) -> None:
        """Opens a session and reads the instructions and the tools.

        Args:
            model: an open model.
            instructions: what the model is told at the beginning of a conversation.
            tools: what it may call.
            on_event: called with what happens.
            context, kv: as in `Model.session`; None for 4096 tokens, or as many as the model takes.
            sampling: how tokens are drawn; None for the defaults of `Sampling`.
            max_tokens: the most tokens of a reply.
            remembers: whether a conversation has more than one turn.
            language: the code of the language of what is said without the model; None for that of the words.
            wait_while: while it is true, no more of a reply is made: enough waits to be spoken.

        Raises:
            EdgeGemmaError: as `Chat` does.
        """
        self._instructions, self._tools, self._on_event, self._wait_while = instructions, tools, on_event, wait_while
        self._remembers, self._language = remembers, language
        self._asked: _Question | None = None  # what the last reply has asked
        context = context or min(4096, model.config.context_length)
        self._open_chat = functools.partial(
            Chat, model, context=context, kv=kv, sampling=sampling, max_tokens=max_tokens
        )
        self._model = model
        self._chat, self._prompt, self._root = self._opened()
        self._state = threading.Condition()  # guards what follows
        self._jobs: deque[Thought | Callable[[], None]] = deque()
        self._current: Thought | None = None
        self._ahead = ""  # words that are being said, to be read before they are all
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="edge_gemma-mind", daemon=True)
        self._thread.start()

    # ---- any thread ----

    def begin(self, text: str) -> Thought:
        """Begins to answer, before it is certain that the words are all."""
        thought = Thought(text)
        with self._state:
            self._ahead = ""
            self._jobs.append(thought)
            self._state.notify_all()
        return thought

    def commit(self, thought: Thought, confidence: float | None) -> None:
        """The words are all: tools may run."""
        with self._state:
            thought.confidence, thought.sure = confidence, True
            self._state.notify_all()

    def drop(self, thought: Thought) -> None:
        """The words were not all: nothing of the thought stays."""
        self._end(thought, dropped=True)

    def stop(self, thought: Thought, heard: str) -> None:
        """Stops the thought. The history keeps what was heard of the reply."""
        self._end(thought, heard=heard)

    def _end(self, thought: Thought, *, dropped: bool = False, heard: str = "") -> None:
        with self._state:
            thought.dropped, thought.stopped, thought.heard = dropped or thought.dropped, True, heard
            if self._current is thought:
                self._chat.cancel()
                self._tools.cancel()
            else:  # it is over: only its reply in the history is cut
                self._jobs.append(lambda: self._cut(thought))
            self._state.notify_all()

    def read_ahead(self, words: str) -> None:
        """The next request seems to begin with these words: they are read while it is spoken."""
        with self._state:
            self._ahead = words
            self._state.notify_all()

    def forget(self) -> None:
        """The next request begins a new conversation."""
        with self._state:
            self._jobs.append(self._forget_all)
            self._state.notify_all()

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do."""
        with self._state:
            return not self._jobs and self._current is None

    def close(self) -> None:
        """Stops, and frees the sessions. Further calls do nothing."""
        with self._state:
            self._closed = True
            if self._current:
                self._current.stopped = True
                self._chat.cancel()
            self._state.notify_all()
        self._thread.join()
        self._chat.close()
        self._root.close()

    # ---- its thread ----

    def _run(self) -> None:
        while True:
            with self._state:
                while not (self._jobs or self._ahead or self._closed):
                    self._state.wait()
                if self._closed:
                    return
                job = self._jobs.popleft() if self._jobs else None
                ahead, self._ahead = self._ahead, ""
                if isinstance(job, Thought):
                    self._current = job
            try:
                if isinstance(job, Thought):
                    self._think(job)
                elif job:
                    job()
                elif ahead:
                    history = [*self._chat.history, {"role": "user", "content": ahead}]
                    self._chat.session.sync(_prefix(self._prompt, self._chat.system, history))
            except EdgeGemmaError as error:
                if isinstance(job, Thought):
                    self._fail(job, str(error))
                if error.code == "context":
                    self._forget()
            if isinstance(job, Thought):
                with self._state:
                    self._current = None
                if job.over and job.stopped:  # it was stopped when there was nothing left to stop
                    self._cut(job)
                with contextlib.suppress(
                    EdgeGemmaError
                ):  # a request to stop that came too late; the next turn reads anew
                    self._tidy()

    def _fail(self, thought: Thought, problem: str) -> None:
        """Tells a failure when the turn is over; a thought that is dropped before has not failed."""
        self._wait(thought, lambda: not thought.sure)
        self._on_event(MindEvent("failed", thought, problem))

    def _think(self, thought: Thought) -> None:
        history = self._chat.history
        if history and history[-1]["role"] == "user":
            thought.carried = str(history.pop()["content"])
        thought.mark = len(history)
        words = f"{thought.carried} {thought.text}".strip()
        if thought.stopped:
            kept = thought.carried if thought.dropped else words
            history.extend([{"role": "user", "content": kept}] if kept else [])
            return
        asked, question = self._asked, None
        stats: dict[str, Any] = {}
        meaning = yes_or_no(thought.text) if asked else None
        if meaning is False and asked and asked.later:
            if self._answered(thought, asked):
                question = self._ask(thought, asked.words, asked.later, made=asked.made)
        elif meaning is False:
            history.append({"role": "user", "content": words})
            left = "left that" if asked and asked.made else "left"
            self._say(thought, phrase(left, self._language or language_of(asked.words if asked else words)))
        elif meaning and asked:
            if self._confirmed(thought, asked):
                if asked.later:
                    question = self._ask(thought, asked.words, asked.later, made=True)
                else:
                    question, stats = self._tell(thought, asked.words, None)
        else:
            question, stats = self._tell(thought, words, words)
        self._wait(thought, lambda: not thought.sure)
        if thought.stopped:
            self._cut(thought)
            return
        self._asked = question
        thought.over = True
        self._on_event(MindEvent("done", thought, stats=stats))

    def _tell(self, thought: Thought, words: str, sent: str | None) -> tuple[_Question | None, dict[str, Any]]:
        """Sends something, and tells the answer to words as it comes.

        Of the calls of a reply, those that need no question are made. The others are asked back, and the answer ends there.

        Returns the question, and the stats of the answer.
        """
        told, said, result = False, False, None
        stats: dict[str, Any] = {}
        asked: list[tuple[str, ToolCall]] = []  # of this reply: questions, and the calls that need them
        answer = self._chat.send(sent, hold=lambda call: any(call is one for _, one in asked))
        with contextlib.closing(answer) as events:  # type: ignore[type-var]
            for event in events:
                if thought.stopped:
                    break
                if not told and event.kind != "done":
                    told = True
                    self._on_event(MindEvent("token", thought))
                if event.kind == "text" and not asked:
                    said = said or bool(event.text.strip())
                    self._on_event(MindEvent("text", thought, event.text))
                    self._wait(thought, self._wait_while)
                elif event.kind == "tool_call" and event.call:
                    self._wait(thought, lambda: not thought.sure)
                    if thought.stopped:
                        break
                    if text := self._tools.needs_asking(event.call, thought.confidence, thought.text):
                        asked.append((text, event.call))
                    else:
                        self._on_event(MindEvent("call", thought, call=event.call))
                elif event.kind == "tool_result":
                    result = event.result
                    self._on_event(MindEvent("result", thought, call=event.call, result=event.result))
                elif event.kind == "done":
                    stats = event.stats or {}
        failed = (failure(result, self._language or language_of(words)) or "") if failure(result, "en") else ""
        if asked and not thought.stopped:
            questions: dict[str, list[ToolCall]] = {}  # calls with the same question are made together
            for text, call in asked:
                questions.setdefault(text, []).append(call)
            return self._ask(thought, words, list(questions.items()), failed, made=result is not None), stats
        if failed and not said and not thought.stopped:  # the model has nothing to say about it
            self._say(thought, failed)
        return None, stats

    def _ask(
        self,
        thought: Thought,
        words: str,
        questions: list[tuple[str, list[ToolCall]]],
        failed: str = "",
        *,
        made: bool,
    ) -> _Question:
        """Asks the first of the questions. `failed`: what is said before; `made`: whether other calls were made."""
        self._drop_reply(thought)
        history = self._chat.history
        begin = max((number for number, message in enumerate(history) if message["role"] == "user"), default=0)
        text = f"{failed} {questions[0][0]}".strip()
        question = _Question(text, questions[0][1], words, history[begin:], questions[1:], made)
        history.append({"role": "assistant", "content": text})
        self._on_event(MindEvent("question", thought, text))
        return question

    def _say(self, thought: Thought, text: str) -> None:
        """A reply that the model does not make."""
        self._chat.history.append({"role": "assistant", "content": text})
        self._on_event(MindEvent("token", thought))
        self._on_event(MindEvent("text", thought, text))

    def _confirmed(self, thought: Thought, asked: _Question) -> bool:
        """Makes the calls that were asked back, since the answer was yes. The history is then as if they had been made at once.

        False when the thought was stopped before that.
        """
        if not self._answered(thought, asked):
            return False
        history = self._chat.history
        for call in asked.calls:
            self._on_event(MindEvent("call", thought, call=call))
            result = plain_data(self._chat.tools.call(call.name, call.arguments))
            thought.mark, number = len(history), f"call_{len(history)}"
            written = {"id": number, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            history += [
                {"role": "assistant", "content": "", "tool_calls": [written]},
                {"role": "tool", "name": call.name, "tool_call_id": number, "content": result},
            ]
            self._on_event(MindEvent("result", thought, call=call, result=result))
            if thought.stopped:
                break
        return True

    def _answered(self, thought: Thought, asked: _Question) -> bool:
        """Takes the question back, whose answer is certain now: the history is as if nobody had asked, with the words that the
        question was about, if they were forgotten.

        False when the thought was stopped before that.
        """
        self._wait(thought, lambda: not thought.sure)
        if thought.stopped:
            return False
        history = self._chat.history
        if history and history[-1] == {"role": "assistant", "content": asked.text}:
            history.pop()
        if not (history and history[-1]["role"] in ("user", "tool")):
            history.extend(asked.turn)
        self._on_event(MindEvent("token", thought))
        return True

    def _wait(self, thought: Thought, condition: Callable[[], bool]) -> None:
        """Waits while the condition holds, unless the thought is stopped."""
        while not (thought.stopped or self._closed) and condition():
            with self._state:
                self._state.wait(0.05)

    # ---- the history ----

    def _cut(self, thought: Thought) -> None:
        """Takes the thought out of the history, or its reply as far as it was not heard."""
        history = self._chat.history
        if thought.mark > len(history):
            return  # forgotten
        if thought.dropped:
            del history[thought.mark :]
            if thought.carried:
                history.append({"role": "user", "content": thought.carried})
            return
        last = history[-1] if len(history) > thought.mark else None
        if last and last["role"] == "assistant" and not last.get("tool_calls"):
            if thought.heard:
                last["content"] = f"{thought.heard} ..."
            else:
                history.pop()

    def _drop_reply(self, thought: Thought) -> None:
        """A question takes the place of what the model has said beside the calls that were not made."""
        history = self._chat.history
        if history and history[-1]["role"] == "assistant" and len(history) > thought.mark:
            history.pop()

    def _opened(self) -> tuple[Chat, Prompt, SessionLike]:
        """A chat that has read instructions and tools, its prompt, and a session that has read no more."""
        system, tools = self._instructions(), list(self._tools.tools)
        chat = self._open_chat(system, tools)
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(chat.close)
            tokenizer = self._model.tokenizer
            prompt = Prompt(tokenizer, tokenizer.chat_template, chat.tools.schemas, {"enable_thinking": False})
            chat.session.sync(_prefix(prompt, system, []))
            root = chat.session.fork()
            on_failure.pop_all()
        return chat, prompt, root

    def _forget_all(self) -> None:
        """The conversation, and the call that was asked back."""
        self._asked = None
        self._forget()

    def _forget(self) -> None:
        """Goes back to the instructions and tools, which are read again only if they have changed."""
        names = [tool.name for tool in self._tools.tools]
        if self._instructions() == self._chat.system and names == [tool.name for tool in self._chat.tools]:
            self._chat.history.clear()
            self._restart()
            return
        opened = self._opened()
        self._chat.close()
        self._root.close()
        self._chat, self._prompt, self._root = opened

    def _restart(self) -> None:
        """The session has read the instructions and nothing else."""
        self._chat.adopt(self._root.fork())

    def _tidy(self) -> None:
        """Forgets the oldest turns of a conversation that fills the context."""
        if not self._remembers:
            self._forget()
            return
        session, history = self._chat.session, self._chat.history
        if session.position <= _FULL * session.context:
            return
        while history and len(_prefix(self._prompt, self._chat.system, history)) > _KEPT * session.context:
            del history[0]
            while history and history[0]["role"] != "user":
                del history[0]
        self._restart()
        self._chat.session.sync(_prefix(self._prompt, self._chat.system, history))


def _messages(system: str | None, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*([{"role": "system", "content": system}] if system else []), *history]


def _prefix(prompt: Prompt, system: str | None, history: list[dict[str, Any]]) -> list[int]:
    """The tokens with which every prompt begins that goes on after this history, or after its last user's words."""
    last = history[-1] if history and history[-1]["role"] == "user" else None
    before = history[:-1] if last else history
    words = f"{last['content']} " if last else ""
    first, second = (
        prompt.conversation(_messages(system, [*before, {"role": "user", "content": words + more}])) for more in "a1"
    )
    same = next((n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))
    return [unit for unit in first[:same] if isinstance(unit, int)]
