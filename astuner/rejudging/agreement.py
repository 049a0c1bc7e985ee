"""How far two opinions of the same episodes agree. Pure Python.

What cannot be known, such as the rank correlation with a judge that gives everything the same
reward, is None and never a number.
"""

import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from astuner.algorithm.metrics import SuccessRate, success_rate
from astuner.rejudging.opinion import EpisodeName, Opinions
from astuner.rejudging.ranks import PairOrder, kendall_tau_b, order_in_groups, spearman


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Who called an episode a success, of two that judged it."""

    num_both: int
    num_first: int
    """Only the first."""
    num_second: int
    """Only the second."""
    num_neither: int

    @property
    def num_episodes(self) -> int:
        return self.num_both + self.num_first + self.num_second + self.num_neither


@dataclass(frozen=True, slots=True, kw_only=True)
class Successes:
    """How two agree on what is a success."""

    confusion: Confusion
    agreement: SuccessRate
    kappa: float | None
    """None where both call everything a success, or both nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewards:
    """How two agree on rewards."""

    num_episodes: int
    mean_first: float
    mean_second: float
    constant_first: float | None
    """The reward of all, where the first gives no other; None where it does."""
    constant_second: float | None
    spearman: float | None
    kendall_tau_b: float | None
    in_groups: PairOrder
    """What a group's advantages are made of: which of its episodes is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Two opinions of the episodes that both have one of."""

    num_episodes: int
    successes: Successes | None
    """None where there is no episode of which both say whether it is a success."""
    rewards: Rewards | None
    """None where there is none to which both give a reward."""


def agree(first: Opinions, second: Opinions, groups: Mapping[EpisodeName, Hashable]) -> Agreement:
    """How the two agree on what both judged; `groups` says which episodes stand together."""
    shared = [key for key in first if key in second]
    flags = [
        (a, b)
        for key in shared
        if (a := first[key].is_success) is not None and (b := second[key].is_success) is not None
    ]
    rewards = {
        key: (a, b)
        for key in shared
        if (a := first[key].reward) is not None and (b := second[key].reward) is not None
    }
    return Agreement(
        num_episodes=len(shared),
        successes=_successes(flags) if flags else None,
        rewards=_rewards(rewards, groups) if rewards else None,
    )


def confusion_of(flags: Sequence[tuple[bool, bool]]) -> Confusion:
    return Confusion(
        num_both=flags.count((True, True)),
        num_first=flags.count((True, False)),
        num_second=flags.count((False, True)),
        num_neither=flags.count((False, False)),
    )


def kappa_of(confusion: Confusion) -> float | None:
    """Agreement beyond what two would reach by chance, each with its own share of successes.

    1 is perfect, 0 is chance. None without episodes, and where chance alone agrees on all.
    Source: J. Cohen 1960, "A coefficient of agreement for nominal scales", Educational and
    Psychological Measurement 20 (1).
    """
    total = confusion.num_episodes
    first = confusion.num_both + confusion.num_first
    second = confusion.num_both + confusion.num_second
    # In whole numbers, times total squared, so that 1 is exactly 1.
    by_chance = first * second + (total - first) * (total - second)
    if by_chance == total * total:
        return None
    observed = (confusion.num_both + confusion.num_neither) * total
    return (observed - by_chance) / (total * total - by_chance)


def _successes(flags: Sequence[tuple[bool, bool]]) -> Successes:
    confusion = confusion_of(flags)
    return Successes(
        confusion=confusion,
        agreement=success_rate(confusion.num_both + confusion.num_neither, len(flags)),
        kappa=kappa_of(confusion),
    )


def _rewards(
    rewards: Mapping[EpisodeName, tuple[float, float]], groups: Mapping[EpisodeName, Hashable]
) -> Rewards:
    xs, ys = [x for x, _ in rewards.values()], [y for _, y in rewards.values()]
    by_group: dict[Hashable, list[tuple[float, float]]] = {}
    for key, pair in rewards.items():
        by_group.setdefault(groups[key], []).append(pair)
    return Rewards(
        num_episodes=len(rewards),
        mean_first=statistics.fmean(xs),
        mean_second=statistics.fmean(ys),
        constant_first=_constant(xs),
        constant_second=_constant(ys),
        spearman=spearman(xs, ys),
        kendall_tau_b=kendall_tau_b(xs, ys),
        in_groups=order_in_groups(by_group.values()),
    )


def _constant(values: Sequence[float]) -> float | None:
    return values[0] if len(set(values)) == 1 else None
