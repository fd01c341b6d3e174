"""What clients change in their instructions with every request, although it means little: the time, a line for billing.

The prompt of a request is found in the cache up to its first difference. A line that differs each time, near the head of the
instructions, would cost all that follows it: the rest of the instructions, the tools, the whole conversation. So a line
that states the time moves to the beginning of the user's last message, and the line for billing, which is not meant for the
model, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

__all__ = ["is_billing", "move_to_end", "without_times"]

_BILLING = "x-anthropic-billing-header:"
_LONGEST = 160  # characters of a line that states a time and no more
_SAYS = re.compile(
    r"(?i)\b(current (date|time)|today('s date| is)|the (current )?(time|date) is|date and time|local time)\b"
)
_IS_TIME = re.compile(r"\b\d{1,2}:\d{2}|\b\d{4}-\d{2}-\d{2}\b|\b20\d\d\b")


def is_billing(text: str) -> bool:
    """Whether a block of instructions is only the line for billing."""
    return text.lstrip().startswith(_BILLING)


def without_times(text: str) -> tuple[str, list[str]]:
    """Instructions without the lines that state a time, and these lines."""
    kept: list[str] = []
    times: list[str] = []
    for line in text.split("\n"):
        is_time = len(line) <= _LONGEST and _SAYS.search(line) and _IS_TIME.search(line)
        (times if is_time else kept).append(line)
    return ("\n".join(kept), [line.strip() for line in times]) if times else (text, [])


def move_to_end(messages: Sequence[dict[str, Any]], lines: Sequence[str]) -> None:
    """Puts lines before the user's last message, in place."""
    last = next((message for message in reversed(messages) if message["role"] == "user"), None)
    if last is None or not lines:
        return
    text, content = "\n".join(lines) + "\n\n", last["content"]
    last["content"] = text + content if isinstance(content, str) else [{"type": "text", "text": text}, *content]
