"""In which orders answers are shown, and how far the scores of several orders agree. Arithmetic."""

import hashlib
from collections.abc import Sequence
from itertools import combinations
from random import Random

Order = tuple[int, ...]
"""Indices of the answers, as they are shown."""


def seed_of(*parts: object) -> int:
    """The same number for equal parts, in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8])


def draw_orders(num_answers: int, num_orders: int, random: Random) -> tuple[Order, ...]:
    """Shuffled orders, each second one the reverse of the one before it; none twice.

    So of each pair of answers each stands first equally often where `num_orders` is even, and a
    bias that is linear in the place has no part in the mean.
    """
    orders: list[Order] = []
    for number in range(num_orders):
        if number % 2:
            orders.append(orders[-1][::-1])
        else:
            shuffled = list(range(num_answers))
            random.shuffle(shuffled)
            orders.append(tuple(shuffled))
    return tuple(dict.fromkeys(orders))


def consistency(scorings: Sequence[Sequence[float]]) -> float | None:
    """How far several scorings of the same answers order them alike, from -1 to 1.

    The mean over pairs of scorings of Kendall's tau, where a pair of answers counts 1 if both order
    it alike, ties included, -1 if they order it the other way round, and 0 where only one has a
    tie. None where there are not two scorings of two answers.
    """
    taus = [_tau(one, other) for one, other in combinations(scorings, 2) if len(one) > 1]
    return sum(taus) / len(taus) if taus else None


def _tau(one: Sequence[float], other: Sequence[float]) -> float:
    pairs = list(combinations(range(len(one)), 2))
    agreements = [_agreement(_sign(one[a] - one[b]), _sign(other[a] - other[b])) for a, b in pairs]
    return sum(agreements) / len(pairs)


def _agreement(one: int, other: int) -> int:
    return 1 if one == other else one * other


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)
