"""Sets that overlap, found among many without a look at each; none is missed.

Two sets that overlap by more than the bound share at least so many members, by their sizes alone.
Whoever looks up all members of one but fewer than that meets the other; so the rarest are looked
up, and what all questions of a template have in common hardly ever is. It is the prefix filter of
S. Chaudhuri et al., "A primitive operator for similarity joins in data cleaning", 2006, but with
every member listed, so that what is rare may change. The overlap of those met is counted exactly.
"""

import math
from collections import defaultdict
from collections.abc import Iterator

import numpy


class NearIndex:
    """Finds the earlier sets that overlap most, by intersection over union (Jaccard)."""

    def __init__(self, max_overlap: float) -> None:
        """Sets that overlap more than that are found."""
        self._max_overlap = max_overlap
        self._sets: list[numpy.ndarray] = []
        self._having: defaultdict[int, dict[int, list[int]]] = defaultdict(dict)
        """By size and then by member, the numbers of the sets that have it."""

    def __len__(self) -> int:
        return len(self._sets)

    def find(self, hashes: numpy.ndarray) -> list[tuple[float, int]]:
        """Overlap and number of the earlier sets, the most alike first, then the earliest."""
        numbers = sorted(set().union(*self._lists_to_look_at(hashes)))
        if not numbers:
            return []
        overlaps = _overlaps(hashes, [self._sets[number] for number in numbers])
        pairs = zip(overlaps, numbers, strict=True)
        found = [(overlap, number) for overlap, number in pairs if overlap > self._max_overlap]
        return sorted(found, key=lambda pair: (-pair[0], pair[1]))

    def add(self, hashes: numpy.ndarray) -> None:
        """A further set of ascending members, numbered from 0. One without any is never found."""
        having = self._having[len(hashes)]
        for member in hashes.tolist():
            having.setdefault(member, []).append(len(self._sets))
        self._sets.append(hashes)

    def _lists_to_look_at(self, hashes: numpy.ndarray) -> Iterator[list[int]]:
        """Of sets with a member in common: all that overlap enough, and some more."""
        members = hashes.tolist()
        for size, having in self._having.items():
            num_shared = self._least_shared(len(members) + size)
            if num_shared <= min(len(members), size):
                lists = sorted((having.get(member, []) for member in members), key=len)
                yield from lists[: len(members) - num_shared + 1]

    def _least_shared(self, total: int) -> int:
        """How many members are shared by sets of so many together that overlap enough."""
        # s / (total - s) > bound; what rounding takes away makes it fewer, which is never wrong.
        return math.floor(total * self._max_overlap / (1 + self._max_overlap) - 1e-9) + 1


def _overlaps(one: numpy.ndarray, others: list[numpy.ndarray]) -> list[float]:
    """Of one set with each of others; all have members, in ascending order."""
    members = numpy.concatenate(others)
    sizes = numpy.array([len(other) for other in others])
    places = numpy.minimum(numpy.searchsorted(one, members), len(one) - 1)
    is_shared = (one[places] == members).astype(numpy.int64)
    shared = numpy.add.reduceat(is_shared, numpy.cumsum(sizes) - sizes)
    return (shared / (len(one) + sizes - shared)).tolist()
