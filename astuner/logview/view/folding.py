"""Long texts, cut where a reader would cut them, with how much is hidden."""

from dataclasses import dataclass

from astuner.logview.view.markup import TextPart, parts_of

SHOWN_CHARACTERS = 20_000
"""Of one text on a page."""
OPEN_CHARACTERS = 2_000
"""Of these, before the rest is to be unfolded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedText:
    """The beginning of a text, or all of it."""

    shown: str
    num_characters: int
    """Of the whole text."""

    @property
    def is_whole(self) -> bool:
        return len(self.shown) == self.num_characters


def fold(text: str, limit: int = SHOWN_CHARACTERS) -> FoldedText:
    """At most `limit` characters, up to a line's end, else a word's, in their last quarter."""
    if len(text) <= limit:
        return FoldedText(shown=text, num_characters=len(text))
    for mark in ("\n", " "):
        place = text.rfind(mark, limit - limit // 4, limit)
        if place > 0:
            return FoldedText(shown=text[: place + 1], num_characters=len(text))
    return FoldedText(shown=text[:limit], num_characters=len(text))


def on_one_line(text: str, limit: int = 120) -> str:
    """How it begins, for a summary: line ends and runs of spaces are one space each."""
    line = " ".join(text[: 20 * limit].split())
    if len(line) <= limit:
        return line
    return line[: limit - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownText:
    """A text in parts as it is read: what stands open, what unfolds, and how much is not here."""

    opening: tuple[TextPart, ...]
    rest: tuple[TextPart, ...]
    """What unfolds behind it; empty where all stands open."""
    num_characters: int
    """Of the whole text."""
    num_open: int
    num_shown: int
    """In both together."""

    @property
    def num_folded(self) -> int:
        return self.num_shown - self.num_open

    @property
    def num_hidden(self) -> int:
        """Not on the page at all."""
        return self.num_characters - self.num_shown


def shown_text(
    text: str, *, num_open: int = OPEN_CHARACTERS, limit: int = SHOWN_CHARACTERS
) -> ShownText:
    """`num_open` characters or so are open; one that is little longer is open whole."""
    kept = fold(text, limit)
    open_ = fold(kept.shown, num_open) if len(kept.shown) > num_open * 3 // 2 else kept
    opening, rest = _split(parts_of(kept.shown), len(open_.shown))
    return ShownText(
        opening=opening,
        rest=rest,
        num_characters=len(text),
        num_open=len(open_.shown),
        num_shown=len(kept.shown),
    )


def _split(parts: list[TextPart], place: int) -> tuple[tuple[TextPart, ...], tuple[TextPart, ...]]:
    """The parts before and behind a place in their text; one across it stands on both sides."""
    before: list[TextPart] = []
    behind: list[TextPart] = []
    for part in parts:
        if len(part.text) <= place:
            before.append(part)
        elif place <= 0:
            behind.append(part)
        else:
            before.append(TextPart(part.kind, part.text[:place]))
            behind.append(TextPart(part.kind, part.text[place:]))
        place -= len(part.text)
    return tuple(before), tuple(behind)
