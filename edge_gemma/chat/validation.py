"""Whether data that is complete keeps to a JSON schema, also where a grammar cannot say so.

A grammar follows what can be told from the left to the right. `not`, `if`, `contains` and their like are about values that are
complete: the package jsonschema-rs (extra `structured`) checks these. It is written in Rust, so that its time is bounded:
patterns are matched without backtracking, or with a limit to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

__all__ = ["Check", "check_of"]

Check = Callable[[Any], str]
"""Tells what is wrong with plain data, as a part of a sentence; "" where it keeps to its schema."""

_BACKTRACKING = 100_000  # steps of a pattern with look-around or back-references, which take some milliseconds
_LONGEST = 200  # characters of a problem


def check_of(schema: Any, *, formats: bool = True) -> Check | None:
    """What checks data. None without jsonschema-rs, and for what is no JSON schema, such as one that is nested too deeply.

    `nullable` means what it does in OpenAPI, and nothing is downloaded. A schema is read in the newest dialect in which it is
    one. `formats`: whether these are checked too.
    """
    try:
        import jsonschema_rs
    except ImportError:
        return None
    patterns = jsonschema_rs.FancyRegexOptions(backtrack_limit=_BACKTRACKING)
    for dialect in (
        jsonschema_rs.validator_for,  # the one that it names, else the newest
        jsonschema_rs.Draft202012Validator,
        jsonschema_rs.Draft7Validator,
        jsonschema_rs.Draft4Validator,
    ):
        try:
            validator = dialect(
                _with_nulls(schema), validate_formats=formats, retriever=_refused, pattern_options=patterns
            )
            return _check_by(validator)
        except (ValueError, TypeError, RecursionError):
            continue
    return None


def _check_by(validator: Any) -> Check:
    def check(data: Any) -> str:
        try:
            error = next(iter(validator.iter_errors(data)), None)
        except ValueError:  # data that is nested more deeply than calls can be
            return ""
        if error is None:
            return ""
        where = ".".join(map(str, error.instance_path))
        return f"{where}: {error.message}"[:_LONGEST] if where else error.message[:_LONGEST]

    return check


def _refused(address: str) -> NoReturn:
    raise ValueError(f"{address} is not read")


def _with_nulls(schema: Any) -> Any:
    """The schema with OpenAPI's `nullable` in the words of JSON Schema."""
    if isinstance(schema, (list, tuple)):
        return [_with_nulls(member) for member in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {key: _with_nulls(value) for key, value in schema.items()}
    return {"anyOf": [found, {"type": "null"}]} if schema.get("nullable") is True else found
