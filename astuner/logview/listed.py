"""A long list in parts: which entries a page shows, and where the parts before and behind are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request

from astuner.logview.asked import asked_number


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
        before=_moved(request, max(0, start - most)) if start else None,
        behind=_moved(request, end) if end < len(items) else None,
    )


def _moved(request: Request, start: int) -> str:
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != "from"]
    return f"?{urlencode([*kept, ('from', start)], errors='surrogatepass')}"
