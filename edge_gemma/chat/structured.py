"""Structured output: `Grammar`, which limits an answer to a JSON schema, a regular expression or a grammar.

llguidance (the extra `structured`) knows which tokens may follow. Owned here: its limits, and its errors as ours. The masks are
applied by the engine, and only when a token was drawn that may not stand where it was drawn.
"""

from __future__ import annotations

import codecs
import json
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.interface import Form, TokenizerLike
from ..errors import EdgeGemmaError, EdgeGemmaValueError
from .json_schema import readable_schema
from .schema_work import check_work
from .validation import Check, check_of
from .vocabulary import library, prepare, view_of

__all__ = ["Following", "Grammar", "form_of"]

# JSON as json.dumps writes it. Free white space would leave a choice at every place where text is fixed otherwise.
_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_ANYTHING: dict[str, Any] = {}

_LONGEST = 2_000_000  # characters of a grammar, which take about a second
# What leads from one rule to another: lines of Lark, and references of schemas. The stack that llguidance needs was measured.
_LINKS, _MOST_LINKS = ("\n", '"$ref"'), 20_000
_STACK, _STACK_OF_LINK = 16 << 20, 24 << 10
# Work that a grammar may take: about a second to begin with, and some tens of milliseconds for a token.
_LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 5_000_000,
    "step_lexer_fuel": 500_000,
    "step_max_items": 100_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 500_000,
    "verbose_errors": False,
}

_stack_size_lock = threading.Lock()


