"""What every vocabulary of span attributes tells, in one form.

A vocabulary is a file of `vocabularies/` with a function from a span and its log events to this, or
to None where the span does not speak it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from astuner.traces.trace import Step, TraceFeedback

SpanKind = Literal["chat", "agent", "tool", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanReading:
    """What one span says, whoever instrumented it."""

    kind: SpanKind
    input: Sequence[Step] = ()
    """The conversation that a model was asked with, whole, its system's words first; for an agent,
    what it was asked; for a tool, nothing."""
    output: Sequence[Step] = ()
    """The replies of a model, one as a rule, with tools offered, tokens and time; for an agent, its
    answer; for a tool, its result."""
    session: str | None = None
    user: str | None = None
    agent: str | None = None
    tags: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Of the whole trace, as JSON values."""
    feedback: Sequence[TraceFeedback] = ()
    num_unreadable: int = 0
    """Messages that did not parse."""
