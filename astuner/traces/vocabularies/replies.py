"""What every vocabulary makes alike: readings, and what the span adds to the replies of a call."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from astuner.traces.messages import ReadMessages
from astuner.traces.span import TracedSpan
from astuner.traces.trace import Step
from astuner.traces.vocabularies.signs import SpanSigns, signs_of, whole_number
from astuner.traces.vocabulary import SpanKind, SpanReading

INPUT_TOKENS = (
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.prompt_tokens",
    "llm.token_count.prompt",
    "llm.usage.prompt_tokens",
)
OUTPUT_TOKENS = (
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.completion_tokens",
    "llm.token_count.completion",
    "llm.usage.completion_tokens",
)


def reading_of(
    signs: SpanSigns,
    asked: ReadMessages,
    answered: ReadMessages,
    *,
    kind: SpanKind,
    output: Sequence[Step],
    tags: Sequence[str] = (),
    metadata: Mapping[str, Any] = MappingProxyType({}),
) -> SpanReading:
    """What a span says; `output` is what became of the messages in `answered`."""
    return SpanReading(
        kind=kind,
        input=asked.steps,
        output=output,
        session=signs.session,
        user=signs.user,
        agent=signs.agent,
        tags=tags,
        metadata=metadata,
        num_unreadable=asked.num_unreadable + answered.num_unreadable,
    )


def replies(
    span: TracedSpan, steps: Sequence[Step], *, tools: Sequence[Mapping[str, Any]] = ()
) -> list[Step]:
    """The steps with model, agent, tools, tokens, times and error of the call.

    A call that failed without a word is one reply, without text.
    """
    if not steps and span.error is not None:
        steps = [Step(role="assistant", text="")]
    signs = signs_of(span.attributes)
    return [
        replace(
            step,
            role="assistant",
            span_id=span.span_id or None,
            agent=signs.agent,
            model=signs.model,
            tools=tuple(tools),
            input_tokens=whole_number(span.attributes, *INPUT_TOKENS),
            output_tokens=whole_number(span.attributes, *OUTPUT_TOKENS),
            started=span.started,
            seconds=seconds_of(span),
            error=span.error,
        )
        for step in steps
    ]


def tool_result(span: TracedSpan, *, name: str | None, call_id: str | None, text: str) -> Step:
    """What a span of a tool tells of one result."""
    return Step(
        role="tool",
        text=text,
        name=name,
        tool_call_id=call_id,
        span_id=span.span_id or None,
        started=span.started,
        seconds=seconds_of(span),
        error=span.error,
    )


def seconds_of(span: TracedSpan) -> float | None:
    """None also where the clock went back."""
    if span.started is None or span.ended is None or span.ended < span.started:
        return None
    return span.ended - span.started
