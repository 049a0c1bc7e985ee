"""OpenTelemetry's older conventions for generative AI, up to v1.36, and OpenLLMetry's of that time.

Contents stand in `gen_ai.prompt` and `gen_ai.completion`, as JSON or with an index for each
message, or in one event for each message.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from astuner.traces.messages import ReadMessages, parsed, read_messages, read_tools
from astuner.traces.span import TracedEvent, TracedSpan
from astuner.traces.vocabularies.nested import nested
from astuner.traces.vocabularies.replies import reading_of, replies
from astuner.traces.vocabularies.signs import signs_of
from astuner.traces.vocabulary import SpanReading

_EVENT_ROLES = {
    "gen_ai.system.message": "system",
    "gen_ai.user.message": "user",
    "gen_ai.assistant.message": "assistant",
    "gen_ai.tool.message": "tool",
}
_CHOICE = "gen_ai.choice"
_CONTENT_EVENTS = {
    "gen_ai.content.prompt": "gen_ai.prompt",
    "gen_ai.content.completion": "gen_ai.completion",
}
_CONTENTS = ("gen_ai.prompt", "gen_ai.completion")
_TOLD_BY = {*_EVENT_ROLES, *_CONTENT_EVENTS, _CHOICE}
"""Names of attributes begin so, events are called so, where there is anything to read."""


def read_genai_old(span: TracedSpan, events: Sequence[TracedEvent]) -> SpanReading | None:
    """Only spans with contents of that time; all else is of the newer conventions."""
    if not any(key.startswith(_CONTENTS) for key in span.attributes) and not any(
        event.name in _TOLD_BY for event in events
    ):
        return None
    told = {**span.attributes, **_contents(events)}
    asked, answered = _asked(told, events), _answered(told, events)
    if not asked.steps and not answered.steps:
        return None
    signs = signs_of(told)
    is_chat = signs.kind in ("chat", "other")
    tools = _tools(told)
    return reading_of(
        signs,
        asked,
        answered,
        kind="chat" if is_chat else signs.kind,
        output=replies(span, answered.steps, tools=tools) if is_chat else answered.steps,
    )


def _contents(events: Sequence[TracedEvent]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for event in events:
        key = _CONTENT_EVENTS.get(event.name)
        if key is not None and key in event.attributes:
            found[key] = event.attributes[key]
    return found


def _asked(told: Mapping[str, Any], events: Sequence[TracedEvent]) -> ReadMessages:
    messages = [_message(event) for event in events if event.name in _EVENT_ROLES]
    if messages:
        return read_messages(messages)
    return read_messages(nested(told, "gen_ai.prompt") or told.get("gen_ai.prompt"), role="user")


def _answered(told: Mapping[str, Any], events: Sequence[TracedEvent]) -> ReadMessages:
    messages = [_choice(event) for event in events if event.name == _CHOICE]
    if not messages:
        flat = nested(told, "gen_ai.completion") or told.get("gen_ai.completion")
        return read_messages(flat, role="assistant")
    read = read_messages(messages, role="assistant")
    return replace(read, steps=[replace(step, role="assistant") for step in read.steps])


def _message(event: TracedEvent) -> dict[str, Any]:
    told = _told(event)
    role = _EVENT_ROLES[event.name]
    call_id = {"tool_call_id": told.get("id")} if role == "tool" else {}
    return {"content": "", **call_id, **told, "role": role}


def _choice(event: TracedEvent) -> dict[str, Any]:
    told = _told(event)
    message = parsed(told.get("message"))
    if isinstance(message, Mapping):
        return {"content": "", **message, "role": "assistant"}
    return {"content": message or "", **told, "role": "assistant"}


def _told(event: TracedEvent) -> dict[str, Any]:
    """Of a log record, the body; of an event of a span, its attributes, or JSON in one of them."""
    if isinstance(body := parsed(event.body), Mapping):
        return dict(body)
    if isinstance(inner := parsed(event.attributes.get("gen_ai.event.content")), Mapping):
        return dict(inner)
    return {key: parsed(value) if key == "tool_calls" else value for key, value in _plain(event)}


def _plain(event: TracedEvent) -> list[tuple[str, Any]]:
    return [(key.removeprefix("gen_ai."), value) for key, value in event.attributes.items()]


def _tools(told: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    if "gen_ai.tool.definitions" in told:
        return read_tools(told["gen_ai.tool.definitions"])
    functions = nested(told, "llm.request.functions")
    return read_tools(
        [
            {key: parsed(value) for key, value in one.items()}
            for one in functions or ()
            if isinstance(one, Mapping)
        ]
    )
