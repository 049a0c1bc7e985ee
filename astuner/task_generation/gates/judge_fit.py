"""The gate of answers that the run's judge cannot judge by."""

from typing import Protocol

from astuner.errors import JudgeError
from astuner.task_generation.draft import DraftCandidate, GateRejection
from astuner.task_generation.made_task import task_of
from astuner.types import Task

_WRONG_ANSWERS = ("", "I do not know.")


class JudgeOfAnswers(Protocol):
    async def is_right(self, task: Task, answer: str) -> bool | None:
        """What the judge says of this final answer; None where it would have to ask a model, or
        cannot be asked outside of a run. Raises JudgeError for a task that it cannot judge by."""
        ...


class JudgeFitGate:
    """A draft stays where the judge takes its answer for right, and an empty one and "I do not
    know." for wrong; and where the judge cannot be asked."""

    name = "judge_fit"

    def __init__(self, judge: JudgeOfAnswers) -> None:
        self._judge = judge

    async def check(self, candidate: DraftCandidate) -> DraftCandidate | GateRejection:
        try:
            reason = await self._find_reason(task_of(candidate), candidate.draft.answer)
        except JudgeError as error:
            reason = f"the judge cannot judge by it: {error}"
        if reason is None:
            return candidate
        return GateRejection(gate=self.name, reason=reason)

    async def _find_reason(self, task: Task, answer: str) -> str | None:
        if await self._judge.is_right(task, answer) is False:
            return f"the judge takes the draft's own answer for wrong: {answer[:100]!r}"
        for wrong in _WRONG_ANSWERS:
            if await self._judge.is_right(task, wrong):
                return f"the judge takes {wrong!r} for right, where it is {answer[:100]!r}"
        return None
