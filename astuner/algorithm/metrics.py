"""Summaries of rewards and verdicts. Pure Python."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_Z_95 = 1.959963984540054
"""The normal distribution has 95 % of its mass within this many deviations of the mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuccessRate:
    """A share of episodes with its 95 % Wilson interval. All in [0, 1]."""

    rate: float
    low: float
    high: float
    num_episodes: int


def success_rate(num_successes: int, num_episodes: int) -> SuccessRate:
    """The share of successes with its 95 % interval.

    Raises ValueError without episodes, and unless 0 <= num_successes <= num_episodes.
    Source: E. B. Wilson 1927, "Probable inference", JASA 22 (158), score interval.
    """
    if not 0 <= num_successes <= num_episodes or num_episodes == 0:
        raise ValueError(f"{num_successes} successes of {num_episodes} episodes")
    rate = num_successes / num_episodes
    scale = 1 + _Z_95**2 / num_episodes
    centre = (rate + _Z_95**2 / (2 * num_episodes)) / scale
    variance = rate * (1 - rate) / num_episodes + _Z_95**2 / (4 * num_episodes**2)
    half_width = _Z_95 * math.sqrt(variance) / scale
    return SuccessRate(
        rate=rate,
        low=max(0.0, centre - half_width),
        high=min(1.0, centre + half_width),
        num_episodes=num_episodes,
    )


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; NaN for no values, since it is not known then."""
    return statistics.fmean(values) if values else math.nan
