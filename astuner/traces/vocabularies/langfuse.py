"""Langfuse's names, as its client writes them as OTLP; what its server tells gets them too.

Source: langfuse 5.0, LangfuseOtelSpanAttributes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from astuner.traces.messages import ReadMessages, parsed, read_text, read_tools
from astuner.traces.span import TracedEvent, TracedSpan
from astuner.traces.trace import Step
from astuner.traces.vocabularies.inputs import answered_by, asked_of
from astuner.traces.vocabularies.replies import reading_of, replies, tool_result
from astuner.traces.vocabularies.signs import first_text, signs_of, tags_of, whole_number
from astuner.traces.vocabulary import SpanReading

_INPUT, _OUTPUT = "langfuse.observation.input", "langfuse.observation.output"
_TYPE, _MODEL = "langfuse.observation.type", "langfuse.observation.model.name"
_USAGE = "langfuse.observation.usage_details"
_NAME, _METADATA = "langfuse.trace.name", "langfuse.trace.metadata"
_INPUT_TOKENS = ("input", "input_tokens", "prompt_tokens", "promptTokens")
_OUTPUT_TOKENS = ("output", "output_tokens", "completion_tokens", "completionTokens")


def read_langfuse(span: TracedSpan, events: Sequence[TracedEvent]) -> SpanReading | None:
    told = span.attributes
    if _TYPE not in told and _INPUT not in told:
        return None
    signs = signs_of(told)
    inputs, outputs = parsed(told.get(_INPUT)), parsed(told.get(_OUTPUT))
    asked, answered = asked_of(inputs), answered_by(outputs)
    output: Sequence[Step] = answered.steps
    if signs.kind == "chat":
        output = _replies(span, answered.steps, inputs)
    elif signs.kind == "tool":
        asked, output = ReadMessages(steps=()), [_tool_step(span, inputs, outputs)]
    return reading_of(
        signs,
        asked,
        answered,
        kind=signs.kind,
        output=output,
        tags=tags_of(told),
        metadata={key: told[key] for key in (_NAME, _METADATA) if key in told},
    )


def _replies(span: TracedSpan, steps: Sequence[Step], inputs: Any) -> list[Step]:
    options = inputs if isinstance(inputs, Mapping) else {}
    usage = parsed(span.attributes.get(_USAGE))
    usage = usage if isinstance(usage, Mapping) else {}
    model = first_text(span.attributes, (_MODEL,))
    return [
        replace(
            step,
            model=step.model or model,
            input_tokens=whole_number(usage, *_INPUT_TOKENS),
            output_tokens=whole_number(usage, *_OUTPUT_TOKENS),
        )
        for step in replies(span, steps, tools=read_tools(options.get("tools")))
    ]


def _tool_step(span: TracedSpan, inputs: Any, outputs: Any) -> Step:
    call = inputs if isinstance(inputs, Mapping) else {}
    message = outputs if isinstance(outputs, Mapping) else {}
    call_id = first_text(span.attributes, ("gen_ai.tool.call.id",))
    call_id = call_id or message.get("tool_call_id") or call.get("id")
    return tool_result(
        span,
        name=span.name,
        call_id=None if call_id is None else str(call_id),
        text=read_text(message.get("content", outputs)),
    )