class Grammar:
    """The form of an answer. Immutable; made once, used for any number of answers of any model.

        city = Grammar.json_schema({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
        session.generate(grammar=city).text

    The first answer of a model waits half a second until its vocabulary is read, unless `prepare` was called before. A chat
    does that by itself. What is read takes 36 MB for Gemma's vocabulary.
    """

    def __init__(self, definition: str, kind: str, schema: Any = None) -> None:
        """Internal: use `json_schema`, `regex` and `lark`. `kind` is what errors call it; `schema`: that answers keep to."""
        self._definition, self._kind, self._schema = definition, kind, schema
        self._matchers: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()  # fresh ones, by tokenizer
        self._compiling = threading.Lock()
        self._check: Check | None = None  # of whole answers; made for the first one

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | bool | str) -> Grammar:
        """JSON that a schema allows (draft 2020-12, as llguidance reads it), written as `json.dumps` does.

        `schema`: a mapping, JSON text, or True for any JSON. Raises EdgeGemmaError "argument" for a schema that is none, or
        uses what cannot be kept while text is generated, such as `uniqueItems`; "unsupported" without llguidance.
        """
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except (ValueError, RecursionError) as error:
                raise EdgeGemmaValueError(f"The schema is no JSON: {error}.", "argument") from None
        if not isinstance(schema, (Mapping, bool)):
            raise EdgeGemmaValueError(f"The schema is {type(schema).__name__}; it must be an object.", "argument")
        if schema is False:
            raise EdgeGemmaValueError("The schema is false, which allows nothing.", "argument")
        plain = _ANYTHING if schema is True else schema
        try:
            check_work(plain)
            text = json.dumps(readable_schema(plain), default=dict)
        except EdgeGemmaError:
            raise
        except (TypeError, ValueError, RecursionError) as error:
            raise EdgeGemmaValueError(f"The schema is no JSON: {error}.", "argument") from None
        matcher = library().LLMatcher
        try:
            definition = matcher.grammar_from_json_schema(text, overrides=_JSON)
        except ValueError as error:  # nested too deeply, or with a number that is too long
            raise EdgeGemmaValueError(f"The schema cannot be used: {_in_one_line(str(error))}.", "argument") from None
        return cls(definition, "schema", plain or None)._checked()

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        """Text that matches a regular expression from its beginning to its end: the syntax of Rust's crate regex, without
        look-around and back-references. Errors as in `json_schema`."""
        if not isinstance(pattern, str):
            raise EdgeGemmaValueError(f"regex is {type(pattern).__name__}; it must be a text.", "argument")
        return cls(library().LLMatcher.grammar_from_regex(pattern), "regular expression")._checked()

    @classmethod
    def lark(cls, text: str) -> Grammar:
        """Text that follows a grammar in llguidance's Lark notation, with the rule `start`. Errors as in `json_schema`."""
        if not isinstance(text, str):
            raise EdgeGemmaValueError(f"grammar is {type(text).__name__}; it must be a text.", "argument")
        return cls(library().LLMatcher.grammar_from_lark(text), "grammar")._checked()

    def prepare(self, tokenizer: TokenizerLike) -> None:
        """Begins, in a thread, what the first answer of a model would wait for otherwise: half a second, once for all grammars
        of a tokenizer. Raises EdgeGemmaError "unsupported" without llguidance."""
        prepare(tokenizer)

    def start(self, tokenizer: TokenizerLike) -> Following:
        """A constraint at the beginning of an answer, for `Session.next`. Raises EdgeGemmaError "argument" for a grammar that
        names tokens which the vocabulary lacks."""
        vocabulary = view_of(tokenizer)
        if (fresh := self._matchers.get(tokenizer)) is None:
            fresh = self._with_room(
                lambda: library().LLMatcher(vocabulary, self._definition, log_level=0, limits=_limits())
            )
            if problem := fresh.get_error():
                raise self._unusable(problem)
            probe = fresh.deep_copy()
            probe.compute_bitmask()  # finds that nothing can follow
            if probe.is_error():
                problem = probe.get_error()
                raise self._unusable("nothing satisfies it" if "NoExtension" in problem else problem)
            self._matchers[tokenizer] = fresh
        return Following(fresh.deep_copy(), vocabulary, None if self._schema is None else self._problem_of)

    def _problem_of(self, answer: bytes) -> str:
        """What is wrong with a whole answer; "" where it keeps to the schema."""
        with self._compiling:
            if self._check is None:
                self._check = check_of(self._schema, formats=False) or (lambda data: "")
        try:
            return self._check(json.loads(answer, parse_float=_finite))
        except (ValueError, RecursionError) as error:
            return str(error)

    def _checked(self) -> Grammar:
        if len(self._definition) > _LONGEST:
            raise self._unusable(f"it has {len(self._definition):,} characters, and {_LONGEST:,} are the most")
        validate = library().LLMatcher.validate_grammar_with_warnings
        failed, messages = self._with_room(lambda: validate(self._definition, None, limits=_limits()))
        if failed:
            raise self._unusable(messages[0])
        return self

    def _with_room(self, call: Callable[[], Any]) -> Any:
        """Calls it in a thread that has room for llguidance's recursion from rule to rule: a stack that is full ends the
        process."""
        links = sum(map(self._definition.count, _LINKS))
        if links > _MOST_LINKS:
            raise self._unusable(f"it has {links:,} rules and references, and {_MOST_LINKS:,} are the most")
        result: Future[Any] = Future()

        def run() -> None:
            try:
                result.set_result(call())
            except BaseException as error:
                result.set_exception(error)

        with _stack_size_lock:
            before = threading.stack_size(_STACK + links * _STACK_OF_LINK)
            try:
                threading.Thread(target=run, name="edge-gemma-grammar").start()
            finally:
                threading.stack_size(before)
        return result.result()

    def _unusable(self, problem: str) -> EdgeGemmaValueError:
        return EdgeGemmaValueError(f"The {self._kind} cannot be used: {_in_one_line(problem)}.", "argument")

    def __repr__(self) -> str:
        """Tells the kind."""
        return f"<Grammar, {self._kind}>"


