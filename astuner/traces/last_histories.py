"""The last few long histories that went by, and how much a new one has of them.

Recorders write the whole conversation with each call. What was done for its beginning once need not
be done again: comparing runs at the speed of memory, everything else does not.
"""

from collections.abc import Callable, Sequence
from operator import is_
from typing import Any, Generic, TypeVar

from astuner.trajectory.shared_beginning import shared_length

LONG_TEXT, LONG_LIST = 2_000, 16
"""Characters and elements from which on a value is worth comparing."""
_NUM_KEPT = 4
"""Conversations at once: an agent, those below it, and another session in between."""
_MAX_TEXT, _MAX_LIST = 16_000_000, 200_000
"""Longer ones are not kept, so that memory stays within bounds."""

Told = TypeVar("Told")


class LastHistories(Generic[Told]):
    """Texts and lists, each with what was made of it. Used by any number of threads: at worst one
    does again what another has done."""

    def __init__(self, *, is_same: Callable[[Any, Any], bool] = is_) -> None:
        """`is_same` compares elements of lists. As a rule they are to be the same object, since 1
        and true are equal and do not say the same."""
        self._is_same = is_same
        self._kept: tuple[tuple[Sequence[Any], Told], ...] = ()

    def nearest(self, history: Sequence[Any]) -> tuple[Told | None, int]:
        """What was made of the one with the longest beginning in common, and how long that is;
        None and 0 where none has half of it."""
        best: Told | None = None
        num_shared = (len(history) - 1) // 2
        for kept, told in self._kept:
            if (
                type(kept) is type(history)
                and (num := self._shared_length(kept, history)) > num_shared
            ):
                best, num_shared = told, num
        return best, num_shared if best is not None else 0

    def keep(self, history: Sequence[Any], told: Told, *, instead_of: Told | None) -> None:
        """In the place of the one that it goes on with; else of the one that waited longest."""
        if len(history) > (_MAX_TEXT if isinstance(history, str) else _MAX_LIST):
            return
        others = [one for one in self._kept if one[1] is not instead_of]
        self._kept = ((history, told), *others[: _NUM_KEPT - 1])

    def _shared_length(self, first: Sequence[Any], second: Sequence[Any]) -> int:
        if isinstance(first, str):
            return shared_length(first, second)
        pairs = enumerate(map(self._is_same, first, second))
        length = min(len(first), len(second))
        return next((place for place, is_same in pairs if not is_same), length)


def is_long(value: Any) -> bool:
    """Whether a value is a history that is worth comparing."""
    if isinstance(value, str):
        return len(value) >= LONG_TEXT
    return isinstance(value, list) and len(value) >= LONG_LIST
