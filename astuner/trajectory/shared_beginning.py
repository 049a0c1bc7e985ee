"""How far two sequences are the same."""

from collections.abc import Sequence
from typing import Any


def shared_length(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many elements both begin with: of texts, or of sequences of one type.

    By halves, each compared as a whole at the speed of memory; they may be 100 MB long.
    """
    if one == other:
        return len(one)
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
