"""The answer that a turn is judged against: whoever gave it stands beside it.

What the deployed model answered is no reference on its own: learning towards it would teach its
mistakes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from astuner.config.sections.trace_filters import ReferenceKind, ReferenceParams
from astuner.trace_tasks.candidate import Candidate
from astuner.trace_tasks.step import Candidates, StepCount
from astuner.trace_tasks.turns import (
    feedback_on_answer,
    is_bad,
    is_taken,
    mean_score,
    own_answer,
    reply_of,
)

_Find = Callable[[Candidate, ReferenceParams], str | None]


def find_reference(candidate: Candidate, params: ReferenceParams) -> Candidate:
    """With the first answer in the order of the params; as it is where there is none."""
    for kind in params.order:
        found = _FINDERS[kind](candidate, params)
        if found:
            return replace(candidate, reference=found, reference_from=kind)
    return candidate


@dataclass(frozen=True, slots=True)
class ReferenceStep:
    """Notes how many have which reference."""

    params: ReferenceParams

    async def __call__(self, candidates: Candidates, count: StepCount) -> Candidates:
        async for candidate in candidates:
            count.num_in += 1
            found = find_reference(candidate, self.params)
            if found.reference is None and self.params.is_required:
                count.drop("no reference answer")
                continue
            count.notes[f"reference: {found.reference_from or 'none'}"] += 1
            count.num_out += 1
            yield found


def _correction(candidate: Candidate, params: ReferenceParams) -> str | None:
    """The newest one."""
    del params
    written = [one for one in feedback_on_answer(candidate) if (one.correction or "").strip()]
    newest = max(written, key=lambda one: one.told or 0.0, default=None)
    return None if newest is None else (newest.correction or "").strip()


def _accepted(candidate: Candidate, params: ReferenceParams) -> str | None:
    del params
    feedback = feedback_on_answer(candidate)
    is_accepted = any(map(is_taken, feedback)) and not any(map(is_bad, feedback))
    return own_answer(candidate) if is_accepted else None


def _tool_result(candidate: Candidate, params: ReferenceParams) -> str | None:
    results = [
        step.text.strip()
        for step in reply_of(candidate)
        if step.role == "tool" and step.name in params.tools and step.error is None
    ]
    return results[-1] if results else None


def _by_feedback(candidate: Candidate, params: ReferenceParams) -> str | None:
    feedback = feedback_on_answer(candidate)
    score = mean_score(feedback)
    is_backed = score is not None and score > params.feedback_above
    return own_answer(candidate) if is_backed and not any(map(is_bad, feedback)) else None


_FINDERS: Mapping[ReferenceKind, _Find] = {
    "correction": _correction,
    "accepted": _accepted,
    "tool_result": _tool_result,
    "feedback": _by_feedback,
}
