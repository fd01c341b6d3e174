"""Rendering of chat templates: the Jinja text that a GGUF file carries, and our own for files without one.

Owns the sandbox, its limits and the cache of compiled templates. Knows nothing of tokens, sessions or replies. The
environment has what chat templates commonly use: trimmed blocks, loop controls, `tojson` without HTML escapes,
`raise_exception`, `strftime_now` and `{% generation %}` blocks. Templates come from downloaded files and are not trusted: they
run in a sandbox, on plain data, with limits on work and output.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from ..errors import EdgeGemmaValueError
from .tools import as_schema

__all__ = ["BUILTIN_TEMPLATE", "render_chat"]

BUILTIN_TEMPLATE: str = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")
"""The Jinja text of Gemma 4's current prompt format, for files without a template of their own."""

MAX_OUTPUT = 64 << 20  # characters of one rendering: far more than any context has, and far less than any memory
MAX_WORK = 20_000_000  # calls and range items of one rendering; a long conversation needs thousands
MAX_PRODUCT = 1 << 20  # the length of a repeated string or list; templates only pad with repeated characters

SPECIAL_TEXTS = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}


class _Budget(threading.local):
    """The work that is left to the rendering in this thread."""

    left = MAX_WORK

    def spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise jinja2.exceptions.SecurityError("the template does not end")


_budget = _Budget()


def _counted_range(*args: int) -> range:
    numbers = jinja2.sandbox.safe_range(*args)
    _budget.spend(len(numbers))
    return numbers


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox, with limits on operations whose results can be enormous."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for items, times in ((left, right), (right, left)):
                if (
                    isinstance(items, (str, list, tuple))
                    and isinstance(times, int)
                    and len(items) * times > MAX_PRODUCT
                ):
                    raise jinja2.exceptions.SecurityError("the template repeats something too often")
        if operator == "+" and isinstance(left, str) and isinstance(right, str) and len(left) + len(right) > MAX_OUTPUT:
            raise jinja2.exceptions.SecurityError("the template builds an enormous string")
        if operator == "**" and isinstance(right, int) and abs(right) > 64:
            raise jinja2.exceptions.SecurityError("the template raises to a power above 64")
        if operator == "%" and isinstance(left, str) and any(len(d) > 6 for d in _digit_runs(left)):
            raise jinja2.exceptions.SecurityError("the template formats with an enormous width")
        return super().call_binop(context, operator, left, right)

    def call(self, context: jinja2.runtime.Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        _budget.spend(1)
        return super().call(context, obj, *args, **kwargs)


def _digit_runs(text: str) -> list[str]:
    return "".join(c if c.isdigit() else " " for c in text).split()


class _GenerationBlocks(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}`, which marks the model's words for training. Here the body is just printed."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@functools.cache
def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "range": _counted_range,
    }
    return environment


@functools.lru_cache(maxsize=16)
def _compiled(template: str) -> jinja2.Template:
    try:
        return _environment().from_string(template)
    except jinja2.TemplateSyntaxError as error:
        message = f"The chat template is not valid Jinja: line {error.lineno}: {_sentence(error.message)}"
        raise EdgeGemmaValueError(message, code="template") from error
    except (RecursionError, MemoryError, OverflowError, SyntaxError, ValueError) as error:
        raise EdgeGemmaValueError(
            f"The chat template cannot be compiled: {_sentence(error)}", code="template"
        ) from error


def _sentence(words: object) -> str:
    """Foreign words as the end of a sentence."""
    return f"{str(words).rstrip('.')}."


def _data(value: Any) -> Any:
    """A copy of `value` in plain data, so that a template never gets an object with methods of its own."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {_data(key): _data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_data, value)) if type(value) in (list, tuple) else [_data(item) for item in value]
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, jinja2.Undefined):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _data(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        return _data(value.item())
    # Samples and pictures: templates test whether they exist, and never read them.
    return f"<{type(value).__name__}>"


def render_chat(
    messages: Sequence[Mapping[str, Any]],
    template: str | None,
    tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
    add_generation_prompt: bool = True,
    **options: Any,
) -> str:
    """Renders a conversation with a chat template: the text that the model reads.

    Args:
        messages: the conversation; each message is a mapping with "role" and "content" (a string or a list of parts), and
            whatever else the template understands. They reach the template unchanged.
        template: Jinja text, usually `Tokenizer.chat_template`; None for `BUILTIN_TEMPLATE`.
        tools: JSON schemas, which reach the template unchanged, or Python functions, which are described by a schema.
        add_generation_prompt: end with the opening of the model's turn.
        options: further variables of the template, such as `enable_thinking=True`; they may also replace `bos_token`.

    Returns:
        The prompt. It begins with "<bos>" if the template writes `bos_token`.

    Raises:
        EdgeGemmaValueError: "template" when the template is not valid, refuses the conversation (`raise_exception`), fails
            on it, or exceeds the limits.
    """
    compiled = _compiled(BUILTIN_TEMPLATE if template is None else template)
    variables = {**SPECIAL_TEXTS, **{key: _data(value) for key, value in options.items()}}
    variables["messages"] = [_data(message) for message in messages]
    variables["tools"] = None if tools is None else [_data(as_schema(tool)) for tool in tools]
    variables["add_generation_prompt"] = add_generation_prompt
    variables.setdefault("documents", None)

    _budget.left = MAX_WORK
    pieces: list[str] = []
    length = 0
    try:
        for piece in compiled.generate(variables):
            pieces.append(piece)
            length += len(piece)
            if length > MAX_OUTPUT:
                raise jinja2.exceptions.SecurityError(f"it writes more than {MAX_OUTPUT} characters")
    except jinja2.exceptions.SecurityError as error:
        raise EdgeGemmaValueError(f"The chat template was stopped: {_sentence(error)}", code="template") from error
    except jinja2.TemplateError as error:
        raise EdgeGemmaValueError(
            f"The chat template refuses this conversation: {_sentence(error)}", code="template"
        ) from error
    except RecursionError as error:
        raise EdgeGemmaValueError("The chat template nests too deeply.", code="template") from error
    except Exception as error:  # a template is foreign code and may raise anything
        message = f"The chat template fails on this conversation: {type(error).__name__}: {_sentence(error)}"
        raise EdgeGemmaValueError(message, code="template") from error
    return "".join(pieces)
