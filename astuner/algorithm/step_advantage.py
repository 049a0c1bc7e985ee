"""Advantages of single calls: from the step rewards of a role's groups to one number per call.

Pure Python, of the role's groups in one step as `advantage.py` is of its rewards. Every group is
compared within itself. A group whose episodes all have the same returns gives zeros.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from astuner.algorithm.advantage import EPSILON, grpo

_ROUNDING = 1e-12
"""Relative: outcomes are what is left of a total, so equal ones differ by so much at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSteps:
    """What one role earned in one episode.

    Two calls, of which the first earned 0.5, and 1.0 at the end:
    RoleSteps(outcome=1.0, rewards=(0.5, 0.0), states=("start", "key found"))
    """

    outcome: float
    """Earned by the whole, with penalties taken off; due at the last call."""
    rewards: tuple[float, ...]
    """One for each call of the role, in order; empty where it made none."""
    states: tuple[str, ...]
    """What each call was made in; calls in an equal state can be compared."""

    def returns(self, gamma: float) -> tuple[float, ...]:
        """G_t, the sum over k >= t of gamma^(k - t) r_k; without a call the outcome alone."""
        due = list(self.rewards) or [0.0]
        due[-1] += self.outcome
        for index in range(len(due) - 2, -1, -1):
            due[index] += gamma * due[index + 1]
        return tuple(due)


Returns = list[tuple[float, ...]]
"""Of each episode of a group, one number per call."""
StepAdvantageFunction = Callable[[Sequence[RoleSteps], float, float], Returns]
"""One group, the discount and the weight of steps to advantages, one for each return."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAdvantage:
    """An estimator with its settings; gives each call of a role its advantage."""

    function: StepAdvantageFunction
    gamma: float
    """Discount over the calls of one role in one episode."""
    weight: float
    """Of the step-level part, where there is one."""

    def of_group(self, group: Sequence[RoleSteps]) -> Returns:
        """One tuple per episode, one number per call; raises ValueError for an empty group."""
        if not group:
            raise ValueError("a group needs at least one episode")
        found = self.function(group, self.gamma, self.weight)
        return [values if steps.rewards else () for values, steps in zip(found, group, strict=True)]


def return_to_go(group: Sequence[RoleSteps], gamma: float, _weight: float) -> Returns:
    """(G_t - mu) / deviation, where every episode counts once, however many calls it has.

    mu is the mean over episodes of the mean over calls, and the deviation the root of the sum over
    episodes of their calls' mean (G_t - mu)^2, over n - 1: with an outcome only and gamma 1 it is
    `grpo`. Source: the policy gradient theorem with reward to go, R. S. Sutton et al. 1999; the
    group's own scale as in process supervision, DeepSeekMath, arXiv 2402.03300, section 4.1.3.
    """
    returns = [steps.returns(gamma) for steps in group]
    if all(_are_equal(one, returns[0]) for one in returns):
        return _zeros(returns)
    mean = statistics.fmean(map(statistics.fmean, returns))
    squares = math.fsum(statistics.fmean((value - mean) ** 2 for value in one) for one in returns)
    deviation = math.sqrt(squares / (len(returns) - 1))
    return [tuple((value - mean) / (deviation + EPSILON) for value in one) for one in returns]


def gigpo(group: Sequence[RoleSteps], gamma: float, weight: float) -> Returns:
    """The episode's advantage by its total, plus `weight` times that of a call in its state.

    Calls of the group in an equal state are compared by their discounted returns, whichever episode
    they are of; a state that occurs once adds 0. Both are centred and divided by their deviation.
    Source: GiGPO, arXiv 2505.10978, section 4.
    """
    returns = [steps.returns(gamma) for steps in group]
    of_episode = _standardized([steps.outcome + math.fsum(steps.rewards) for steps in group])
    of_state = _within_states(group, returns)
    return [
        tuple(episode + weight * of_state.get((i, t), 0.0) for t in range(len(returns[i])))
        for i, episode in enumerate(of_episode)
    ]


def _within_states(group: Sequence[RoleSteps], returns: Returns) -> dict[tuple[int, int], float]:
    """Index of the episode and of the call there -> advantage among the calls in its state."""
    places: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for i, steps in enumerate(group):
        for t, state in enumerate(steps.states):
            places[state].append((i, t))
    found: dict[tuple[int, int], float] = {}
    for same in places.values():
        values = _standardized([returns[i][t] for i, t in same])
        found |= zip(same, values, strict=True)
    return found


def _standardized(values: list[float]) -> list[float]:
    if _are_equal(values, values[:1] * len(values)):
        return [0.0] * len(values)
    return grpo([values])[0]


def _are_equal(some: Sequence[float], others: Sequence[float]) -> bool:
    return len(some) == len(others) and all(
        math.isclose(one, other, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
        for one, other in zip(some, others, strict=True)
    )


def _zeros(returns: Iterable[Sequence[float]]) -> Returns:
    return [(0.0,) * len(one) for one in returns]


STEP_ADVANTAGES: dict[str, StepAdvantageFunction] = {"return_to_go": return_to_go, "gigpo": gigpo}
"""By the name in `algorithm.adv_estimator`."""
