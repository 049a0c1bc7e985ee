"""What stands before and behind in a list: neighbours that keys lead to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Siblings(Generic[Item]):
    """Of one entry of a list; None at the ends."""

    previous: Item | None
    next: Item | None


def siblings(items: Sequence[Item], item: Item) -> Siblings[Item]:
    """None on both sides where the item is not in the list."""
    if item not in items:
        return Siblings(previous=None, next=None)
    index = items.index(item)
    return Siblings(
        previous=items[index - 1] if index else None,
        next=items[index + 1] if index + 1 < len(items) else None,
    )
