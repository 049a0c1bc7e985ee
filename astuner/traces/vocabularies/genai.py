"""OpenTelemetry's newest conventions for generative AI, and what our own server adds to them.

Source: open-telemetry/semantic-conventions-genai, docs/gen-ai/, behind v1.41: messages as structure
or as JSON in a text, in attributes of the span or of its event.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from astuner.traces.messages import ReadMessages, parsed, read_messages, read_text, read_tools
from astuner.traces.span import TracedEvent, TracedSpan
from astuner.traces.trace import Step, TracedTokens
from astuner.traces.vocabularies.replies import reading_of, replies, tool_result
from astuner.traces.vocabularies.signs import first_text, signs_of, tags_of
from astuner.traces.vocabulary import SpanReading

_DETAILS = "gen_ai.client.inference.operation.details"
_CONTENTS = (
    "gen_ai.system_instructions",
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.tool.definitions",
)
METADATA = "astuner.metadata"
"""Of a whole trace, an object as JSON: what our own exports say of it."""
_OF_WHOLE = ("astuner.weights", "astuner.is_masked", "astuner.masked_kinds")


def read_genai(span: TracedSpan, events: Sequence[TracedEvent]) -> SpanReading | None:
    """Any span with a name of these conventions."""
    told = {**span.attributes, **_details(events)}
    if not any(key.startswith("gen_ai.") for key in told):
        return None
    signs = signs_of(told)
    kind = "chat" if signs.kind == "other" and "gen_ai.output.messages" in told else signs.kind
    if kind == "tool":
        return _tool_reading(span, told)
    asked = conversation(told)
    answered = read_messages(told.get("gen_ai.output.messages"), role="assistant")
    output: Sequence[Step] = answered.steps
    if kind == "chat":
        tools = read_tools(told.get("gen_ai.tool.definitions"))
        output = _with_tokens(replies(span, answered.steps, tools=tools), told)
    return reading_of(
        signs,
        asked,
        answered,
        kind=kind,
        output=output,
        tags=tags_of(told),
        metadata={**{key: told[key] for key in _OF_WHOLE if key in told}, **_metadata(told)},
    )


def conversation(told: Mapping[str, Any]) -> ReadMessages:
    """What a model was asked with, what the system says apart first."""
    system = read_text(told.get("gen_ai.system_instructions"))
    asked = read_messages(told.get("gen_ai.input.messages"))
    first = [Step(role="system", text=system)] if system else []
    return replace(asked, steps=[*first, *asked.steps])


def _metadata(told: Mapping[str, Any]) -> Mapping[str, Any]:
    found = parsed(told.get(METADATA))
    return found if isinstance(found, Mapping) else {}


def _details(events: Iterable[TracedEvent]) -> dict[str, Any]:
    """Of the event with the contents, which may have them in its body."""
    found: dict[str, Any] = {}
    for event in events:
        if event.name == _DETAILS:
            body = event.body if isinstance(event.body, Mapping) else {}
            told = {**body, **event.attributes}
            found |= {key: told[key] for key in _CONTENTS if key in told}
    return found


def _tool_reading(span: TracedSpan, told: Mapping[str, Any]) -> SpanReading:
    result = told.get("gen_ai.tool.call.result")
    step = tool_result(
        span,
        name=first_text(told, ("gen_ai.tool.name",)),
        call_id=first_text(told, ("gen_ai.tool.call.id",)),
        text="" if result is None else read_text(result),
    )
    signs = signs_of(told)
    return SpanReading(kind="tool", output=[step], session=signs.session, user=signs.user)


def _with_tokens(steps: Sequence[Step], told: Mapping[str, Any]) -> Sequence[Step]:
    """The ids that our own server writes; of one reply, as it writes them."""
    reply_ids = _numbers(told.get("astuner.reply_ids"))
    if reply_ids is None or len(steps) != 1:
        return steps
    tokens = TracedTokens(
        prompt_ids=_numbers(told.get("astuner.prompt_ids")),
        reply_ids=reply_ids,
        logprobs=_numbers(told.get("astuner.reply_logprobs")),
    )
    return [replace(steps[0], tokens=tokens)]


def _numbers(value: Any) -> list[Any] | None:
    try:
        numbers = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return None
    if not isinstance(numbers, list):
        return None
    is_known = all(one is None or isinstance(one, int | float) for one in numbers)
    return numbers if is_known else None
