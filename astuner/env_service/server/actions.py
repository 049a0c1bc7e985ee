"""From a model's message to what an environment is given: the part of it that is the action."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from astuner.serving.refusal import Refusal

ActionPreference = Literal["code", "box", "text"]

_PYTHON_BLOCK = re.compile(
    r"```[ \t]*(?:python3?|py)[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE
)
_ANY_BLOCK = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
_BOX = "\\boxed{"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainAction:
    """What an environment is given to act on, in plain values."""

    text: str
    tool_calls: tuple[dict[str, Any], ...]
    """Each {"name", "arguments"}."""


def action_of(message: Mapping[str, Any], preference: ActionPreference) -> PlainAction:
    """Raises Refusal for a message that says nothing in any form."""
    if message.get("content") is None and not message.get("tool_calls"):
        raise _wrong("it has neither content nor tool_calls")
    return PlainAction(
        text=_EXTRACTIONS[preference](_text(message.get("content"))),
        tool_calls=tuple(map(_tool_call, _listed(message.get("tool_calls")))),
    )


def code_in(text: str) -> str:
    """The first block of Python, else the first block of any kind, else all of it."""
    found = _PYTHON_BLOCK.search(text) or _ANY_BLOCK.search(text)
    return found.group(1).strip("\n") if found else text


def boxed_in(text: str) -> str:
    r"""What the last \boxed{} holds, else all of it."""
    start = text.rfind(_BOX)
    if start < 0:
        return text
    depth = 1
    for at in range(start + len(_BOX), len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start + len(_BOX) : at].strip()
    return text[start + len(_BOX) :].strip()


_EXTRACTIONS = {"code": code_in, "box": boxed_in, "text": str}


def _text(content: object) -> str:
    """Text, or the texts of a list of parts; of the rest an environment could make nothing."""
    if content is None:
        return ""
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        content = "".join(str(part.get("text") or "") for part in content)
    if not isinstance(content, str):
        raise _wrong(f"its content is {type(content).__name__}; text is expected")
    return content.encode("utf-8", "replace").decode()


def _listed(calls: object) -> list[Any]:
    if not isinstance(calls or [], list):
        raise _wrong(f"its tool_calls are {type(calls).__name__}; a list is expected")
    return list(calls or [])  # type: ignore[call-overload]  # a list, by now


def _tool_call(call: object) -> dict[str, Any]:
    called = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(called, Mapping) or not isinstance(called.get("name"), str):
        raise _wrong('a tool call has no name; it is {"function": {"name", "arguments"}}')
    return {"name": called["name"], "arguments": _arguments(called.get("arguments"))}


def _arguments(arguments: object) -> dict[str, Any]:
    """What a model wrote that is no JSON object is for the environment to answer: it finds it as
    the one argument `arguments`."""
    value = arguments
    if isinstance(value, str):
        try:
            value = json.loads(value or "{}")
        except (ValueError, RecursionError):
            value = arguments
    return dict(value) if isinstance(value, Mapping) else {"arguments": arguments}


def _wrong(what: str) -> Refusal:
    return Refusal(
        400,
        f"messages: {what}; send the assistant's message that is the action, "
        '{"role": "assistant", "content": "…"}',
        code="invalid_action",
        param="messages",
    )
