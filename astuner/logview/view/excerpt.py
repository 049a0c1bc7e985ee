"""A text cut for a card: what stands round the place that matters, and how much is hidden."""

from dataclasses import dataclass

from astuner.logview.view.differing import PartedText

MAX_SHOWN = 1200
"""Characters of a text on a card; about as much as one looks at beside others."""
_LEAD = 200
"""Characters shown before the first difference, to see what it goes on from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """Shown parts of a text, in order, and how many characters are left out around them."""

    num_hidden_before: int
    before: str
    """Before the differing word; all that is shown where no word differs."""
    differing: str
    ends_early: bool
    behind: str
    num_hidden_behind: int


def excerpt(text: PartedText, *, most: int | None = MAX_SHOWN) -> Excerpt:
    """At most about so many characters; None cuts nothing."""
    if most is None or len(text.shared) + len(text.differing) + len(text.rest) <= most:
        return _cut(text, start=0, shared_end=len(text.shared), rest_end=len(text.rest))
    if text.is_equal:
        return _cut(text, start=0, shared_end=most, rest_end=0)
    start = max(0, len(text.shared) - _LEAD)
    return _cut(text, start=start, shared_end=len(text.shared), rest_end=most - _LEAD)


def _cut(text: PartedText, *, start: int, shared_end: int, rest_end: int) -> Excerpt:
    """The differing word stays whole: it is no longer than what is compared of a text."""
    return Excerpt(
        num_hidden_before=start,
        before=text.shared[start:shared_end],
        differing=text.differing,
        ends_early=text.ends_early,
        behind=text.rest[:rest_end],
        num_hidden_behind=len(text.shared[shared_end:]) + len(text.rest[rest_end:]),
    )
