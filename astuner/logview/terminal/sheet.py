"""Lines of text with their indents, for a screen and for whatever is none.

On a screen lines are broken between words; a pipe, a file and a log get each line whole. What is
put on a sheet is made visible here, so nothing that a model said reaches a terminal as it was.
"""

from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.constrain import Constrain
from rich.padding import Padding
from rich.text import Text

from astuner.machine.visible import visible

MAX_WIDTH = 100
"""Columns of a screen that are used; longer lines are hard to read."""
DIM = "dim"
STRONG = "bold"
GOOD = "color(32)"
BAD = "color(166)"

Part = str | tuple[str, str]
"""Text, or text with its style."""


@dataclass(frozen=True, slots=True)
class _SheetLine:
    text: Text
    indent: int


@dataclass(slots=True)
class Sheet:
    """Grows by lines. Print it with rich on a terminal, and its `plain` form elsewhere."""

    _lines: list[_SheetLine] = field(default_factory=list)

    def add(self, *parts: Part, indent: int = 0) -> None:
        """One line of these parts, or several where they have line ends."""
        text = Text()
        for part in parts:
            said, style = (part, "") if isinstance(part, str) else part
            text.append(visible(said), style)
        lines = text.split("\n", allow_blank=True) if "\n" in text.plain else [text]
        self._lines += [_SheetLine(line, indent) for line in lines]

    def space(self) -> None:
        """An empty line, save at the begin and behind another one."""
        if self._lines and self._lines[-1].text.plain:
            self.add("")

    def put(self, other: "Sheet", *, indent: int = 0) -> None:
        """All lines of another sheet."""
        self._lines += [_SheetLine(line.text, line.indent + indent) for line in other._lines]

    @property
    def plain(self) -> str:
        """Without styles, each line whole."""
        lines = (f"{' ' * line.indent}{line.text.plain}".rstrip() for line in self._lines)
        return "\n".join(lines)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self._lines:
            padded = Padding(line.text, (0, 0, 0, line.indent), expand=False)
            yield Constrain(padded, MAX_WIDTH) if line.text.plain else Text()


def columns(rows: list[tuple[Part, ...]], *, left: int = 1) -> list[tuple[Part, ...]]:
    """The rows with cells of equal width in each column: the first `left` columns aligned to the
    left, the others, numbers, to the right."""
    cells = [[part if isinstance(part, tuple) else (part, "") for part in row] for row in rows]
    num_columns = max((len(row) for row in cells), default=0)
    widths = [
        max(Text(row[i][0]).cell_len for row in cells if i < len(row)) for i in range(num_columns)
    ]
    return [
        tuple(
            (_padded(text, widths[i], is_left=i < left, gap=i > 0), style)
            for i, (text, style) in enumerate(row)
        )
        for row in cells
    ]


def _padded(text: str, width: int, *, is_left: bool, gap: bool) -> str:
    room = " " * (width - Text(text).cell_len)
    return ("  " if gap else "") + (text + room if is_left else room + text)
