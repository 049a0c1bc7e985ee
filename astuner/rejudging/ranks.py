"""How far two lists of numbers put the same things in the same order. Pure Python.

Ties count as such in all of them. None where an order cannot be compared: fewer than two numbers,
or a list whose numbers are all equal.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOrder:
    """Of pairs that at least one of two judges tells apart, how many both order alike."""

    num_alike: int
    num_opposite: int
    num_one_sided: int
    """Told apart by one only; the other gives both the same."""

    @property
    def num_pairs(self) -> int:
        return self.num_alike + self.num_opposite + self.num_one_sided

    @property
    def share(self) -> float | None:
        """Of those ordered alike; None without pairs."""
        return self.num_alike / self.num_pairs if self.num_pairs else None


def spearman(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """The correlation of ranks, from -1 to 1; equal numbers share the mean of their ranks.

    Source: C. Spearman 1904, "The proof and measurement of association between two things",
    American Journal of Psychology 15 (1); with ties, Pearson's coefficient of the mid-ranks.
    """
    ranks_x, ranks_y = _mid_ranks(xs), _mid_ranks(ys)
    middle = (len(xs) + 1) / 2
    over = [(x - middle, y - middle) for x, y in zip(ranks_x, ranks_y, strict=True)]
    spread = math.sqrt(math.fsum(x * x for x, _ in over) * math.fsum(y * y for _, y in over))
    return math.fsum(x * y for x, y in over) / spread if spread else None


def kendall_tau_b(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Concordant pairs less discordant ones, over those without ties, from -1 to 1.

    Source: M. G. Kendall 1945, "The treatment of ties in ranking problems", Biometrika 33 (3).
    """
    num_pairs = math.comb(len(xs), 2)
    apart_x = num_pairs - _num_tied(xs)
    apart_y = num_pairs - _num_tied(ys)
    if not apart_x or not apart_y:
        return None
    order = _order_of(xs, ys)
    return (order.num_alike - order.num_opposite) / math.sqrt(apart_x * apart_y)


def order_in_groups(groups: Iterable[Sequence[tuple[float, float]]]) -> PairOrder:
    """The pairs of episodes that stand in one group, by the two rewards of each episode."""
    found = [_order_of([x for x, _ in group], [y for _, y in group]) for group in groups]
    return PairOrder(
        num_alike=sum(order.num_alike for order in found),
        num_opposite=sum(order.num_opposite for order in found),
        num_one_sided=sum(order.num_one_sided for order in found),
    )


def _order_of(xs: Sequence[float], ys: Sequence[float]) -> PairOrder:
    """Sorted by x, a pair is opposite where a smaller y comes later.

    Source: W. R. Knight 1966, "A computer method for calculating Kendall's tau with ungrouped
    data", JASA 61 (314), with a sorted list in place of its merge sort.
    """
    pairs = sorted(zip(xs, ys, strict=True))
    seen: list[float] = []
    num_opposite = 0
    for _x, y in pairs:  # of equal x the smaller y comes first, and counts as no inversion
        num_opposite += len(seen) - bisect_right(seen, y)
        insort(seen, y)
    tied_x, tied_y, tied_both = _num_tied(xs), _num_tied(ys), _num_tied(pairs)
    num_apart = math.comb(len(pairs), 2) - tied_x - tied_y + tied_both
    return PairOrder(
        num_alike=num_apart - num_opposite,
        num_opposite=num_opposite,
        num_one_sided=tied_x + tied_y - 2 * tied_both,
    )


def _num_tied(values: Iterable[Hashable]) -> int:
    """Pairs of equal ones."""
    return sum(math.comb(number, 2) for number in Counter(values).values())


def _mid_ranks(values: Sequence[float]) -> list[float]:
    """From 1."""
    ordered = sorted(values)
    return [(bisect_left(ordered, v) + bisect_right(ordered, v) + 1) / 2 for v in values]
