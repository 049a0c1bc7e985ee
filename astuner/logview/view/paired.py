"""The same tasks tried twice: how many became better or worse, and whether that can be chance.

Pure arithmetic over shares of solved attempts.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from astuner.evaluation.sign_flips import sign_test

HALF = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedCounts:
    """Tasks that were judged on both sides, a and b.

    A task counts as solved where more than half of its judged attempts were.
    """

    in_both: int
    only_a: int
    only_b: int
    in_neither: int
    rose: int
    """Tasks that b did better than a; by shares alone and with one attempt each, `only_b`."""
    fell: int
    """Tasks that b did worse."""
    mean_a: float | None
    """Mean over the tasks of the share that was solved; None where there is no task."""
    mean_b: float | None

    @property
    def num_tasks(self) -> int:
        return self.in_both + self.only_a + self.only_b + self.in_neither

    @property
    def p_value(self) -> float:
        return sign_test(self.rose, self.fell)


def paired_counts(
    shares: Iterable[tuple[float, float]], changes: Iterable[float] | None = None
) -> PairedCounts:
    """Of each task the share solved in a and in b, both from 0 to 1.

    `changes` says by how much b did better at each; without it, the difference of the shares does.
    """
    pairs = list(shares)
    known = [b - a for a, b in pairs] if changes is None else list(changes)
    solved = [(a > HALF, b > HALF) for a, b in pairs]
    return PairedCounts(
        in_both=solved.count((True, True)),
        only_a=solved.count((True, False)),
        only_b=solved.count((False, True)),
        in_neither=solved.count((False, False)),
        rose=sum(change > 0 for change in known),
        fell=sum(change < 0 for change in known),
        mean_a=_mean([a for a, _ in pairs]),
        mean_b=_mean([b for _, b in pairs]),
    )


def chance_in_words(p_value: float) -> str:
    """How often chance alone would do as much, as "about 1 in 32 times"."""
    if p_value >= 0.5:
        return "more often than not"
    if p_value < 1e-6:
        return "less than once in a million times"
    return f"about 1 in {_round_number(1 / p_value)} times"


def p_in_words(p_value: float) -> str:
    """As "= 0.031", or "< 0.000001"."""
    return (
        "< 0.000001"
        if p_value < 1e-6
        else f"= {float(f'{p_value:.2g}'):.7f}".rstrip("0").rstrip(".")
    )


def _round_number(value: float) -> str:
    """With two significant digits, whole."""
    digits = max(0, math.floor(math.log10(value)) - 1)
    return f"{round(value / 10**digits) * 10**digits:,}".replace(",", "\u202f")


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
