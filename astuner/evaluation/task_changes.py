"""Which tasks a model won and lost against another, each with an episode that shows it."""

from collections.abc import Sequence
from dataclasses import dataclass

from astuner.evaluation.outcomes import AttemptOutcome, TaskOutcomes
from astuner.evaluation.pairing import PairedTask, judged_pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedTask:
    """A task that b did better or worse."""

    task_id: str
    success_a: float
    """Share of the judged attempts."""
    success_b: float
    reward_a: float
    """Mean over the judged attempts."""
    reward_b: float
    episode_a: str
    """Id of an attempt that shows it: of b's gain one that a did not solve, of a loss one that it
    did."""
    episode_b: str


def task_changes(pairs: Sequence[PairedTask]) -> tuple[list[ChangedTask], list[ChangedTask]]:
    """Won and lost, each with the largest change first."""
    changes = [_task_change(pair) for pair in judged_pairs(pairs)]
    by_size = sorted(changes, key=_gain, reverse=True)
    won = [change for change in by_size if _gain(change) > (0, 0)]
    lost = [change for change in reversed(by_size) if _gain(change) < (0, 0)]
    return won, lost


def _gain(change: ChangedTask) -> tuple[float, float]:
    return change.success_b - change.success_a, change.reward_b - change.reward_a


def _task_change(pair: PairedTask) -> ChangedTask:
    is_gain = (pair.b.success_share, pair.b.mean_reward) >= (
        pair.a.success_share,
        pair.a.mean_reward,
    )
    worst, best = (pair.a, pair.b) if is_gain else (pair.b, pair.a)
    low = min(worst.judged, key=_worth).episode_id
    high = max(best.judged, key=_worth).episode_id
    return ChangedTask(
        task_id=pair.a.task_id,
        success_a=pair.a.success_share,
        success_b=pair.b.success_share,
        reward_a=pair.a.mean_reward,
        reward_b=pair.b.mean_reward,
        episode_a=low if is_gain else high,
        episode_b=high if is_gain else low,
    )


def _standing(task: TaskOutcomes) -> tuple[float, float]:
    return task.success_share, task.mean_reward


def _worth(attempt: AttemptOutcome) -> tuple[bool, float]:
    return attempt.is_success is True, attempt.reward or 0.0
