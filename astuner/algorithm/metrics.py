"""Summaries of rewards and verdicts. Pure Python."""

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from astuner.types import Verdict

_Z_95 = 1.959963984540054
"""The normal distribution has 95 % of its mass within this many deviations of the mean."""
_MOST_PARTS = 100
"""A judge that makes new names for ever must not fill a run's files."""
_UNNAMEABLE = re.compile(r"[^\w.\-]+")


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


def of_source(metric: str, source: str) -> str:
    """The name of a metric that counts only the tasks of one source of a mixture."""
    return f"{metric}/source/{source}"


def part_means(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """The mean of each part of rewards by its name in metrics, over the verdicts that have it.

    Signs that not every file and query takes are underscores there.
    """
    values: defaultdict[str, list[float]] = defaultdict(list)
    for verdict in verdicts:
        for name, value in verdict.parts.items():
            values[_part_name(name)].append(value)
    return {name: mean(values[name]) for name in sorted(values)[:_MOST_PARTS]}


def named_parts(prefix: str, means: Mapping[str, float]) -> dict[str, float]:
    """As metrics below the prefix, such as `reward/part`."""
    return {f"{prefix}/{name}": value for name, value in means.items()}


def _part_name(name: str) -> str:
    """`source` is what `of_source` writes between a metric and a source."""
    pieces = [_UNNAMEABLE.sub("_", piece) for piece in name.split("/")]
    return "/".join("source_" if piece == "source" else piece or "_" for piece in pieces)[:100]


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; NaN for no values, since it is not known then."""
    return statistics.fmean(values) if values else math.nan
