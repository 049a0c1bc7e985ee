"""What belongs to a turn of a trace: its reply, the model's own answer, and what was said of it."""

from collections.abc import Iterable, Sequence

from astuner.trace_tasks.candidate import Candidate
from astuner.traces.trace import Step, Trace, TraceFeedback

_GOOD = frozenset(
    {"accepted", "accept", "approved", "correct", "good", "positive", "thumbs_up", "thumbs-up"}
    | {"helpful", "like", "liked", "pass", "passed", "true", "yes", "up", "👍"}
)
_BAD = frozenset(
    {"rejected", "reject", "incorrect", "wrong", "bad", "negative", "thumbs_down", "thumbs-down"}
    | {"unhelpful", "dislike", "disliked", "fail", "failed", "false", "no", "down", "👎"}
)
_TAKEN = frozenset({"accepted", "accept", "approved"})


def user_turns(trace: Trace) -> list[int]:
    """Indices of the messages of users that say something."""
    return [
        index for index, step in enumerate(trace.steps) if step.role == "user" and step.text.strip()
    ]


def reply_of(candidate: Candidate) -> Sequence[Step]:
    """All steps up to the user's next message."""
    steps = candidate.trace.steps
    begin = candidate.asked_at + 1
    end = next((at for at in range(begin, len(steps)) if steps[at].role == "user"), len(steps))
    return steps[begin:end]


def own_answer(candidate: Candidate) -> str | None:
    """What the model said last in the turn; None where it failed, or ended by calling a tool."""
    reply = reply_of(candidate)
    if not reply or reply[-1].role != "assistant" or reply[-1].error or reply[-1].tool_calls:
        return None
    return reply[-1].text.strip() or None


def is_failed(candidate: Candidate) -> bool:
    """Of the trace before the cut; behind it, of the turn, or where it is the last one of a trace
    that failed as a whole."""
    if candidate.turn is None:
        return candidate.trace.is_failed
    if any(step.error is not None for step in reply_of(candidate)):
        return True
    return candidate.trace.error is not None and is_last(candidate)


def is_last(candidate: Candidate) -> bool:
    """Whether no user says anything behind it."""
    return all(step.role != "user" for step in candidate.trace.steps[candidate.asked_at + 1 :])


def feedback_on(candidate: Candidate) -> list[TraceFeedback]:
    """Before the cut, all; behind it, what names a call of the turn, and what is of the whole."""
    feedback = candidate.trace.feedback
    if candidate.turn is None:
        return list(feedback)
    return [one for one in feedback if one.span_id is None or one.span_id in _spans(candidate)]


def feedback_on_answer(candidate: Candidate) -> list[TraceFeedback]:
    """What says something of the turn's own answer: of the whole, it speaks of the last one."""
    whole = is_last(candidate)
    return [one for one in feedback_on(candidate) if one.span_id is not None or whole]


def mean_score(feedback: Iterable[TraceFeedback]) -> float | None:
    """A label without a score counts 1 where it is a word for good, 0 where it is one for bad."""
    scores = [score for one in feedback if (score := _score(one)) is not None]
    return sum(scores) / len(scores) if scores else None


def is_bad(feedback: TraceFeedback) -> bool:
    return _label(feedback) in _BAD


def is_taken(feedback: TraceFeedback) -> bool:
    """Whether a person took the answer as it was."""
    return _label(feedback) in _TAKEN and feedback.by not in ("model", "code")


def _score(feedback: TraceFeedback) -> float | None:
    if feedback.score is not None:
        return feedback.score
    label = _label(feedback)
    return 1.0 if label in _GOOD else 0.0 if label in _BAD else None


def _label(feedback: TraceFeedback) -> str:
    return (feedback.label or "").strip().lower().replace(" ", "_")


def _spans(candidate: Candidate) -> set[str]:
    steps = (candidate.trace.steps[candidate.asked_at], *reply_of(candidate))
    return {step.span_id for step in steps if step.span_id is not None}
