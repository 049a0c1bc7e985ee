"""Advantages: from the rewards of a step's groups to one number per episode.

Pure Python. Which episodes belong to a group, and what is left out, is decided elsewhere. Every
function raises ValueError for an empty group and for a reward that is not finite.
"""

import math
import statistics
from collections.abc import Callable, Sequence

from astuner.errors import BackboneError

Rewards = Sequence[Sequence[float]]
"""Of each group of the step, in order."""

AdvantageFunction = Callable[[Rewards], list[list[float]]]
"""Rewards to advantages of the same shape."""

EPSILON = 1e-6
"""Added to the deviation, as verl and TRL do; keeps rewards that differ by noise near zero."""


def grpo(groups: Rewards) -> list[list[float]]:
    """Centre each group and divide it by its standard deviation (the sample's, divisor n - 1).

    Source: GRPO, arXiv 2402.03300, section 4.1.2.
    """
    return [
        _standardized(rewards) if has_spread(rewards) else _zeros(rewards) for rewards in groups
    ]


def dr_grpo(groups: Rewards) -> list[list[float]]:
    """Centre each group; groups with little spread count less than with `grpo`.

    Source: Dr. GRPO, arXiv 2503.20783, section 3.2.
    """
    return [_centred(rewards) if has_spread(rewards) else _zeros(rewards) for rewards in groups]


def rloo(groups: Rewards) -> list[list[float]]:
    """Each reward minus the mean of the others of its group: `dr_grpo` times n / (n - 1).

    Source: RLOO, arXiv 2402.14740, section 3.2.
    """
    return [
        [value * len(rewards) / (len(rewards) - 1) for value in _centred(rewards)]
        if has_spread(rewards)
        else _zeros(rewards)
        for rewards in groups
    ]


def reinforce_plus_plus(groups: Rewards) -> list[list[float]]:
    """Standardize over the whole step, groups apart: no baseline of their own for tasks.

    A group whose rewards are all equal still learns from the others. Source: REINFORCE++,
    arXiv 2501.03262, section 3.
    """
    return _over_the_step([list(rewards) for rewards in groups if _checked(rewards)])


def reinforce_plus_plus_baseline(groups: Rewards) -> list[list[float]]:
    """Centre each group, then divide by the deviation over the whole step.

    Source: REINFORCE++ with baseline, arXiv 2501.03262, section 3.
    """
    scaled = _over_the_step(dr_grpo(groups))
    # The mean over the step is 0 up to rounding, which is no reason to train a flat group.
    return [
        values if has_spread(rewards) else _zeros(rewards)
        for values, rewards in zip(scaled, groups, strict=True)
    ]


def has_spread(rewards: Sequence[float]) -> bool:
    """Whether the rewards of one group differ, so that its episodes can be told apart."""
    return _checked(rewards) and min(rewards) != max(rewards)


def checked_advantages(function: AdvantageFunction, groups: Rewards) -> list[list[float]]:
    """What a user's function gives. Raises BackboneError unless that is a number per reward."""
    name = getattr(function, "__qualname__", repr(function))
    found = [[float(value) for value in of_group] for of_group in function(groups)]
    shapes = [len(of_group) for of_group in found], [len(rewards) for rewards in groups]
    if shapes[0] != shapes[1]:
        raise BackboneError(
            f"advantage {name}: gave groups of {shapes[0]} values for groups of {shapes[1]} rewards"
        )
    if not all(math.isfinite(value) for of_group in found for value in of_group):
        raise BackboneError(f"advantage {name}: gave a value that is not finite: {found}")
    return found


def _checked(rewards: Sequence[float]) -> bool:
    if not rewards:
        raise ValueError("a group needs at least one reward")
    if not all(math.isfinite(reward) for reward in rewards):
        raise ValueError(f"a reward is not finite: {list(rewards)}")
    return True


def _zeros(rewards: Sequence[float]) -> list[float]:
    return [0.0] * len(rewards)


def _centred(rewards: Sequence[float]) -> list[float]:
    mean = statistics.fmean(rewards)
    return [reward - mean for reward in rewards]


def _standardized(rewards: Sequence[float]) -> list[float]:
    deviation = statistics.stdev(rewards)
    return [value / (deviation + EPSILON) for value in _centred(rewards)]


def _over_the_step(groups: list[list[float]]) -> list[list[float]]:
    flat = [value for group in groups for value in group]
    scaled = iter(_standardized(flat) if flat and has_spread(flat) else _zeros(flat))
    return [[next(scaled) for _ in group] for group in groups]


ADVANTAGES: dict[str, AdvantageFunction] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "reinforce_plus_plus": reinforce_plus_plus,
    "reinforce_plus_plus_baseline": reinforce_plus_plus_baseline,
}
"""By the name in `algorithm.adv_estimator`."""

COMPARES_GROUPS: frozenset[AdvantageFunction] = frozenset({reinforce_plus_plus})
"""Those that also learn from a group whose rewards are all equal, by its distance from others."""
