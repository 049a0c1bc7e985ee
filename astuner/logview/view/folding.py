"""Long texts, cut where a reader would cut them, with how much is hidden."""

from dataclasses import dataclass

SHOWN_CHARACTERS = 20_000


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
    """At most `limit` characters, up to a line's end, else a word's, in the last quarter of them."""
    if len(text) <= limit:
        return FoldedText(shown=text, num_characters=len(text))
    for mark in ("\n", " "):
        place = text.rfind(mark, limit - limit // 4, limit)
        if place > 0:
            return FoldedText(shown=text[: place + 1], num_characters=len(text))
    return FoldedText(shown=text[:limit], num_characters=len(text))


def first_line(text: str, limit: int = 120) -> str:
    """Its first line that says something, short enough for a summary."""
    for line in text[: 20 * limit].splitlines():
        if line.strip():
            said = line.strip()
            return said if len(said) <= limit else said[: limit - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
    return ""
