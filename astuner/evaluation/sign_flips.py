"""Whether a paired difference can be chance: the test that turns the sign of each task's change.

If the two models were alike, each change might as well have come out the other way round. Needs no
shape of the changes, and with one attempt each it is the exact test of McNemar.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random

_NUM_DRAWS = 10_000
_SEED = 0
"""So that the same evaluations give the same p-value."""
_LARGEST_DENOMINATOR = 1000
_MAX_WORK = 1_000_000_000
"""Bytes that the exact count may pass over: a second or so."""
_MAX_LISTED = 14
"""Changes of no common measure whose signs are all tried."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipTest:
    """Two-sided test of "the changes are as often up as down"."""

    p_value: float
    method: str
    """As a person would name it."""


def sign_test(num_up: int, num_down: int) -> float:
    """Probability of a split at least this uneven if up and down were equally likely; two-sided.

    1.0 where nothing changed. Source: Dixon and Mood 1946, "The statistical sign test", JASA 41
    (236). With one attempt a task on each side it is the exact form of McNemar's test for matched
    pairs: McNemar 1947, Psychometrika 12 (2); Agresti, "Categorical Data Analysis", matched pairs.
    """
    num_changed = num_up + num_down
    smaller = min(num_up, num_down)
    if num_up == num_down:
        return 1.0
    tail = sum(math.comb(num_changed, k) for k in range(smaller + 1))
    # Divided as integers: 2 ** num_changed is no float beyond 1023 changes.
    return min(1.0, 2 * tail / 2**num_changed)


def flip_test(differences: Sequence[float]) -> FlipTest:
    """Of the paired differences, one a task: how often turned signs give as large a sum.

    Exact where all changes are of one size (McNemar), where they are multiples of a common
    fraction, as shares of few attempts are, and for few changes; else by seeded draws. Source:
    Fisher 1935, "The Design of Experiments", section 21; for evaluations Dror et al. 2018, "The
    Hitchhiker's Guide to Testing Statistical Significance in NLP", ACL.
    """
    changes = [difference for difference in differences if abs(difference) > _ROUNDING]
    if not changes:
        return FlipTest(p_value=1.0, method="nothing changed")
    counts = _whole_numbers(changes)
    if counts is not None and len(set(map(abs, counts))) == 1:
        num_up = sum(count > 0 for count in counts)
        p_value = sign_test(num_up, len(counts) - num_up)
        return FlipTest(p_value=p_value, method="McNemar's test, exact")
    if counts is not None and _is_countable(counts):
        return FlipTest(p_value=_by_counting(counts), method="sign flips over tasks, exact")
    if len(changes) <= _MAX_LISTED:
        return FlipTest(p_value=_by_listing(changes), method="sign flips over tasks, exact")
    return FlipTest(
        p_value=_by_drawing(changes),
        method=f"sign flips over tasks, {_NUM_DRAWS} seeded draws",
    )


def _whole_numbers(changes: Sequence[float]) -> list[int] | None:
    """The changes in units of the largest fraction that measures them all; None without one."""
    fractions = [Fraction(change).limit_denominator(_LARGEST_DENOMINATOR) for change in changes]
    pairs = zip(changes, fractions, strict=True)
    if any(abs(change - float(fraction)) > _ROUNDING for change, fraction in pairs):
        return None
    unit = math.lcm(*(fraction.denominator for fraction in fractions))
    counts = [int(fraction * unit) for fraction in fractions]
    divisor = math.gcd(*counts)
    return [count // divisor for count in counts]


def _is_countable(counts: Sequence[int]) -> bool:
    return len(counts) * sum(map(abs, counts)) * _num_bytes(counts) <= _MAX_WORK


def _num_bytes(counts: Sequence[int]) -> int:
    """Enough for the number of all ways to set the signs."""
    return len(counts) // 8 + 1


def _by_counting(counts: Sequence[int]) -> float:
    """Counts, for each sum, the ways to set the signs, as digits of one long integer."""
    num_bytes = _num_bytes(counts)
    total = sum(map(abs, counts))
    ways = 1
    for count in counts:
        ways += ways << (8 * num_bytes * abs(count))
    digits = ways.to_bytes((total + 1) * num_bytes, "little")
    # The changes that stay up have the sum (total + sum) / 2.
    least_up = (total + abs(sum(counts)) + 1) // 2
    tail = sum(
        int.from_bytes(digits[up * num_bytes : (up + 1) * num_bytes], "little")
        for up in range(least_up, total + 1)
    )
    return min(1.0, 2 * tail / 2 ** len(counts))


def _by_listing(changes: Sequence[float]) -> float:
    sums = [0.0]
    for change in changes:
        sums = [s + change for s in sums] + [s - change for s in sums]
    least = abs(math.fsum(changes)) - _ROUNDING
    return sum(abs(s) >= least for s in sums) / len(sums)


def _by_drawing(changes: Sequence[float]) -> float:
    """With the draw that was seen among them: Phipson and Smyth 2010, Stat. Appl. Genet. 9 (39)."""
    random = Random(_SEED)
    least = abs(math.fsum(changes)) - _ROUNDING
    num_as_large = sum(abs(_flipped_sum(changes, random)) >= least for _ in range(_NUM_DRAWS))
    return (num_as_large + 1) / (_NUM_DRAWS + 1)


def _flipped_sum(changes: Sequence[float], random: Random) -> float:
    signs = format(random.getrandbits(len(changes)), f"0{len(changes)}b")
    total = math.fsum(changes)
    return total - 2 * sum(c for c, sign in zip(changes, signs, strict=True) if sign == "1")
