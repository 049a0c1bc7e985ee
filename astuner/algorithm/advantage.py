"""Advantages: from the rewards of one group to one number per episode.

Pure Python. Which episodes belong to a group, and what happens to a flat one, is decided elsewhere.
"""

import math
import statistics
from collections.abc import Callable, Sequence

AdvantageFunction = Callable[[Sequence[float]], list[float]]
"""Rewards of one group to advantages, one per reward and in order."""

_EPSILON = 1e-6
"""Added to the deviation, as verl and TRL do; keeps rewards that differ by noise near zero."""


def grpo(rewards: Sequence[float]) -> list[float]:
    """Centre the rewards of one group and divide them by their standard deviation.

    The deviation is the sample's (divisor n - 1). A group of equal rewards gives zeros.
    Raises ValueError for an empty group and for a reward that is not finite.
    Source: GRPO, arXiv 2402.03300, section 4.1.2.
    """
    if not has_spread(rewards):
        return [0.0] * len(rewards)
    mean = statistics.fmean(rewards)
    deviation = statistics.stdev(rewards, mean)
    return [(reward - mean) / (deviation + _EPSILON) for reward in rewards]


def has_spread(rewards: Sequence[float]) -> bool:
    """Whether the rewards of one group differ, so that there is something to learn from it.

    Raises ValueError for an empty group and for a reward that is not finite.
    """
    if not rewards:
        raise ValueError("a group needs at least one reward")
    if not all(math.isfinite(reward) for reward in rewards):
        raise ValueError(f"a reward is not finite: {list(rewards)}")
    return min(rewards) != max(rewards)


ADVANTAGES: dict[str, AdvantageFunction] = {"grpo": grpo}
"""By the name in `algorithm.adv_estimator`."""
