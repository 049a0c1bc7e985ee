"""Which vocabularies there are, and the one that a span speaks."""

from collections.abc import Callable, Sequence

from astuner.traces.span import TracedEvent, TracedSpan
from astuner.traces.vocabularies.agentscope import read_agentscope
from astuner.traces.vocabularies.genai import read_genai
from astuner.traces.vocabularies.genai_old import read_genai_old
from astuner.traces.vocabularies.langfuse import read_langfuse
from astuner.traces.vocabularies.mlflow import read_mlflow
from astuner.traces.vocabularies.openinference import read_openinference
from astuner.traces.vocabulary import SpanReading

Vocabulary = Callable[[TracedSpan, Sequence[TracedEvent]], SpanReading | None]
VOCABULARIES: tuple[Vocabulary, ...] = (
    read_agentscope,
    read_openinference,
    read_langfuse,
    read_mlflow,
    read_genai_old,
    read_genai,
)
"""The more special ones first; the first that finds its names counts."""


def read_span(span: TracedSpan, events: Sequence[TracedEvent] = ()) -> SpanReading:
    """What a span says; `events` are the log records that name it, its own ones are looked at too.

    A span that speaks no vocabulary says nothing.
    """
    said = [*span.events, *events]
    for vocabulary in VOCABULARIES:
        if (reading := vocabulary(span, said)) is not None:
            return reading
    return SpanReading(kind="other")
