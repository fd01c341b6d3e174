"""Rendering of chat templates: the Jinja text that a GGUF file carries, and our own for files without one.

Owns the sandbox, its limits and the compiled-template cache. Knows nothing of tokens, sessions or replies. The environment
offers what chat templates are commonly written against: trimmed blocks, loop controls, `tojson` without HTML escapes,
`raise_exception`, `strftime_now` and `{% generation %}` blocks. Templates come from downloaded files and are not
trusted: they run sandboxed, on plain data, within a budget of work and output.
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
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from ..errors import EdgeGemmaValueError
from .tools import as_schema

__all__ = ["BUILTIN_TEMPLATE", "render_chat"]

BUILTIN_TEMPLATE: str = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")
"""Jinja text of Gemma 4's current prompt format, used for files that have no template."""

MAX_OUTPUT = 64 << 20  # characters of one rendering: far above any context, far below any memory
MAX_WORK = 20_000_000  # calls and range items of one rendering; a long conversation takes thousands
MAX_PRODUCT = 1 << 20  # length of a repeated string or list, digits of a number: templates pad, they do not fill

SPECIAL_TEXTS = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}


class _Budget(threading.local):
    """Work left to the rendering that runs in this thread."""

    left = MAX_WORK

    def spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise jinja2.sandbox.SecurityError("the template does not come to an end")


_budget = _Budget()


def _counted_range(*args: int) -> range:
    numbers = jinja2.sandbox.safe_range(*args)
    _budget.spend(len(numbers))
    return numbers


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox, with the operations that can blow up bounded."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for items, times in ((left, right), (right, left)):
                if (
                    isinstance(items, (str, list, tuple))
                    and isinstance(times, int)
                    and len(items) * times > MAX_PRODUCT
                ):
                    raise jinja2.sandbox.SecurityError("the template repeats something too often")
        if operator == "+" and isinstance(left, str) and isinstance(right, str) and len(left) + len(right) > MAX_OUTPUT:
            raise jinja2.sandbox.SecurityError("the template builds an enormous string")
        if operator == "**" and isinstance(right, int) and abs(right) > 64:
            raise jinja2.sandbox.SecurityError("the template raises to a power above 64")
        if operator == "%" and isinstance(left, str) and any(len(d) > 6 for d in _digit_runs(left)):
            raise jinja2.sandbox.SecurityError("the template formats with an enormous width")
        return super().call_binop(context, operator, left, right)

    def call(self, context: jinja2.runtime.Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        _budget.spend(1)
        return super().call(context, obj, *args, **kwargs)


def _digit_runs(text: str) -> list[str]:
    return "".join(c if c.isdigit() else " " for c in text).split()


class _GenerationBlocks(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks the model's words for training: here its body is simply printed."""

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
        message = f"the chat template is not valid Jinja: line {error.lineno}: {error.message}"
        raise EdgeGemmaValueError(message, code="template") from error
    except (RecursionError, MemoryError, OverflowError, SyntaxError, ValueError) as error:
        raise EdgeGemmaValueError(f"the chat template can not be compiled: {error}", code="template") from error


def _plain(value: Any) -> Any:
    """Rebuilds `value` of plain data, so that a template never holds an object with methods of its own."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else [_plain(item) for item in value]
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, jinja2.Undefined):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        return _plain(value.item())
    # Samples and pictures: templates look whether they are there, never into them.
    return f"<{type(value).__name__}>"


def render_chat(
    messages: Sequence[Mapping[str, Any]],
    template: str | None,
    tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
    add_generation_prompt: bool = True,
    **options: Any,
) -> str:
    """Renders a conversation to the text that the model reads, by the file's own template.

    Args:
        messages: the conversation; each message a mapping with "role" and "content" (a string or a list of parts), and
            whatever else the template understands. Passed through as they are.
        template: Jinja text, usually `Tokenizer.chat_template`; None for `BUILTIN_TEMPLATE`.
        tools: JSON schemas, passed through as they are, or Python functions, of which a schema is made.
        add_generation_prompt: end with the opening of the model's turn.
        options: further variables of the template, such as `enable_thinking=True`; they may also replace `bos_token`.

    Returns:
        The prompt. It begins with "<bos>" where the template writes `bos_token`.

    Raises:
        EdgeGemmaValueError: with code "template" when the template is not valid, refuses the conversation
            (`raise_exception`), fails on it, or exceeds the limits.
    """
    compiled = _compiled(BUILTIN_TEMPLATE if template is None else template)
    variables = {**SPECIAL_TEXTS, **{key: _plain(value) for key, value in options.items()}}
    variables["messages"] = [_plain(message) for message in messages]
    variables["tools"] = None if tools is None else [_plain(as_schema(tool)) for tool in tools]
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
                raise jinja2.sandbox.SecurityError(f"it writes more than {MAX_OUTPUT} characters")
    except jinja2.sandbox.SecurityError as error:
        raise EdgeGemmaValueError(f"the chat template was stopped: {error}", code="template") from error
    except jinja2.TemplateError as error:
        raise EdgeGemmaValueError(f"the chat template refuses this conversation: {error}", code="template") from error
    except RecursionError as error:
        raise EdgeGemmaValueError("the chat template nests too deeply", code="template") from error
    except Exception as error:  # a template is foreign code: any exception may come out of it
        message = f"the chat template fails on this conversation: {type(error).__name__}: {error}"
        raise EdgeGemmaValueError(message, code="template") from error
    return "".join(pieces)
