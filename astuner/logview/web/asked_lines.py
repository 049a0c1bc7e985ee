"""Which lines of a generated set the address of a page asks for, and which of them are found."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from starlette.datastructures import QueryParams

from astuner.errors import UnreadableError
from astuner.logview.reading.set_query import SetQuery

if TYPE_CHECKING:
    from astuner.logview.reading.set_line import SetLine
    from astuner.logview.reading.set_reader import SetReader

SEARCH_SECONDS = 0.6
_LOOKED_AT_ONCE = 512
"""Lines between two looks at the clock."""
MAX_BESIDE = 2000
"""Lines that are searched for the next one with a text."""
_NAMES = ("side", "gate", "document", "style", "difficulty")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedLines:
    """What the lines are, and what is said in them."""

    query: SetQuery
    text: str
    """Empty where none is searched for."""

    @classmethod
    def of(cls, params: QueryParams) -> Self:
        """What cannot be read counts as not asked for."""
        named: dict[str, Any] = {name: params[name] for name in _NAMES if params.get(name)}
        query = SetQuery(
            **named,
            min_rate=_rate(params.get("min_rate", "")),
            max_rate=_rate(params.get("max_rate", "")),
        )
        return cls(query=query, text=params.get("q", "").strip())

    @property
    def address(self) -> dict[str, Any]:
        """The parts of an address that ask for the same."""
        values = {name: getattr(self.query, name) for name in (*_NAMES, "min_rate", "max_rate")}
        asked = {name: value for name, value in values.items() if value is not None}
        return asked | ({"q": self.text} if self.text else {})

    def among(self, lines: "Iterable[SetLine]") -> "list[SetLine]":
        """Those that are so, whatever they say."""
        return [line for line in lines if self.query.holds(line)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLine:
    """A line, and all that stands in it."""

    line: "SetLine"
    content: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesPage:
    """Some of the lines that were asked for."""

    found: Sequence[FoundLine]
    start: int
    """Among all that are so."""
    end: int
    """How far they were looked through."""
    total: int


def lines_page(
    reader: "SetReader",
    lines: "Sequence[SetLine]",
    text: str,
    *,
    start: int,
    most: int,
    seconds: float = SEARCH_SECONDS,
) -> LinesPage:
    """At most so many from `start` on, those that say the text where there is one.

    A search looks for about so many seconds. Raises UnreadableError where the files were changed.
    """
    start = start if start < len(lines) else 0
    deadline = time.monotonic() + seconds
    found: list[FoundLine] = []
    end = start
    for line, content in reader.objects(lines[start:]):
        end += 1
        if not text or says(content, text):
            found.append(FoundLine(line=line, content=content))
        looked_at = end - start
        if len(found) == most or (looked_at % _LOOKED_AT_ONCE == 0 and time.monotonic() > deadline):
            break
    return LinesPage(found=found, start=start, end=end, total=len(lines))


def says(content: dict[str, Any], text: str) -> bool:
    """Whether a text stands in a question, its answer or its evidence, in either case."""
    return any(text.casefold() in said.casefold() for said in _texts(content))


def next_key(reader: "SetReader", lines: "Iterable[SetLine]", text: str) -> str | None:
    """Of the first of these that says the text, if it is near enough."""
    if not text:
        return next((line.key for line in lines), None)
    try:
        for number, (line, content) in enumerate(reader.objects(lines)):
            if says(content, text):
                return line.key
            if number >= MAX_BESIDE:
                return None
    except UnreadableError:
        return None
    return None


def _texts(content: dict[str, Any]) -> Iterator[str]:
    metadata = content.get("metadata")
    for part in (content, metadata if isinstance(metadata, dict) else {}):
        for name in ("main_query", "question", "answer", "evidence", "reason"):
            if isinstance(value := part.get(name), str):
                yield value


def _rate(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None
