"""Tools in plain messages, for chat templates that know none."""

from collections.abc import Sequence

from astuner.inference.tools.formats import FORMATS
from astuner.inference.tools.json_calls import encode
from astuner.inference.tools.protocol import ToolCall
from astuner.types import Message, Tool

FOLDED_FORMAT = FORMATS["hermes"]
"""In which `default_tool_prompt` asks for calls and `fold_tools` writes them."""


def default_tool_prompt(tools: Sequence[Tool]) -> str:
    """What a system message says about the tools when the chat template cannot say it."""
    functions = "\n".join(encode(tool["function"]) for tool in tools)
    example = (
        '<tool_call>\n{"name": "function name", "arguments": {"argument": "value"}}\n</tool_call>'
    )
    return (
        "You can call functions. Each line between the tags describes one as a JSON schema:\n"
        f"<tools>\n{functions}\n</tools>\n"
        "To call a function, write JSON with its name and arguments between these tags:\n"
        f"{example}\n"
        "Its result is given to you in <tool_response></tool_response>."
    )


def fold_tools(messages: Sequence[Message], tools: Sequence[Tool] | None) -> list[Message]:
    """Express tools, calls and results in plain system, user and assistant messages.

    The tools go into the system message, which is added if missing. Every other message is
    folded by itself, so that the folding of a conversation begins with the folding of each of
    its beginnings. For the same reason each result is a user message of its own, although
    the results of parallel calls arrive together. Contents are texts or None.
    """
    folded = [_fold(message) for message in messages]
    if not tools:
        return folded
    prompt = default_tool_prompt(tools)
    if not folded or folded[0]["role"] != "system":
        return [{"role": "system", "content": prompt}, *folded]
    return [{**folded[0], "content": _joined("\n\n", folded[0]["content"], prompt)}, *folded[1:]]


def _fold(message: Message) -> Message:
    content = message.get("content") or ""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    if not functions:
        return message
    calls = [
        ToolCall(name=function["name"], arguments=function.get("arguments") or {})
        for function in functions
    ]
    folded = message.copy()
    folded["content"] = _joined("\n", content, FOLDED_FORMAT.write(calls))
    del folded["tool_calls"]
    return folded


def _joined(separator: str, *parts: str | None) -> str:
    return separator.join(part for part in parts if part)
