"""How much there is of what a client sends, without reading more of it than needed."""

from collections.abc import Mapping
from typing import Any


def weight(value: Any, limit: int) -> int:
    """The characters of all texts in it, and one for each value; counted up to the limit."""
    total, pending = 0, [value]
    while pending and total < limit:
        part = pending.pop()
        if isinstance(part, str):
            total += len(part)
            continue
        total += 1
        if isinstance(part, Mapping):
            total += sum(map(len, map(str, part)))
            pending.extend(part.values())
        elif isinstance(part, list | tuple):
            pending.extend(part)
    return min(total, limit)
