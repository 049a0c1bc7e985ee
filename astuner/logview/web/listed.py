"""A long list in parts: which entries a page shows, and where the parts before and behind are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from astuner.logview.web.asked import asked_number, here_with


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A part of a list."""

    items: Sequence[Any]
    start: int
    """Index of the first of them in the whole list."""
    total: int
    before: str | None
    """The address of the part before this one."""
    behind: str | None


def listed(request: Request, items: Sequence[Any], *, most: int) -> Listed:
    """The part of at most so many entries that begins where `from` in the query says."""
    asked = asked_number(request, "from")
    start = asked if asked < len(items) else 0
    end = min(start + most, len(items))
    return Listed(
        items=items[start:end],
        start=start,
        total=len(items),
        before=here_with(request, **{"from": max(0, start - most)}) if start else None,
        behind=here_with(request, **{"from": end}) if end < len(items) else None,
    )
