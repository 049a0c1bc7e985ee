"""Tool calls in a conversation, fitted to a chat template that is particular about them.

Some templates insist on ids of nine letters and digits, as Mistral's do, and some write one call a
message and refuse two, as Llama 3's do. What a template takes is found by showing it small
conversations. Append-only: each reply is fitted by itself, with the results behind it.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from astuner.errors import EngineError
from astuner.inference.tools.detect import Render
from astuner.types import Message, MessageToolCall, Tool

_NINE = re.compile(r"[A-Za-z0-9]{9}")
_TOOL: Tool = {"type": "function", "function": {"name": "probe", "description": "A probe."}}


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateCalls:
    """What a chat template takes; True where nothing is known against it."""

    any_id: bool = True
    """Ids of any length and letters; else nine letters and digits."""
    several: bool = True
    """Several calls in one message."""


def probe_calls(render: Render) -> TemplateCalls:
    """Find out what a template that writes calls of its own takes."""
    if not _takes(render, ["probe0001"]):
        # What such a template says to other calls means nothing.
        return TemplateCalls()
    return TemplateCalls(
        any_id=_takes(render, ["call_0_0"]),
        several=_takes(render, ["probe0001", "probe0002"]),
    )


def _takes(render: Render, ids: Sequence[str]) -> bool:
    calls = [_probe_call(id_) for id_ in ids]
    messages: list[Message] = [
        {"role": "user", "content": "probe"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        *({"role": "tool", "content": "result", "tool_call_id": id_} for id_ in ids),
    ]
    try:
        render(messages, [_TOOL])
    except EngineError:
        return False
    return True


def _probe_call(id_: str) -> MessageToolCall:
    return {"id": id_, "type": "function", "function": {"name": "probe", "arguments": {}}}


def fit_calls(messages: Sequence[Message], takes: TemplateCalls) -> list[Message]:
    """The conversation as the template takes it.

    Where it takes one call a message, each is written in one, with its results behind it.
    """
    fitted = list(messages) if takes.several else list(_one_a_message(messages))
    return fitted if takes.any_id else [_with_nine(message) for message in fitted]


def _with_nine(message: Message) -> Message:
    fitted = message.copy()
    if "tool_calls" in message:
        calls = message["tool_calls"]
        fitted["tool_calls"] = [{**call, "id": _nine(call["id"] or "")} for call in calls]
    if "tool_call_id" in message:
        fitted["tool_call_id"] = _nine(message["tool_call_id"])
    return fitted


def _nine(id_: str) -> str:
    return id_ if _NINE.fullmatch(id_) else hashlib.sha256(id_.encode()).hexdigest()[:9]


def _one_a_message(messages: Sequence[Message]) -> Iterator[Message]:
    at = 0
    while at < len(messages):
        message = messages[at]
        at += 1
        calls = message.get("tool_calls", [])
        if len(calls) < 2:
            yield message
            continue
        results: list[Message] = []
        while at < len(messages) and messages[at]["role"] == "tool":
            results.append(messages[at])
            at += 1
        yield from _each_call(message, calls, results)


def _each_call(
    message: Message, calls: Sequence[MessageToolCall], results: Sequence[Message]
) -> Iterator[Message]:
    """The first with what the message says; results that answer none stand behind the last."""
    left = list(results)
    for index, call in enumerate(calls):
        yield _call_alone(call) if index else {**message, "tool_calls": [call]}
        yield from (one for one in left if one.get("tool_call_id") == call["id"])
        left = [one for one in left if one.get("tool_call_id") != call["id"]]
    yield from left


def _call_alone(call: MessageToolCall) -> Message:
    return {"role": "assistant", "content": "", "tool_calls": [call]}
