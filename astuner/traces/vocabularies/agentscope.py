"""What AgentScope 1.x writes beside the names of OpenTelemetry: the request of a model call stands
as the arguments of the function that made it. 2.x writes the names of the conventions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from astuner.traces.messages import parsed, read_messages, read_tools
from astuner.traces.span import TracedEvent, TracedSpan
from astuner.traces.vocabularies.genai import read_genai
from astuner.traces.vocabulary import SpanReading

_INPUT = "agentscope.function.input"


def read_agentscope(span: TracedSpan, events: Sequence[TracedEvent]) -> SpanReading | None:
    """Calls of a model only; agents and tools are told as the conventions have them."""
    told = span.attributes
    if _INPUT not in told or "gen_ai.input.messages" in told:
        return None
    reading = read_genai(span, events)
    if reading is None or reading.kind != "chat":
        return reading
    request = parsed(told[_INPUT])
    if not isinstance(request, Mapping):
        return replace(reading, num_unreadable=reading.num_unreadable + 1)
    asked = read_messages(_messages(request))
    return replace(
        reading,
        input=asked.steps,
        output=[replace(step, tools=step.tools or _tools(request)) for step in reading.output],
        num_unreadable=reading.num_unreadable + asked.num_unreadable,
    )


def _messages(request: Mapping[str, Any]) -> Any:
    args, kwargs = _args(request), _kwargs(request)
    return kwargs.get("messages", kwargs.get("prompt", args[0] if args else None))


def _tools(request: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    args = _args(request)
    tools = _kwargs(request).get("tools", args[1] if len(args) > 1 else None)
    return tuple(read_tools(tools))


def _args(request: Mapping[str, Any]) -> Sequence[Any]:
    args = request.get("args")
    return args if isinstance(args, list) else ()


def _kwargs(request: Mapping[str, Any]) -> Mapping[str, Any]:
    kwargs = request.get("kwargs")
    return kwargs if isinstance(kwargs, Mapping) else {}
