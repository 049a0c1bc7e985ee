"""MLflow's names: what its client and its automatic tracing write of calls, agents and tools.

Source: mlflow 3.18, tracing/constant.py; its client writes each value as JSON in a text.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from astuner.traces.messages import ReadMessages, read_text, read_tools
from astuner.traces.span import TracedEvent, TracedSpan
from astuner.traces.trace import Step
from astuner.traces.vocabularies.inputs import answered_by, asked_of
from astuner.traces.vocabularies.replies import reading_of, replies, tool_result
from astuner.traces.vocabularies.signs import signs_of, whole_number
from astuner.traces.vocabulary import SpanReading

_INPUTS, _OUTPUTS = "mlflow.spanInputs", "mlflow.spanOutputs"
_TOOLS, _USAGE, _TAGS = "mlflow.chat.tools", "mlflow.chat.tokenUsage", "mlflow.trace.tags"
_OTHERS = ("gen_ai.input.messages", "llm.input_messages.", "gen_ai.prompt", "agentscope.function.")
"""Names of contents that other vocabularies read; what MLflow adds to such spans tells less."""


def read_mlflow(span: TracedSpan, events: Sequence[TracedEvent]) -> SpanReading | None:
    given = span.attributes
    if "mlflow.spanType" not in given and _INPUTS not in given:
        return None
    if any(key.startswith(_OTHERS) for key in given):
        return None
    told = {key: _loaded(value) for key, value in given.items()}
    signs = signs_of(told)
    inputs, outputs = told.get(_INPUTS), told.get(_OUTPUTS)
    asked, answered = asked_of(inputs), answered_by(outputs)
    output: Sequence[Step] = answered.steps
    if signs.kind == "chat":
        output = _replies(span, answered.steps, told, inputs)
    elif signs.kind == "tool":
        asked, output = ReadMessages(steps=()), [_tool_step(span, outputs)]
    tags = told.get(_TAGS)
    return reading_of(
        signs,
        asked,
        answered,
        kind=signs.kind,
        output=output,
        metadata={"tags": tags} if isinstance(tags, Mapping) else {},
    )


def _replies(
    span: TracedSpan, steps: Sequence[Step], told: Mapping[str, Any], inputs: Any
) -> list[Step]:
    options = inputs if isinstance(inputs, Mapping) else {}
    tools = read_tools(told.get(_TOOLS) or options.get("tools"))
    usage = told.get(_USAGE)
    usage = usage if isinstance(usage, Mapping) else {}
    model = told.get("mlflow.llm.model") or options.get("model")
    return [
        replace(
            step,
            model=step.model or (str(model) if model else None),
            input_tokens=_either(step.input_tokens, whole_number(usage, "input_tokens")),
            output_tokens=_either(step.output_tokens, whole_number(usage, "output_tokens")),
        )
        for step in replies(span, steps, tools=tools)
    ]


def _tool_step(span: TracedSpan, outputs: Any) -> Step:
    message = outputs if isinstance(outputs, Mapping) else {}
    call_id = message.get("tool_call_id")
    return tool_result(
        span,
        name=span.name,
        call_id=None if call_id is None else str(call_id),
        text=read_text(message.get("content", outputs)),
    )


def _either(some: int | None, other: int | None) -> int | None:
    return other if some is None else some


def _loaded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
