"""The headings that a place stands under."""


class HeadingPath:
    """Owned by whoever reads a document from its beginning to its end."""

    def __init__(self) -> None:
        self._open: list[tuple[int, str]] = []

    def enter(self, level: int, heading: str) -> tuple[str, ...]:
        """The headings from here on, the outermost first; 1 is the outermost level."""
        while self._open and self._open[-1][0] >= level:
            self._open.pop()
        self._open.append((level, heading))
        return tuple(text for _, text in self._open if text)
