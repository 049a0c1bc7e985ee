"""How the answers to one task changed from step to step: what is new in each."""

from collections.abc import Sequence
from dataclasses import dataclass

from astuner.logview.view.differing import Passage, passages

MAX_SHOWN = 600
"""Characters of an answer in a list of steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownAnswer:
    """An answer beside the one of the step before."""

    passages: Sequence[Passage]
    num_hidden: int
    """Characters at its end that are not shown."""


def answers_in_order(texts: Sequence[str | None]) -> list[ShownAnswer | None]:
    """Each beside the last one before it that is known; the first has nothing new."""
    shown: list[ShownAnswer | None] = []
    before: str | None = None
    for text in texts:
        shown.append(None if text is None else _beside(text, before))
        before = before if text is None else text
    return shown


def _beside(text: str, before: str | None) -> ShownAnswer:
    cut = text[:MAX_SHOWN]
    return ShownAnswer(
        passages=passages(cut, cut if before is None else before[: 2 * MAX_SHOWN]),
        num_hidden=len(text) - len(cut),
    )
