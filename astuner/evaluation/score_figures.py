"""All figures of some tasks, and how they are reckoned."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from astuner.evaluation.intervals import Interval, mean_interval, share_interval
from astuner.evaluation.outcomes import AttemptOutcome, TaskOutcomes
from astuner.evaluation.passes import pass_all_k, pass_at_k


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over tasks, each of which counts alike, whatever number of its attempts failed."""

    mean: float
    interval: Interval | None
    """None: not known, as of a single task."""
    num_tasks: int
    """Those with enough attempts that did not fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Means over all attempts of which anything is recorded, failed ones too."""

    sampled_tokens: float
    prompt_tokens: float
    calls: float
    seconds: float
    total_tokens: int
    """Sampled and prompt, of all attempts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Of all tasks, or of those with one value of a tag."""

    num_tasks: int
    num_episodes: int
    num_failed: int
    """Episodes without a verdict; they count nowhere else but in the costs."""
    num_unsuccessful: int
    """Episodes that were judged and were no success."""
    failures: Mapping[str, int]
    """Kind of failure -> episodes, the commonest first."""
    num_format_errors: int
    """Episodes with one."""
    format_errors: Mapping[str, int]
    """Kind of format error -> episodes, the commonest first."""
    success: Estimate | None
    """None: no episode was judged; so the next."""
    reward: Estimate | None
    pass_at: Mapping[int, Estimate]
    """k -> probability that one of k attempts succeeds; k = 1, 2, 4 … as far as there are tasks
    with so many judged attempts."""
    pass_all: Mapping[int, Estimate]
    """k -> probability that all k succeed."""
    costs: Costs | None
    """None: there is no episode."""

    @property
    def failed_share(self) -> float | None:
        return self.num_failed / self.num_episodes if self.num_episodes else None

    @property
    def format_error_share(self) -> float | None:
        return self.num_format_errors / self.num_episodes if self.num_episodes else None


def score_of(tasks: Sequence[TaskOutcomes]) -> Score:
    """All figures of these tasks."""
    attempts = [attempt for task in tasks for attempt in task.attempts]
    judged = [attempt for task in tasks for attempt in task.judged]
    most = max((len(task.judged) for task in tasks), default=0)
    numbers_of_attempts = [2**power for power in range(most.bit_length())]
    return Score(
        num_tasks=len(tasks),
        num_episodes=len(attempts),
        num_failed=len(attempts) - len(judged),
        num_unsuccessful=sum(attempt.is_success is False for attempt in judged),
        failures=_counted(a.failure or "unknown" for a in attempts if a.reward is None),
        num_format_errors=sum(bool(attempt.format_errors) for attempt in attempts),
        format_errors=_counted(kind for a in attempts for kind in a.format_errors),
        success=_passes(tasks, 1, is_any=True),
        reward=_reward(tasks),
        pass_at=_estimates(tasks, numbers_of_attempts, is_any=True),
        pass_all=_estimates(tasks, numbers_of_attempts, is_any=False),
        costs=_costs(attempts),
    )


def _counted(kinds: Iterable[str]) -> dict[str, int]:
    return dict(Counter(kinds).most_common())


def _estimates(
    tasks: Sequence[TaskOutcomes], numbers: Sequence[int], *, is_any: bool
) -> dict[int, Estimate]:
    found = {k: _passes(tasks, k, is_any=is_any) for k in numbers}
    return {k: estimate for k, estimate in found.items() if estimate is not None}


def _passes(tasks: Sequence[TaskOutcomes], k: int, *, is_any: bool) -> Estimate | None:
    """Over the tasks with k judged attempts; None where there are none."""
    estimator = pass_at_k if is_any else pass_all_k
    counts = [(len(task.judged), task.num_successes) for task in tasks if len(task.judged) >= k]
    if not counts:
        return None
    values = [estimator(num_judged, num_successes, k) for num_judged, num_successes in counts]
    num_draws = sum(num_judged // k for num_judged, _ in counts)
    interval = share_interval(values, num_attempts=num_draws)
    return Estimate(mean=fmean(values), interval=interval, num_tasks=len(values))


def _reward(tasks: Sequence[TaskOutcomes]) -> Estimate | None:
    rewards = [[a.reward for a in task.judged if a.reward is not None] for task in tasks]
    rewards = [own for own in rewards if own]
    if not rewards:
        return None
    means = [fmean(own) for own in rewards]
    bounds = (min(map(min, rewards)), max(map(max, rewards)))
    is_either = all(reward in bounds for own in rewards for reward in own)
    num_attempts = sum(map(len, rewards)) if is_either else None
    interval = mean_interval(means, bounds=bounds, num_attempts=num_attempts)
    return Estimate(mean=fmean(means), interval=interval, num_tasks=len(means))


def _costs(attempts: Sequence[AttemptOutcome]) -> Costs | None:
    if not attempts:
        return None
    return Costs(
        sampled_tokens=fmean(a.num_sampled_tokens for a in attempts),
        prompt_tokens=fmean(a.num_prompt_tokens for a in attempts),
        calls=fmean(a.num_calls for a in attempts),
        seconds=fmean(a.seconds for a in attempts),
        total_tokens=sum(a.num_sampled_tokens + a.num_prompt_tokens for a in attempts),
    )
