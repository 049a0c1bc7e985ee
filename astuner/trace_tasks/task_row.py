"""A candidate that passed all steps as a task, with what judges and people want to know of it."""

from typing import Any

from astuner.trace_tasks.candidate import Candidate
from astuner.trace_tasks.conversation import chat_messages
from astuner.trace_tasks.turn_ids import task_id_of
from astuner.trace_tasks.turns import feedback_on, is_failed, own_answer, reply_of
from astuner.traces.trace import TraceFeedback
from astuner.types import Task

_OWN = ("accepted", "feedback", "judge")
"""References that the deployed model wrote itself."""


def task_of(candidate: Candidate) -> Task:
    """Judges find the reference in `metadata["answer"]`, where there is one."""
    before = candidate.trace.steps[: candidate.asked_at]
    return Task(
        main_query=candidate.question,
        init_messages=chat_messages(before),
        task_id=task_id_of(candidate),
        metadata={key: value for key, value in _metadata(candidate).items() if _is_told(value)},
    )


def _metadata(candidate: Candidate) -> dict[str, Any]:
    trace = candidate.trace
    steps = trace.steps[: candidate.asked_at + 1]
    return {
        "answer": candidate.reference,
        "reference_from": candidate.reference_from,
        "reference_is_models_own": candidate.reference_from in _OWN or None,
        "score": candidate.score,
        "recorded_answer": own_answer(candidate),
        "has_failed": is_failed(candidate) or None,
        "feedback": [_told(one) for one in feedback_on(candidate)],
        "tools": _tools(candidate),
        "trace_id": trace.trace_id,
        "session": trace.session,
        "agent": trace.agent,
        "model": next((step.model for step in reply_of(candidate) if step.model), None),
        "tags": list(trace.tags),
        "intent": candidate.intent,
        "asked": trace.steps[candidate.asked_at].started or trace.started,
        "trace_source": trace.origin.source,
        "num_left_out": sum(step.num_left_out for step in steps) or None,
    }


def _tools(candidate: Candidate) -> list[dict[str, Any]]:
    """As they were offered in the turn; where that is not known, the last time before it."""
    steps = candidate.trace.steps
    places = (*reply_of(candidate), *reversed(steps[: candidate.asked_at]))
    return next(([dict(tool) for tool in step.tools] for step in places if step.tools), [])


def _told(feedback: TraceFeedback) -> dict[str, Any]:
    fields = {
        "name": feedback.name,
        "score": feedback.score,
        "label": feedback.label,
        "comment": feedback.comment,
        "by": feedback.by,
        "correction": feedback.correction,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _is_told(value: Any) -> bool:
    return value is not None and value != []
