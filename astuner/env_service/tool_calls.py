"""Tool calls in an agent's message, and what answers them. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from astuner.types import Message, Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedCall:
    """One call that an agent asks for."""

    name: str
    arguments: Mapping[str, Any] | None
    """None where the agent sent no JSON object."""
    call_id: str | None
    """None where its model gives none."""


def asked_calls(message: Mapping[str, Any]) -> list[AskedCall]:
    """The calls of an assistant's message, in order; their arguments as an object or its JSON."""
    return [asked_call(call) for call in message.get("tool_calls") or ()]


def asked_call(call: Mapping[str, Any]) -> AskedCall:
    """A tool call in OpenAI's format."""
    function = call.get("function", call)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = read_json(arguments or "{}")
        except ValueError:
            arguments = None
    elif arguments is None:
        arguments = {}
    return AskedCall(
        name=str(function.get("name")),
        arguments=arguments if isinstance(arguments, Mapping) else None,
        call_id=call.get("id"),
    )


def read_json(text: str) -> Any:
    """What a model wrote as JSON. Raises ValueError also for numbers that JSON does not have, and
    for more brackets than can be read."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("too many brackets") from None


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def tool_answer(call: AskedCall, content: str) -> Message:
    """What the agent reads behind its call."""
    answer: Message = {"role": "tool", "content": content, "name": call.name}
    if call.call_id is not None:
        answer["tool_call_id"] = call.call_id
    return answer


def no_object(call: AskedCall) -> Message:
    """The answer to a call whose arguments are no JSON object; no server is asked."""
    return tool_answer(call, f"error: the arguments of {call.name} must be one JSON object")


def which_tools(tools: Sequence[Tool]) -> str:
    """What an agent reads that has called none of them."""
    names = ", ".join(tool["function"]["name"] for tool in tools)
    return f"Nothing was done: act by calling a tool. There are: {names or 'none'}."


def tool_of(name: str, description: str | None, parameters: Mapping[str, Any] | None) -> Tool:
    """In OpenAI's format."""
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description or "",
            "parameters": parameters or {"type": "object", "properties": {}},
        },
    }


def said_in(message: Mapping[str, Any]) -> str:
    """The text of a message, whose content may come in parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))


def text_of_blocks(blocks: Sequence[Mapping[str, Any]]) -> str:
    """The text of content blocks of MCP and ORS; what is no text is named in its place."""
    return "\n".join(
        block["text"]
        if block.get("type") == "text"
        else f"[{block.get('mimeType') or block.get('type')}]"
        for block in blocks
    )
