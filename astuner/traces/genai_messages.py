"""Messages, tools and tokens in the structured form of OpenTelemetry's newest conventions.

Source: open-telemetry/semantic-conventions-genai, docs/gen-ai/, behind v1.41. What the conventions
have no name for, the ids of tokens and their log-probabilities, stands under `astuner.`; read back
by vocabularies/genai.py.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from astuner.traces.otlp_json import JSON


def numbers_text(numbers: Sequence[float | None]) -> str:
    """As JSON in a text: an AnyValue for each number takes four times the room."""
    return json.dumps(list(numbers), separators=(",", ":"))


def short_logprob(logprob: float) -> float | None:
    """In the nine digits that tell 32-bit numbers apart; None where it is not finite."""
    return float(f"{logprob:.9g}") if math.isfinite(logprob) else None


def genai_message(message: Mapping[str, Any]) -> JSON:
    """A message of ours, or one that a client sent, with its parts."""
    role = "user" if message["role"] == "prompt" else message["role"]
    name = message.get("name")
    return {"role": role, "parts": message_parts(message), **({"name": name} if name else {})}


def message_parts(message: Mapping[str, Any]) -> list[JSON]:
    """Of a refused call, messages are as the client sent them."""
    content = message.get("content") or ""
    if message["role"] == "tool":
        call_id = message.get("tool_call_id")
        return [{"type": "tool_call_response", "id": call_id, "response": content}]
    calls = message.get("tool_calls") or ()
    parts = []
    if reasoning := message.get("reasoning_content"):
        parts.append({"type": "reasoning", "content": reasoning})
    if not isinstance(content, str):
        parts += [_sent_part(part) for part in content]
    elif content or not calls:
        parts.append({"type": "text", "content": content})
    return [*parts, *map(_tool_call, calls)]


def _sent_part(part: Mapping[str, Any]) -> JSON:
    text = part.get("text")
    return {"type": "text", "content": text} if isinstance(text, str) else dict(part)


def _tool_call(call: Mapping[str, Any]) -> JSON:
    function = call["function"]
    return {
        "type": "tool_call",
        "id": call.get("id"),
        "name": function["name"],
        "arguments": function.get("arguments"),
    }


def genai_definition(tool: Mapping[str, Any]) -> JSON:
    """Flat, as the conventions have it, with whatever else the client said of the tool."""
    function = tool.get("function")
    return {"type": "function", **function} if isinstance(function, Mapping) else dict(tool)
