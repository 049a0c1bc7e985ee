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
            role = str(message.get("role"))
            for text in _texts(message):
                yield SaidText(call=index, message=place, role=role, text=text)


def _num_repeated(call: Mapping[str, Any], lengths: list[int]) -> int:
    """How many messages a call has of the one that it extends, as `trajectory/record.py` says."""
    if call["extends"] is None or call.get("is_joined_by_text", False):
        return 0
    usual = lengths[call["extends"]] + 1
    return min(usual, call.get("num_repeated_messages", usual))


def _texts(message: Mapping[str, Any]) -> Iterator[str]:
    yield from (message[key] for key in _TEXTS if isinstance(message.get(key), str))
    for wanted in message.get("tool_calls") or ():
        yield from _strings(wanted["function"])


_TEXTS = ("reasoning_content", "content")


def _strings(value: Any) -> Iterator[str]:
    """All strings in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for entry in value:
            yield from _strings(entry)
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield key
            yield from _strings(entry)
