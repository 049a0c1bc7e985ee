"""What a workflow hands to `gym_env.step`, as the message of an assistant that servers take."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def as_action(given: Any) -> dict[str, Any]:
    """{"role", "content"} and, where there are any, "tool_calls" in OpenAI's form.

    From a text, a message (its content text, or blocks of text and tool calls), or an object with
    `content`, such as AgentScope's Msg. Raises TypeError for anything else.
    """
    if isinstance(given, str):
        return {"role": "assistant", "content": given}
    message = given if isinstance(given, Mapping) else _fields(given)
    content, calls = message.get("content"), message.get("tool_calls")
    blocks = content if isinstance(content, list | tuple) else []
    text = _text_of(blocks) if isinstance(content, list | tuple) else content or ""
    if not isinstance(text, str):
        raise TypeError(
            f"gym_env.step: the content of the action is {type(content).__name__}; give "
            '{"role": "assistant", "content": text}, or a text'
        )
    action = {"role": str(message.get("role") or "assistant"), "content": text}
    calls = [*(calls or ()), *(_called(block) for block in blocks if _type(block) == "tool_use")]
    return action | ({"tool_calls": json.loads(json.dumps(calls))} if calls else {})


def text_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """What they say, joined."""
    contents = (message.get("content") or "" for message in messages)
    return "\n".join(c if isinstance(c, str) else _text_of(c) for c in contents)


def _fields(given: Any) -> Mapping[str, Any]:
    if not hasattr(given, "content"):
        raise TypeError(
            f"gym_env.step: the action is {type(given).__name__}; give "
            '{"role": "assistant", "content": text}, or a text'
        )
    names = ("role", "content", "tool_calls")
    return {name: getattr(given, name, None) for name in names}


def _text_of(blocks: Sequence[Any]) -> str:
    texts = (block.get("text") for block in blocks if _type(block) == "text")
    return "\n".join(text for text in texts if text)


def _type(block: Any) -> Any:
    return block.get("type") if isinstance(block, Mapping) else None


def _called(block: Mapping[str, Any]) -> dict[str, Any]:
    """A block of AgentScope, as a tool call of OpenAI."""
    arguments = json.dumps(block.get("input") or {})
    function = {"name": block.get("name"), "arguments": arguments}
    return {"id": block.get("id"), "type": "function", "function": function}
