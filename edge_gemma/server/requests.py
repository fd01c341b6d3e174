"""`ChatRequest`: what every interface makes of its requests; and `Preparer`, which makes a prompt of it.

Owns what real clients' conversations need before chat/ takes them: instructions in several messages, two messages of one
role in a row, calls without ids, results without names, arguments as text. The prompt itself, tokens, forms and stop
markers are those of chat/ (`Prompt`, `ReplyForm`). Runs in worker threads; knows neither HTTP nor sessions.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ..chat.attachments import check_senses
from ..chat.call_grammar import CALL, call_grammar
from ..chat.calls import ToolCall
from ..chat.prompt import Media, Prompt, Unit
from ..chat.reply_grammar import ReplyForm
from ..chat.structured import Grammar
from ..chat.tools import Toolbox
from ..chat.vocabulary import can_constrain
from ..engine.interface import Form, ModelLike
from ..engine.sampling import Sampling
from ..errors import EdgeGemmaError
from .failures import RequestError
from .volatile import is_billing, move_to_end, without_times

__all__ = ["ChatRequest", "Prepared", "Preparer"]

_T = TypeVar("_T")
_LONGEST_PIECE = 128  # characters of a token; the longest of Gemma has 31
_PROMPTS, _FORMS = 16, 64  # that are kept for the next request


@dataclasses.dataclass(kw_only=True)
class ChatRequest:
    """A request for an answer.

    Attributes:
        messages: {"role": system, developer, user, assistant, tool; "content"; "tool_calls"; "tool_call_id"; "name";
            "reasoning_content"}. Parts of a content are those of `Prompt.conversation`, with arrays.
        text: instead of messages, a text that is continued as it is.
        tools: schemas, in any form that `tool_schema` knows.
        tool_choice: auto, none, required, or the name of a tool.
        parallel_calls: whether an answer may have several calls.
        thinking: whether the model thinks first.
        schema: the answer is JSON that this schema allows; None for free text.
        sampling, seed, max_tokens, stop, logprobs: as in `Session.generate`; `logprobs` None for none.
        n: how many answers.
        streamed: whether somebody waits for every word.
        hint: what conversation this belongs to, by a header or field; "" if nothing tells.
    """

    messages: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    text: str | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str = "auto"
    parallel_calls: bool = True
    thinking: bool = False
    schema: Mapping[str, Any] | bool | None = None
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    seed: int | None = None
    max_tokens: int | None = None
    stop: Sequence[str] = ()
    logprobs: int | None = None
    n: int = 1
    streamed: bool = False
    hint: str = ""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A request as the scheduler takes it.

    Attributes:
        request: where it comes from.
        prompt: that wrote `units`; reads the reply.
        units: the whole prompt.
        tokens: how many tokens it takes, soft ones included.
        marks: places in `units` where timelines are worth keeping: the end of instructions and tools.
        form: what the reply keeps to.
        sampling: how it is drawn.
        max_tokens: the most tokens of the reply.
        check_call: of calls that are whole: as in `ReplyParser`.
    """

    request: ChatRequest
    prompt: Prompt
    units: Sequence[Unit]
    tokens: int
    marks: Sequence[int]
    form: Form | None
    sampling: Sampling
    max_tokens: int
    check_call: Callable[[ToolCall], ToolCall] = lambda call: call


@dataclasses.dataclass(frozen=True)
class _Written:
    """What requests with the same tools share: what writes their prompts, the grammar of calls, the tools."""

    prompt: Prompt
    calls: Form | None
    tools: Toolbox


