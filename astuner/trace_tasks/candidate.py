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
    turn: int | None = None
    """Index in `trace.steps` of the user's message that is the question; what stands before it
    becomes `Task.init_messages`. None until the trace was cut."""
    reference: str | None = None
    reference_from: ReferenceFrom | None = None
    score: float | None = None
    """From 0 to 1, of a judge that was asked."""
    intent: str | None = None
    """What `balance` counted it as, where a field of the metadata says."""

    @property
    def asked_at(self) -> int:
        """`turn`, behind the cut."""
        assert self.turn is not None, "steps that need turns stand behind the cut"
        return self.turn

    @property
    def question(self) -> str:
        return self.trace.steps[self.asked_at].text
