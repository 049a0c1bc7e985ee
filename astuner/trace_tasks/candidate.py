"""A turn of a trace that may become a task."""

from dataclasses import dataclass
from typing import Literal

from astuner.traces.trace import Trace

ReferenceFrom = Literal["correction", "accepted", "tool_result", "feedback", "judge"]
"""Who backs a reference answer: a person wrote it, a person took it, a tool said it, or the model's
own answer was found good by people or by a judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Steps are only ever taken from it, with a reason for those that are dropped."""

    trace: Trace
    turn: int
    """Index in `trace.steps` of the user's message that is the question; what stands before it
    becomes `Task.init_messages`."""
    reference: str | None = None
    reference_from: ReferenceFrom | None = None
    score: float | None = None
    """From 0 to 1, of a judge that was asked."""

    @property
    def question(self) -> str:
        return self.trace.steps[self.turn].text
