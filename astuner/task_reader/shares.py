"""How many of a batch are of each source, so that the shares hold in each batch and over all.

Exact: shares are read as the decimals that they are written as.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any


class Shares:
    """Splits batches by shares, and carries to the next what whole numbers cannot say in one."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        """`shares` are above 0 and relative to each other."""
        written = {name: Fraction(str(share)) for name, share in shares.items()}
        whole = sum(written.values())
        self._written = dict(shares)
        self._fractions = {name: share / whole for name, share in written.items()}
        self._dealt = dict.fromkeys(shares, 0)

    def split(self, count: int) -> dict[str, int]:
        """So many of `count` for each source: its share of `count`, rounded down or up.

        Who is rounded up is the one that else is the first to be owed a whole task, so that of all
        tasks so far each source had its share to less than one task, where that can be.
        """
        quotas = {name: fraction * count for name, fraction in self._fractions.items()}
        counts = {name: math.floor(quota) for name, quota in quotas.items()}
        owed = self._owed(count)
        open_ = [name for name in counts if quotas[name] != counts[name]]
        first = sorted(open_, key=lambda name: _urgency(owed[name], quotas[name] % 1, counts[name]))
        for name in first[: count - sum(counts.values())]:
            counts[name] += 1
        for name, number in counts.items():
            self._dealt[name] += number
        return counts

    def most(self, count: int) -> dict[str, int]:
        """The most of `count` that each source can be asked for."""
        return {name: math.ceil(fraction * count) for name, fraction in self._fractions.items()}

    def state(self) -> dict[str, dict[str, Any]]:
        """By source, as JSON."""
        return {
            name: {"share": share, "dealt": self._dealt[name]}
            for name, share in self._written.items()
        }

    def go_on(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Carry on what `state` carried; nothing where that was of other shares."""
        if all(state[name].get("share") == share for name, share in self._written.items()):
            self._dealt = {name: state[name]["dealt"] for name in self._written}

    def _owed(self, count: int) -> dict[str, Fraction]:
        """What each source lacks once `count` more are dealt, if none of them is its own."""
        total = sum(self._dealt.values()) + count
        return {
            name: fraction * total - self._dealt[name] for name, fraction in self._fractions.items()
        }


def _urgency(owed: Fraction, fraction: Fraction, count: int) -> tuple[bool, Fraction]:
    """Sorts those first that are owed anything, by when they would be owed a whole task.

    Source: earliest deadline first, as in R. Tijdeman 1980, "The chairman assignment problem".
    """
    lacking = owed - count
    return (lacking <= 0, (1 - lacking) / fraction if lacking > 0 else -lacking)
