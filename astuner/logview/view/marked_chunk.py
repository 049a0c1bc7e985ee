"""The text of a chunk with its evidence marked, wherever lines were broken in either."""

import re
from dataclasses import dataclass
from typing import Any

MAX_AROUND = 8_000
"""Characters that are shown before the evidence, and behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedChunk:
    """Shown parts of a text, in order, and how many characters are left out around them."""

    num_hidden_before: int
    before: str
    evidence: str
    """As it stands in the text; empty where it is not found, or where there is none."""
    behind: str
    num_hidden_behind: int


def marked_chunk(text: str, evidence: str, *, span: Any = None) -> MarkedChunk:
    """`span` is where the evidence begins and ends; where that is not known, it is looked for."""
    start, end = _span_of(span, len(text)) or find_evidence(text, evidence) or (0, 0)
    around = MAX_AROUND if end else 2 * MAX_AROUND
    first, last = max(0, start - around), min(len(text), end + around)
    return MarkedChunk(
        num_hidden_before=first,
        before=text[first:start],
        evidence=text[start:end],
        behind=text[end:last],
        num_hidden_behind=len(text) - last,
    )


def find_evidence(text: str, evidence: str) -> tuple[int, int] | None:
    """Where the evidence first stands in the text, white space aside; None where it does not."""
    wanted = _bare(evidence)
    if not wanted:
        return None
    places = [index for index, sign in enumerate(text) if not sign.isspace()]
    found = _bare(text).find(wanted)
    return None if found < 0 else (places[found], places[found + len(wanted) - 1] + 1)


def _span_of(span: Any, length: int) -> tuple[int, int] | None:
    if not isinstance(span, list) or len(span) != 2:
        return None
    start, end = span
    is_place = isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= length
    return (start, end) if is_place else None


def _bare(text: str) -> str:
    return re.sub(r"\s+", "", text)
