"""What a span was given and gave, in the many forms that programs give values in.

For vocabularies that name the whole input and the whole output of an operation, and no messages.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from astuner.traces.messages import ReadMessages, parsed, read_messages

_ASKED = ("messages", "input", "question", "query", "prompt", "text")
_ANSWERED = ("output", "answer", "response", "result", "text", "content")
_OF_MESSAGE = ("role", "parts", "tool_calls", "kwargs")


def asked_of(value: Any) -> ReadMessages:
    """What somebody asked: messages, what holds them, or a text."""
    given = parsed(value)
    if isinstance(given, Mapping) and not _is_message(given):
        named = next((given[name] for name in _ASKED if given.get(name)), given)
        if isinstance(named, str) or not _is_messages(named):
            return _with_system(given, read_messages(named, role="user"))
        return _with_system(given, read_messages(named))
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], list):
        given = given[0]
    return read_messages(given) if _is_messages(given) else read_messages(given, role="user")


def answered_by(value: Any) -> ReadMessages:
    """What was answered: OpenAI's choices, messages of which the last one is it, or a text."""
    given = parsed(value)
    if isinstance(given, Mapping):
        if isinstance(choices := given.get("choices"), Sequence) and choices:
            return read_messages(choices, role="assistant")
        if isinstance(messages := given.get("messages"), Sequence) and messages:
            return read_messages(messages[-1:], role="assistant")
        if _is_message(given) or given.get("type") == "message":
            return read_messages([{"role": "assistant", **given}], role="assistant")
        given = next((given[name] for name in _ANSWERED if given.get(name)), given)
    if isinstance(given, list) and _is_messages(given):
        return read_messages(given[-1:], role="assistant")
    return read_messages(given, role="assistant")


def _with_system(given: Mapping[str, Any], read: ReadMessages) -> ReadMessages:
    """Anthropic's and OpenAI's newer calls tell the system's words apart."""
    system = given.get("system") or given.get("instructions")
    if not system:
        return read
    first = read_messages([{"role": "system", "content": system}]).steps
    return ReadMessages(steps=[*first, *read.steps], num_unreadable=read.num_unreadable)


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and any(key in value for key in _OF_MESSAGE)


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_message, value))