class Following:
    """An answer on its way through a grammar: a `Constraint`."""

    def __init__(self, matcher: Any, vocabulary: Any, problem_of: Callable[[bytes], str] | None = None) -> None:
        """Internal: use `Grammar.start`. `problem_of`: tells what is wrong with a whole answer."""
        self._matcher, self._vocabulary, self._problem_of = matcher, vocabulary, problem_of
        self._answer: list[bytes] = []
        self._mask = np.zeros((vocabulary.vocab_size + 31) // 32, np.uint32)
        self._ends = frozenset(vocabulary.eos_tokens)
        self._characters = codecs.getincrementaldecoder("utf-8")("ignore")

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""
        return bool(self._matcher.is_accepting())

    def check(self, token: int) -> NDArray[np.uint32] | None:
        """None if the token may come next; else the mask of those that may, valid until the next call."""
        allowed = self.complete if token in self._ends else self._matcher.validate_tokens([token]) == 1
        return None if allowed else self.mask()

    def mask(self) -> NDArray[np.uint32]:
        """Which tokens may come next: a bit for each, in words of 32 bits; valid until the next call. Raises EdgeGemmaError
        "grammar" when that takes more work than is allowed."""
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        self._require()
        return self._mask

    def accept(self, tokens: Sequence[int]) -> None:
        """The answer goes on with these tokens. Raises EdgeGemmaError "grammar" if they cannot stand here, and if they end an
        answer that does not keep to its schema."""
        for token in tokens:
            if token in self._ends:
                self._end()
            if token in self._ends and self._matcher.is_stopped():
                continue
            self._matcher.consume_token(token)
            self._require()
            if token not in self._ends:
                self._answer.append(self._vocabulary.decode_bytes([token]))
                self._characters.decode(self._answer[-1])

    def forced(self) -> list[int]:
        """Tokens without a choice that come next; whole characters only, and no end."""
        if self._characters.getstate()[0] or self._matcher.is_stopped():
            return []
        tokens = [token for token in self._matcher.compute_ff_tokens() if token not in self._ends]
        pending, whole = codecs.getincrementaldecoder("utf-8")("ignore"), 0
        for number, token in enumerate(tokens, 1):
            pending.decode(self._vocabulary.decode_bytes([token]))
            if not pending.getstate()[0]:
                whole = number
        return tokens[:whole]

    def _end(self) -> None:
        """Checks the whole answer, once. A grammar is a little wider than a schema: an object may have a name twice, and then
        has too few members."""
        problem_of, self._problem_of = self._problem_of, None
        if problem_of is not None and (problem := problem_of(b"".join(self._answer))):
            raise EdgeGemmaError(f"The answer does not keep to the schema: {_in_one_line(problem)}.", "grammar")

    def _require(self) -> None:
        if self._matcher.is_error():
            problem = _in_one_line(self._matcher.get_error())
            raise EdgeGemmaError(f"The grammar could not be followed: {problem}.", "grammar")


def form_of(schema: Any = None, regex: str | None = None, grammar: str | Form | None = None) -> Form | None:
    """The form that is given as a JSON schema, a regular expression, a grammar's text or itself. Raises EdgeGemmaError
    "argument" for more than one, and as `Grammar`."""
    if sum(value is not None for value in (schema, regex, grammar)) > 1:
        raise EdgeGemmaValueError("schema, regex and grammar exclude each other: give one.", "argument")
    if schema is not None:
        return Grammar.json_schema(schema)
    if regex is not None:
        return Grammar.regex(regex)
    return Grammar.lark(grammar) if isinstance(grammar, str) else grammar


# ---- llguidance --------------------------------------------------------------------------------------------------------


def _finite(digits: str) -> float:
    """A number of JSON, however large it is written."""
    return min(max(float(digits), -sys.float_info.max), sys.float_info.max)


def _in_one_line(problem: str) -> str:
    """llguidance's words without its pictures of places in a pattern, and without a full stop."""
    lines = [line.strip() for line in problem.replace("<non-verbose/>", "").splitlines()]
    return " ".join(line for line in lines if line.strip("^ "))[:300].rstrip(". ")


def _limits() -> Any:
    from llguidance import LLParserLimits

    return LLParserLimits(**_LIMITS)
