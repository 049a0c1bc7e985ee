"""The texts of a record that somebody said: messages, replies, and what tools were called with.

Each stands once, where it was said first, whatever later calls repeat of it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SaidText:
    """One text of one message."""

    call: int
    """Index of the call in its episode."""
    message: int
    """Index among the messages of the call; that of the reply is their number."""
    role: str
    text: str


def texts_of(record: Mapping[str, Any]) -> Iterator[SaidText]:
    """The texts of a record in the order of its calls.

    Raises KeyError, TypeError, AttributeError or IndexError for one that is not whole.
    """
    lengths: list[int] = []
    for index, call in enumerate(record["calls"]):
        num_repeated = _num_repeated(call, lengths)
        lengths.append(num_repeated + len(call["messages"]))
        for place, message in enumerate((*call["messages"], call["reply"]), start=num_repeated):
            role = str(message.get("role")) if isinstance(message, Mapping) else "?"
            for text in _texts(message):
                yield SaidText(call=index, message=place, role=role, text=text)


def _num_repeated(call: Mapping[str, Any], lengths: list[int]) -> int:
    """How many messages a call has of the one that it extends, as `trajectory/record.py` says."""
    if call["extends"] is None or call.get("is_joined_by_text", False):
        return 0
    usual = lengths[call["extends"]] + 1
    return min(usual, call.get("num_repeated_messages", usual))


def _texts(message: Any) -> Iterator[str]:
    """Of a message of any form; the data of images and the like is nothing that is said."""
    if not isinstance(message, Mapping):
        yield from _strings(message)
        return
    for key in _TEXTS:
        yield from _texts_in(message.get(key))
    wanted = message.get("tool_calls")
    for call in wanted if isinstance(wanted, list) else [wanted]:
        yield from _strings(call.get("function", call) if isinstance(call, Mapping) else call)


_TEXTS = ("reasoning_content", "content")
_TEXTS_OF_BLOCK = ("thinking", "text", "refusal", "content")


def _texts_in(content: Any) -> Iterator[str]:
    """Of a text, or of the blocks that stand in place of one."""
    for block in content if isinstance(content, list) else [content]:
        if isinstance(block, str):
            yield block
        elif isinstance(block, Mapping):
            for key in _TEXTS_OF_BLOCK:
                yield from _strings(block.get(key))


def _strings(value: Any) -> Iterator[str]:
    """All strings in a JSON value, keys included. However deep it is: a loop, and no recursion."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            left += reversed(value)
        elif isinstance(value, dict):
            left += (inner for pair in reversed(value.items()) for inner in reversed(pair))
