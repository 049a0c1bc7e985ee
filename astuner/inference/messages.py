"""Chat messages in their canonical form: read from what frameworks send, written, and compared.

The border where untyped input becomes `astuner.types.Message` and `Tool`. Owns no template and no
tokens.
"""

import json
from collections.abc import Mapping, Sequence
from os.path import commonprefix
from typing import Any, Literal, cast

from astuner.errors import RequestError
from astuner.inference.tools.protocol import ToolCall
from astuner.types import FunctionCall, Message, MessageToolCall, Tool

_KEPT_KEYS: Mapping[str, tuple[Literal["reasoning_content", "tool_call_id", "name"], ...]] = {
    "system": ("name",),
    "developer": ("name",),
    "user": ("name",),
    "assistant": ("reasoning_content",),
    "tool": ("tool_call_id", "name"),
}
"""Parts beside role, content and tool calls that templates may render, for each role.

Not the name of an assistant: a reply is begun without one, so what is said again has none either.
"""


_MAX_NAMED = 20
"""Messages that are named in one error."""


def normalize_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Return canonical copies. Raises RequestError that names the messages and what is wrong."""
    normalized, wrong = [], []
    for index, message in enumerate(messages):
        try:
            normalized.append(_normalize(message, index))
        except RequestError as error:
            wrong.append(error)
    if len(wrong) > 1:
        shown = "; ".join(str(error) for error in wrong[:_MAX_NAMED])
        more = f"; and {len(wrong) - _MAX_NAMED} more" if len(wrong) > _MAX_NAMED else ""
        raise RequestError(f"{shown}{more}", param="messages")
    if wrong:
        raise wrong[0]
    return normalized


def _normalize(message: Mapping[str, Any], index: int) -> Message:
    role = message.get("role")
    if not isinstance(role, str) or role not in _KEPT_KEYS:
        expected = ", ".join(_KEPT_KEYS)
        raise _wrong(index, f"role is {role!r}; expected one of {expected}")
    result: Message = {
        "role": "system" if role == "developer" else role,
        "content": _text(message.get("content"), index),
    }
    for key in _KEPT_KEYS[role]:
        if message.get(key):
            result[key] = _kept_text(message[key], key, index)
    if message.get("tool_calls"):
        result["tool_calls"] = _tool_calls(message["tool_calls"], index)
    return result


def _text(content: object, index: int) -> str:
    """Join text blocks by newlines, as OpenAI-compatible servers do."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise _wrong(index, f"content is {type(content).__name__}; expected text")
    return "\n".join(_block_text(block, index) for block in content)


def _block_text(block: object, index: int) -> str:
    if isinstance(block, str):
        return block
    if isinstance(block, Mapping) and "text" in block and block.get("type", "text") == "text":
        return _kept_text(block["text"] or "", "text", index)
    is_block = isinstance(block, Mapping)
    found = block.get("type", sorted(map(str, block))) if is_block else type(block).__name__
    raise _wrong(index, f"content block {found!r} is not supported; send text")


def _kept_text(value: object, key: str, index: int) -> str:
    if not isinstance(value, str):
        raise _wrong(index, f"{key} is {type(value).__name__}; expected text")
    return value


def _tool_calls(calls: object, index: int) -> list[MessageToolCall]:
    if not isinstance(calls, Sequence) or not all(isinstance(call, Mapping) for call in calls):
        raise _wrong(index, f"tool_calls is {calls!r}; expected a list of objects")
    return [_tool_call(call, index) for call in calls]


def _tool_call(call: Mapping[str, Any], index: int) -> MessageToolCall:
    function = call.get("function") or {}
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise _wrong(index, f"a tool call has no function name; found {dict(call)}")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = _arguments(arguments, index)
    else:
        arguments = _json_copy(arguments, f"message {index}: tool call arguments", param="messages")
    return {
        "id": call.get("id") or "",
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def _arguments(text: str, index: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(index, f"tool call arguments are not JSON: {error}") from error


def _wrong(index: int, what: str) -> RequestError:
    return RequestError(f"message {index}: {what}", param="messages")


def copy_tools(tools: Sequence[Mapping[str, Any]]) -> tuple[Tool, ...]:
    """Copies with all their keys, since chat templates render whatever they find.

    Checked are they where they come from, by the wire formats and by AgentScope. Raises
    RequestError for what JSON cannot hold.
    """
    copied = (_json_copy(dict(tool), f"tool {i}", param="tools") for i, tool in enumerate(tools))
    return tuple(cast(Tool, tool) for tool in copied)


def _json_copy(value: object, what: str, *, param: str) -> Any:
    """Of an agent in this process, which may put anything there, and change it later."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"{what}: no JSON: {error}", param=param) from error


def assistant_message(
    text: str, *, reasoning: str = "", tool_calls: Sequence[ToolCall] = ()
) -> Message:
    """What a model said, as the message that an agent sends back."""
    message: Message = {"role": "assistant", "content": text}
    if reasoning:
        message["reasoning_content"] = reasoning
    if tool_calls:
        message["tool_calls"] = [_written_call(call) for call in tool_calls]
    return message


def _written_call(call: ToolCall) -> MessageToolCall:
    function: FunctionCall = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def message_key(message: Message) -> tuple[str | None, ...]:
    """Equal for messages between which `first_difference` finds none."""
    functions = _functions(message)
    called = json.dumps(functions, sort_keys=True, default=str) if functions else ""
    return (
        message["role"],
        message["content"],
        message.get("reasoning_content"),
        message.get("name"),
        called,
    )


def first_difference(one: Sequence[Message], other: Sequence[Message]) -> str | None:
    """Say at which message and in which part `other` stops being equal to `one`.

    None when `other` begins with all of `one`. Ids of tool calls are not compared.
    """
    for index, message in enumerate(one):
        if index >= len(other):
            return f"message {index} ({message['role']}) is gone"
        part = _differing_part(message, other[index])
        if part is not None:
            return f"message {index} ({message['role']}): {part}"
    return None


def _differing_part(one: Message, other: Message) -> str | None:
    for key in ("role", "content", "reasoning_content", "name"):
        if one.get(key) != other.get(key):
            return _describe(key, one.get(key), other.get(key))
    if _functions(one) != _functions(other):
        return "tool_calls differ"
    return None


def _functions(message: Message) -> list[FunctionCall]:
    return [call["function"] for call in message.get("tool_calls", ())]


def _describe(key: str, one: object, other: object) -> str:
    if key == "reasoning_content" and other is None:
        return "the agent dropped the reasoning"
    if not (isinstance(one, str) and isinstance(other, str)):
        return f"{key} is {other!r}, was {one!r}"
    return f"{key} differs from character {len(commonprefix((one, other)))}"  # noqa: RUF071  # characters are meant
