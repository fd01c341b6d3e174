"""What a JSON schema may ask of llguidance: some constructions take it minutes and gigabytes, beyond its own limits.

The bounds were measured: at them a schema takes about a second and some tens of megabytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from ..errors import EdgeGemmaValueError

__all__ = ["check_work", "is_costly_divisor", "is_costly_pattern"]

_DIVISOR = 100_000  # the remainders of a multipleOf are states
_REPEATED = 100_000  # of a pattern, in repetitions of repetitions
_PATTERNS = 8  # that one text must match
_REPETITION = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\{(\d+)(?:,(\d*))?\}|[()]", re.S)
_WHERE_TEXT_IS_CONSTANT = ("const", "enum", "default", "examples")


def check_work(schema: Any) -> None:
    """Raises EdgeGemmaValueError "argument" for a schema that would take too long, RecursionError for one that is too deep."""
    known: dict[int, int] = {}
    for part in _parts(schema):
        divisor, pattern = part.get("multipleOf"), part.get("pattern")
        if is_costly_divisor(divisor):
            _refuse(f"multipleOf may have five digits, and {divisor} has more")
        patterns = part.get("patternProperties")
        for text in (pattern, *(patterns if isinstance(patterns, Mapping) else ())):
            if isinstance(text, str) and is_costly_pattern(text):
                _refuse(f"a pattern repeats what repeats, more than {_REPEATED:,} times in all")
        if _together(part, schema, known) > _PATTERNS:
            _refuse(f"more than {_PATTERNS} patterns hold for one text")


def is_costly_divisor(divisor: Any) -> bool:
    """Whether a multipleOf has too many digits, zeros at its ends left out."""
    if isinstance(divisor, bool) or not isinstance(divisor, (int, float)):
        return False
    try:
        digits = Decimal(str(divisor)).as_tuple().digits
    except (InvalidOperation, ValueError):
        return True
    return int("".join(map(str, digits)).strip("0")[:7] or "0") >= _DIVISOR


def is_costly_pattern(pattern: str) -> bool:
    """Whether repetitions within repetitions become too many."""
    open_groups = [1]  # how often what is in each group is repeated
    inside = 1  # the same of the group that was closed last
    for found in _REPETITION.finditer(pattern):
        if found[0] == "(":
            open_groups.append(1)
        elif found[0] == ")" and len(open_groups) > 1:
            inside = open_groups.pop()
            open_groups[-1] = max(open_groups[-1], inside)
        elif found[1]:
            times = max(int(found[1][:12]), int((found[2] or "0")[:12]), 1)
            nested = inside if pattern[found.start() - 1 : found.start()] == ")" else 1
            open_groups[-1] = max(open_groups[-1], nested * times)
            if nested > 1 and nested * times > _REPEATED:
                return True
    return False


def _refuse(problem: str) -> None:
    raise EdgeGemmaValueError(f"The schema cannot be used: {problem}.", "argument")


def _parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    """All objects of a schema."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            yield part
            waiting += [value for key, value in part.items() if key not in _WHERE_TEXT_IS_CONSTANT]
        elif isinstance(part, (list, tuple)):
            waiting += part


def _together(part: Any, root: Any, known: dict[int, int]) -> int:
    """How many patterns and formats hold for one text; `known`: what was counted before, by the identity of the object."""
    if not isinstance(part, Mapping):
        return 0
    if id(part) in known:
        return known[id(part)]
    known[id(part)] = 0  # for references to itself
    count = sum(isinstance(part.get(key), str) for key in ("pattern", "format"))
    count += sum(_together(member, root, known) for member in _list(part.get("allOf")))
    for name in ("anyOf", "oneOf"):
        count += max((_together(member, root, known) for member in _list(part.get(name))), default=0)
    if isinstance(part.get("$ref"), str):
        count += _together(_referred(root, part["$ref"]), root, known)
    known[id(part)] = count
    return count


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _referred(root: Any, reference: str) -> Any:
    """What a reference of the same document names; None for others."""
    if not reference.startswith("#/"):
        return None
    for name in reference[2:].split("/"):
        name = name.replace("~1", "/").replace("~0", "~")
        root = root.get(name) if isinstance(root, Mapping) else None
    return root
