"""The paired differences between two models over some tasks: in success, reward and cost."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from astuner.evaluation.intervals import (
    Interval,
    detectable_difference,
    difference_interval,
    t_quantile,
)
from astuner.evaluation.outcomes import AttemptOutcome, TaskOutcomes
from astuner.evaluation.pairing import PairedTask, judged_pairs
from astuner.evaluation.sign_flips import FlipTest, flip_test
from astuner.evaluation.tags import tasks_by_tag

_SIGNIFICANT = 0.05

Finding = Literal["better", "worse", "no difference shown", "not known"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """Of b over a, in the mean over tasks."""

    mean_a: float
    mean_b: float
    mean: float
    """b - a, of the tasks that were judged on both sides."""
    interval: Interval | None
    """None: not known, as of a single task; so the next three."""
    test: FlipTest | None
    detectable: float | None
    """The smallest true difference that so many tasks show with 80% power at 5%."""
    num_tasks: int

    @property
    def finding(self) -> Finding:
        """Better or worse where interval and test both say so."""
        if self.interval is None or self.test is None:
            return "not known"
        if self.test.p_value > _SIGNIFICANT:
            return "no difference shown"
        if self.interval.is_above_zero:
            return "better"
        return "worse" if self.interval.is_below_zero else "no difference shown"


@dataclass(frozen=True, slots=True, kw_only=True)
class RelativeChange:
    """Of a cost: how much more of it b needs, as a share of what a needs."""

    mean_a: float
    mean_b: float
    share: float
    """0.2: a fifth more."""
    interval: Interval | None
    num_tasks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedGroup:
    """The tasks with one value of a tag."""

    num_tasks: int
    success: PairedDifference | None
    """None: no task was judged on both sides; so the next two."""
    reward: PairedDifference | None
    sampled_tokens: RelativeChange | None


def compare_by_tag(pairs: Sequence[PairedTask], field: str) -> dict[str, ComparedGroup]:
    """Value of the tag -> its tasks, the most first. Raises ConfigError for a tag without tasks."""
    by_digest = {pair.a.digest: pair for pair in pairs}
    parts = tasks_by_tag([pair.a for pair in pairs], field)
    return {
        value: compare_group([by_digest[task.digest] for task in tasks])
        for value, tasks in parts.items()
    }


def compare_group(pairs: Sequence[PairedTask]) -> ComparedGroup:
    """The differences over these tasks."""
    return ComparedGroup(
        num_tasks=len(pairs),
        success=_difference(pairs, lambda task: task.success_share),
        reward=_difference(pairs, lambda task: task.mean_reward),
        sampled_tokens=relative_change(pairs, lambda attempt: float(attempt.num_sampled_tokens)),
    )


def _difference(
    pairs: Sequence[PairedTask], measure: Callable[[TaskOutcomes], float]
) -> PairedDifference | None:
    judged = judged_pairs(pairs)
    if not judged:
        return None
    own, other = [measure(pair.a) for pair in judged], [measure(pair.b) for pair in judged]
    changes = [b - a for a, b in zip(own, other, strict=True)]
    is_known = len(changes) > 1
    return PairedDifference(
        mean_a=fmean(own),
        mean_b=fmean(other),
        mean=fmean(changes),
        interval=difference_interval(changes),
        test=flip_test(changes) if is_known else None,
        detectable=detectable_difference(changes),
        num_tasks=len(changes),
    )


def relative_change(
    pairs: Sequence[PairedTask], cost: Callable[[AttemptOutcome], float]
) -> RelativeChange | None:
    """Of the mean cost of judged attempts; by the delta method for a ratio of paired means
    (Cochran 1977, "Sampling Techniques", section 2.11), taken on the logarithm."""
    judged = judged_pairs(pairs)
    own = [fmean(map(cost, pair.a.judged)) for pair in judged]
    other = [fmean(map(cost, pair.b.judged)) for pair in judged]
    if not judged or not sum(own):
        return None
    mean_a, mean_b = fmean(own), fmean(other)
    return RelativeChange(
        mean_a=mean_a,
        mean_b=mean_b,
        share=mean_b / mean_a - 1,
        interval=_ratio_interval(own, other) if len(judged) > 1 and mean_b > 0 else None,
        num_tasks=len(judged),
    )


def _ratio_interval(own: Sequence[float], other: Sequence[float]) -> Interval:
    mean_a, mean_b = fmean(own), fmean(other)
    parts = [b / mean_b - a / mean_a for a, b in zip(own, other, strict=True)]
    reach = t_quantile(len(parts) - 1) * stdev(parts) / math.sqrt(len(parts))
    ratio = mean_b / mean_a
    return Interval(low=ratio * math.exp(-reach) - 1, high=ratio * math.exp(reach) - 1)