class Preparer:
    """Makes prompts for one model. Any thread; one prompt at a time."""

    def __init__(self, model: ModelLike, context: int, moves_times: bool = True) -> None:
        """`context`: the tokens of a timeline; `moves_times`: whether lines with the time move to where they cost little."""
        self._model, self._context, self._moves_times = model, context, moves_times
        self._lock = threading.Lock()
        self._prompts: OrderedDict[str, _Written] = OrderedDict()
        self._forms: OrderedDict[str, Form] = OrderedDict()

    def prepare(self, request: ChatRequest) -> Prepared:
        """The prompt of a request. Raises RequestError and EdgeGemmaError."""
        self._check_size(request)
        with self._lock:
            written = self._prompt_of(request)
            prompt = written.prompt
            units, marks = self._units(request, prompt)
            tokens = sum(1 if not isinstance(unit, Media) else self._size(unit) for unit in units)
            room = self._context - tokens
            if room < 1:
                raise self._too_long(tokens, marks)
            form, sampling = self._form_of(request, prompt, written.calls, units)
            limit = room if request.max_tokens is None else min(request.max_tokens, room)
            prepared = Prepared(request, prompt, units, tokens, marks, form, sampling, limit)
            return dataclasses.replace(prepared, check_call=written.tools.checked) if written.calls else prepared

    def count(self, request: ChatRequest) -> int:
        """The tokens of a request, however long it is. Raises as `prepare`."""
        with self._lock:
            units, _ = self._units(request, self._prompt_of(request).prompt)
            return sum(1 if not isinstance(unit, Media) else self._size(unit) for unit in units)

    def warm_up(self) -> None:
        """Does what the first answer of a form would have to wait for: the vocabulary is read for grammars."""
        if can_constrain():
            Grammar.json_schema({"type": "object"}).start(self._model.tokenizer)

    # ---- prompts ----

    def _prompt_of(self, request: ChatRequest) -> _Written:
        """What writes the prompt. Kept, so that a model's spellings are known later."""
        key = json.dumps([request.tools, request.thinking])

        def make() -> _Written:
            tools = _toolbox(request.tools)
            prompt = Prompt(
                self._model.tokenizer,
                self._model.tokenizer.chat_template,
                tools.schemas,
                {"enable_thinking": request.thinking},
            )
            return _Written(prompt, _calls_of(tools.schemas, self._model), tools)

        return _kept(self._prompts, key, _PROMPTS, make)

    def _units(self, request: ChatRequest, prompt: Prompt) -> tuple[list[Unit], list[int]]:
        if request.text is not None:
            units: list[Unit] = list(self._model.tokenizer.encode(request.text, bos=True))
            return units, []
        messages = _conversation(request.messages, self._moves_times)
        try:
            check_senses(self._model, messages)
        except EdgeGemmaError:  # which says how a model is opened
            sense = (
                "hear sound" if self._model.has_vision else "see pictures" if self._model.has_audio else "see or hear"
            )
            raise RequestError(400, f"This model cannot {sense}.", code="unsupported") from None
        units = prompt.conversation(messages)
        return units, _ends_of_instructions(units, prompt)

    def _check_size(self, request: ChatRequest) -> None:
        """Refuses what cannot fit before it is read: a message takes a token at least, and so does a piece of text."""
        texts = [request.text or "", *(_text_of(message.get("content")) for message in request.messages)]
        least = max(len(request.messages), sum(map(len, texts)) // _LONGEST_PIECE)
        if least >= self._context:
            raise self._too_long(least, (), "at least ")

    def _too_long(self, tokens: int, marks: Sequence[int], about: str = "") -> RequestError:
        """The error; it may be spoken to a user, who can do more about a conversation than about the tools of a program."""
        room = self._context - 1
        if any(mark > room for mark in marks):
            what = "The program's instructions and tools are too long. With the conversation they have"
            then = "Switch off some of the tools"
        else:
            what, then = "The conversation is too long. It has", "Begin a new one"
        text = f"{what} {about}{tokens} tokens, and there is room for {room}. {then}."
        return RequestError(400, text, code="context_length_exceeded")

    def _size(self, media: Media) -> int:
        if media.kind == "image":
            height, width = media.data.shape[:2]
            return self._model.image_tokens(width, height, media.budget) + 2
        return self._model.audio_tokens(media.data.size) + 2

    # ---- forms ----

    def _form_of(
        self, request: ChatRequest, prompt: Prompt, calls: Form | None, units: Sequence[Unit]
    ) -> tuple[Form | None, Sampling]:
        sampling, choice = request.sampling, request.tool_choice if request.tools else "none"
        answer = None if request.schema is None else self._schema_form(request.schema)
        if choice == "none":
            calls = None
            if (token := prompt.token(CALL)) is not None and request.text is None:
                sampling = dataclasses.replace(sampling, suppress=(*sampling.suppress, token))
        elif choice not in ("auto", "required"):
            named = [tool for tool in _toolbox(request.tools).schemas if tool["function"]["name"] == choice]
            if not named:
                raise RequestError(400, f"There is no tool {choice}.", param="tool_choice")
            calls = _calls_of(named, self._model)
        must = choice not in ("auto", "none")
        most = None if request.parallel_calls and choice in ("auto", "required") else 1
        if answer is None and calls is None and not must and (most is None or choice == "none"):
            return None, sampling
        form = ReplyForm(
            calls,
            answer,
            thinking=request.thinking,
            in_thought=prompt.in_thought(units),
            must_call=must,
            most_calls=None if choice == "none" else most,
        )
        return form, sampling

    def _schema_form(self, schema: Mapping[str, Any] | bool) -> Form:
        return _kept(self._forms, json.dumps(["schema", schema]), _FORMS, lambda: Grammar.json_schema(schema))


def _kept(store: OrderedDict[str, _T], key: str, most: int, make: Callable[[], _T]) -> _T:
    """The entry of a key, made if it is not there; the one that was used last stays longest."""
    if key not in store:
        store[key] = make()
    store.move_to_end(key)
    while len(store) > most:
        store.popitem(last=False)
    return store[key]


def _toolbox(tools: Sequence[Mapping[str, Any]]) -> Toolbox:
    """The declarations. What a schema has that the model will not see is not told: nothing of a request is written anywhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Toolbox(tools)


def _calls_of(schemas: Sequence[Mapping[str, Any]], model: ModelLike) -> Form | None:
    """The grammar of calls; None where calls are free."""
    if not schemas or not can_constrain():
        return None
    try:
        return call_grammar(schemas, model.tokenizer)
    except EdgeGemmaError:  # declarations that no grammar can hold
        return None


def _ends_of_instructions(units: Sequence[Unit], prompt: Prompt) -> list[int]:
    """Where instructions and tools end: at the second turn, if the first one is not the user's or the model's."""
    turn = prompt.token("<|turn>")
    starts = [at for at, unit in enumerate(units) if unit == turn]
    if len(starts) < 2:
        return []
    head = prompt.tokenizer.decode([unit for unit in units[starts[0] + 1 : starts[0] + 4] if isinstance(unit, int)])
    return [starts[1]] if head.lstrip().startswith(("system", "developer")) else []


# ---- conversations ---------------------------------------------------------------------------------------------------


def _conversation(given: Sequence[Mapping[str, Any]], moves_times: bool) -> list[dict[str, Any]]:
    """Messages as `Prompt.conversation` takes them: instructions first and in one message, no two turns of one role in a
    row, calls with ids and results with names."""
    instructions: list[str] = []
    messages: list[dict[str, Any]] = []
    for message in given:
        if message["role"] in ("system", "developer"):
            text = _text_of(message.get("content"))
            if is_billing(text):
                continue
            if not messages:
                instructions += [text] if text.strip() else []
                continue
            message = {"role": "user", "content": text}  # templates have one place for instructions
        last = messages[-1] if messages else {}
        if message["role"] == last.get("role") and not last.get("tool_calls") and message["role"] != "tool":
            messages[-1] = _joined(last, message)
        else:
            messages.append(dict(message))
    if not messages and instructions:
        messages, instructions = [{"role": "user", "content": "\n\n".join(instructions)}], []
    if not messages:
        raise RequestError(400, "There is no message to answer.", param="messages")
    _name_calls(messages)
    system = "\n\n".join(instructions)
    if moves_times:
        system, times = without_times(system)
        move_to_end(messages, times)
    if messages[0]["role"] != "user":
        messages.insert(0, {"role": "user", "content": ""})
    return [*([{"role": "system", "content": system}] if system else []), *messages]


def _text_of(content: Any) -> str:
    """The text of a content, given as one or in parts."""
    if isinstance(content, str):
        return content
    texts = [part.get("text", "") for part in content or () if part.get("type") == "text"]
    return "\n\n".join(text for text in texts if not is_billing(text))


def _parts_of(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())


def _joined(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Two messages of one role as one."""
    one, two = first.get("content") or "", second.get("content") or ""
    if isinstance(one, str) and isinstance(two, str):
        content: Any = f"{one}\n\n{two}" if one and two else one or two
    else:
        content = [*_parts_of(one), {"type": "text", "text": "\n\n"}, *_parts_of(two)]
    return {**first, **second, "content": content}


def _name_calls(messages: Sequence[dict[str, Any]]) -> None:
    """Gives calls ids, and results the ids and names of their calls; some clients leave them out."""
    waiting: list[tuple[str, str]] = []  # id and name of calls without a result
    for at, message in enumerate(messages):
        if message["role"] == "assistant":
            calls = [dict(call) for call in message.get("tool_calls") or ()]
            waiting = []
            for number, call in enumerate(calls):
                call["id"] = call.get("id") or f"call_{at}_{number}"
                waiting.append((call["id"], call["function"]["name"]))
            if calls:
                message["tool_calls"] = calls
        elif message["role"] == "tool":
            wanted = message.get("tool_call_id")
            found = next((pair for pair in waiting if pair[0] == wanted), None)
            if found is None and message.get("name"):
                found = next((pair for pair in waiting if pair[1] == message["name"]), None)
            if found is None and not wanted and waiting:
                found = waiting[0]
            if found is not None:
                waiting.remove(found)
                message["tool_call_id"], message["name"] = found
            message["content"] = _result_of(_text_of(message.get("content")))


def _result_of(text: str) -> Any:
    """The result of a tool: an object or list where the text is one, as the tools of a chat return them."""
    if text.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text
