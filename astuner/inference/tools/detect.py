"""Which format a chat template speaks, found by rendering a probe call and reading it back."""

from collections.abc import Callable

from astuner.errors import ConfigError, EngineError
from astuner.inference.excerpt import excerpt
from astuner.inference.tools.formats import FORMATS
from astuner.inference.tools.protocol import ToolFormat
from astuner.types import Message, MessageToolCall, Tool

Render = Callable[[list[Message], list[Tool] | None], str]
"""A chat template: messages and the tools offered in, the text of the conversation out.

Raises EngineError, or any error of a failing template.
"""

_PROBE_TOOL: Tool = {
    "type": "function",
    "function": {
        "name": "probe_lookup",
        "description": "Look something up.",
        "parameters": {
            "type": "object",
            "properties": {
                "topic": {"type": "string", "description": "What to look up."},
                "count": {"type": "integer", "description": "How many results."},
            },
            "required": ["topic", "count"],
        },
    },
}
_PROBE_ARGUMENTS = {"topic": "rivers", "count": 3}
_PROBE_CALL: MessageToolCall = {
    # Mistral's templates insist on ids of nine letters or digits.
    "id": "probe0001",
    "type": "function",
    "function": {"name": "probe_lookup", "arguments": _PROBE_ARGUMENTS},
}
# Shares no first character with a tool call, so that the two renderings part where it begins.
_PROBE_TEXT = "Understood."


def detect_format(render: Render) -> ToolFormat | None:
    """Find the format that a chat template writes, by rendering a probe call.

    None if the template ignores tools or cannot render a call: use `fold_tools` for it.
    Raises ConfigError for a template that writes calls in no known format.
    """
    written = _rendered_probe(render)
    if written is None:
        return None
    for tool_format in FORMATS.values():
        reply = tool_format.parse(written, [_PROBE_TOOL])
        calls = [(call.name, call.arguments) for call in reply.tool_calls]
        if calls == [("probe_lookup", _PROBE_ARGUMENTS)] and not reply.malformed:
            return tool_format
    raise ConfigError(
        "the chat template writes tool calls in an unknown format: it rendered a probe call as "
        f"{excerpt(written)!r}. Known formats: {', '.join(FORMATS)}. Use a model with one of "
        "these, or a chat template without tools, for which tools are described in the prompt."
    )


def _rendered_probe(render: Render) -> str | None:
    """What the template writes for the probe call, without what surrounds every reply."""
    from jinja2 import TemplateError

    user: Message = {"role": "user", "content": "Hello."}
    plain_reply: Message = {"role": "assistant", "content": _PROBE_TEXT}
    call_reply: Message = {"role": "assistant", "content": "", "tool_calls": [_PROBE_CALL]}
    tools = [_PROBE_TOOL]
    try:
        if render([user], None) == render([user], tools):
            return None
        plain = render([user, plain_reply], tools)
        called = render([user, call_reply], tools)
    # Templates run as Python: one that was not written for calls fails with any of these.
    except (EngineError, TemplateError, TypeError, ValueError, LookupError, AttributeError):
        return None
    pairs = enumerate(zip(plain, called, strict=False))
    start = next((index for index, (one, other) in pairs if one != other), len(plain))
    end_of_turn = plain.rpartition(_PROBE_TEXT)[2].strip()
    written = called[start:].rstrip().removesuffix(end_of_turn)
    return written if "probe_lookup" in written else None
