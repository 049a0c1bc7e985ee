"""Cuts a document into the pieces that a model is shown.

A text is a sequence of units (sentences, paragraphs, lines), and a chunk a few that follow each
other. A unit that is too long is cut into smaller ones, at last between words.
"""

import itertools
import math
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from astuner.errors import ConfigError
from astuner.task_generation.documents.document import DocumentChunk, SourceDocument
from astuner.task_generation.documents.unit_ends import (
    EndFinder,
    line_ends,
    paragraph_ends,
    sentence_ends,
)

SplitBy = Literal["sentence", "paragraph", "character"]

_FINDERS: dict[SplitBy, tuple[EndFinder, ...]] = {
    "sentence": (sentence_ends,),
    "paragraph": (paragraph_ends, sentence_ends),
    "character": (),
}
"""By which units are found; each next one cuts those that are too long."""
_FINDERS_OF_FORMAT: dict[tuple[str, SplitBy], tuple[EndFinder, ...]] = {
    ("csv", "sentence"): (line_ends, sentence_ends),
    ("csv", "paragraph"): (line_ends, sentence_ends),
    ("json", "sentence"): (line_ends, sentence_ends),
    ("json", "paragraph"): (line_ends, sentence_ends),
    ("code", "sentence"): (line_ends,),
    ("code", "paragraph"): (paragraph_ends, line_ends),
}
"""Where a line is what a sentence is elsewhere."""
_MAX_MARKS = 8
"""That hang on one character."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _TextSection:
    """Text under one heading. Positions are those of the document's text."""

    start: int
    heading_end: int
    """Of the heading's own line; the start where it has none."""
    headings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """A span of the text without the white space around it, but for the indentation."""

    start: int
    end: int
    num_tokens: int
    """0 where they are not limited."""
    tokens_before: int = 0
    """Of all units before it."""
    is_heading: bool = False
    section_end: int = 0
    """Of the first unit of a section with a heading: where the next one begins."""


def split_document(
    document: SourceDocument,
    *,
    chunk_size: int,
    split_by: SplitBy,
    max_tokens: int | None,
    count_tokens: Callable[[str], int] | None,
) -> list[DocumentChunk]:
    """Chunks of at most `chunk_size` characters and `max_tokens` tokens, in order.

    A chunk ends where a unit ends, unless that unit alone is too long. Nothing is lost between two
    chunks but white space. A heading stands in the chunk of the text behind it. Raises ConfigError
    where a single character has more than `max_tokens` tokens, and ValueError where these are
    limited and nothing counts them.
    """
    if max_tokens is not None and count_tokens is None:
        raise ValueError("max_tokens is given, and nothing to count tokens with")
    finders = _FINDERS_OF_FORMAT.get((document.format, split_by), _FINDERS[split_by])
    text, sections = _joined(document)
    splitting = _Splitting(
        text, sections, size=chunk_size, max_tokens=max_tokens, count_tokens=count_tokens
    )
    starts = [section.start for section in sections]
    chunks = []
    for number, span in enumerate(splitting.spans(finders)):
        piece = text[span.start : span.end]
        first = span.end - len(piece.lstrip())
        chunk = DocumentChunk(
            document=document.name,
            number=number,
            text=piece,
            headings=sections[bisect_right(starts, first) - 1].headings,
            num_tokens=None if count_tokens is None else span.num_tokens,
        )
        chunks.append(chunk)
    return chunks


def _joined(document: SourceDocument) -> tuple[str, list[_TextSection]]:
    """The text of all blocks, with white space between them, and where each begins."""
    parts: list[str] = []
    sections = []
    position = 0
    for block in document.blocks:
        is_joint = parts and not parts[-1][-1:].isspace() and not block.text[:1].isspace()
        if is_joint and block.text:
            parts.append("\n")
            position += 1
        heading_end = position + block.num_heading_characters
        section = _TextSection(start=position, heading_end=heading_end, headings=block.headings)
        if block.text:
            sections.append(section)
            parts.append(block.text)
            position += len(block.text)
    return "".join(parts), sections


class _Splitting:
    """Of one text: which spans of it are chunks."""

    def __init__(
        self,
        text: str,
        sections: Sequence[_TextSection],
        *,
        size: int,
        max_tokens: int | None,
        count_tokens: Callable[[str], int] | None,
    ) -> None:
        self._text = text
        self._sections = sections
        self._size = size
        self._max_tokens = max_tokens
        self._limit = math.inf if max_tokens is None else max_tokens
        self._count = count_tokens

    def spans(self, finders: Sequence[EndFinder]) -> Iterator[_Unit]:
        held: list[_Unit] = []
        for unit in self._counted_units(finders):
            if held and self._begins_chunk(unit, held[0]):
                yield from self._closed(held)
                held = []
            while held and not self._has_room(held, unit):
                chunk, held = self._parted(held, unit)
                yield chunk
            held.append(unit)
        yield from self._closed(held)

    def _closed(self, held: list[_Unit]) -> Iterator[_Unit]:
        while held:
            chunk, held = self._within_tokens(held)
            yield chunk

    def _begins_chunk(self, unit: _Unit, first: _Unit) -> bool:
        """Whether a section does not fit behind what is there, which is enough for a chunk."""
        is_enough = unit.start - first.start >= self._size // 2
        return is_enough and unit.section_end - first.start > self._size

    def _has_room(self, held: Sequence[_Unit], unit: _Unit) -> bool:
        num_tokens = unit.tokens_before + unit.num_tokens - held[0].tokens_before
        return unit.end - held[0].start <= self._size and num_tokens <= self._limit

    def _parted(self, held: list[_Unit], unit: _Unit) -> tuple[_Unit, list[_Unit]]:
        """A chunk, and the headings at its end, which go with the unit behind them."""
        end = len(held)
        while end and held[end - 1].is_heading:
            end -= 1
        end = end or len(held)
        chunk, left = self._within_tokens(held[:end])
        return chunk, left + held[end:]

    def _within_tokens(self, held: list[_Unit]) -> tuple[_Unit, list[_Unit]]:
        """A chunk of the first units, and the others: a whole may have more tokens than parts."""
        end = len(held)
        while (chunk := self._chunk_of(held[:end])).num_tokens > self._limit and end > 1:
            end -= 1
        return chunk, held[end:]

    def _chunk_of(self, held: Sequence[_Unit]) -> _Unit:
        start, end = held[0].start, held[-1].end
        return _Unit(start=start, end=end, num_tokens=self._num_tokens(start, end))

    def _num_tokens(self, start: int, end: int) -> int:
        return self._count(self._text[start:end]) if self._count is not None else 0

    def _counted_units(self, finders: Sequence[EndFinder]) -> Iterator[_Unit]:
        num_tokens = 0
        for unit in self._glued(self._units(finders)):
            yield replace(unit, tokens_before=num_tokens)
            num_tokens += unit.num_tokens

    def _glued(self, units: Iterable[_Unit]) -> Iterator[_Unit]:
        """Where headings and the unit behind them do not fit into one chunk, both are cut anew."""
        headings: list[_Unit] = []
        for unit in units:
            if unit.is_heading and unit.end - (headings or [unit])[0].start <= self._size // 2:
                headings.append(unit)
                continue
            if not headings or self._fits(self._chunk_of([*headings, unit])):
                yield from (*headings, unit)
            else:
                first, *others = self._cut_between_words(headings[0].start, unit.end)
                yield replace(first, section_end=headings[0].section_end)
                yield from others
            headings = []
        yield from headings

    def _units(self, finders: Sequence[EndFinder]) -> Iterator[_Unit]:
        """Each heading line, and those of the text between them."""
        headed = [section for section in self._sections if section.heading_end > section.start]
        starts = [section.start for section in headed]
        yield from self._cut(0, min(starts, default=len(self._text)), finders)
        for section, end in zip(headed, [*starts, len(self._text)][1:], strict=True):
            body = section.heading_end if finders else section.start
            heading = self._cut(section.start, body, ())
            for number, unit in enumerate(itertools.chain(heading, self._cut(body, end, finders))):
                is_heading = unit.end <= section.heading_end
                section_end = 0 if number else end
                yield replace(unit, is_heading=is_heading, section_end=section_end)

    def _cut(self, start: int, end: int, finders: Sequence[EndFinder]) -> Iterator[_Unit]:
        """The units of a span, the smaller ones where one does not fit."""
        if not finders:
            yield from self._cut_between_words(start, end)
            return
        finder, *smaller = finders
        for unit_end in (*finder(self._text, start, end), end):
            unit = self._unit(start, unit_end)
            if unit is not None and self._fits(unit):
                yield unit
            elif unit is not None:
                yield from self._cut(unit.start, unit_end, smaller)
            start = unit_end

    def _cut_between_words(self, start: int, end: int) -> Iterator[_Unit]:
        while end - start > self._size:
            cut = self._cut_before(start, start + self._size)
            yield from self._halved(start, cut)
            start = cut
        yield from self._halved(start, end)

    def _halved(self, start: int, end: int) -> Iterator[_Unit]:
        """Until its parts have few enough tokens."""
        unit = self._unit(start, end)
        if unit is None:
            return
        if self._fits(unit):
            yield unit
            return
        if unit.end - unit.start < 2:
            raise ConfigError(
                "task_reader.data_generation.document_reader.max_chunk_tokens = "
                f"{self._max_tokens}: the character {self._text[unit.start]!r} alone has "
                f"{unit.num_tokens} tokens; raise it to some hundreds"
            )
        middle = self._cut_before(unit.start, (unit.start + unit.end + 1) // 2)
        yield from self._halved(unit.start, middle)
        yield from self._halved(middle, unit.end)

    def _cut_before(self, start: int, latest: int) -> int:
        """Behind white space in the later half, or else between two characters."""
        earliest = (start + latest) // 2
        space = max(self._text.rfind(white, earliest, latest) for white in " \n")
        if space >= 0:
            return space + 1
        for cut in range(latest, max(start, latest - _MAX_MARKS), -1):
            if not unicodedata.combining(self._text[cut]):
                return cut
        return latest

    def _unit(self, start: int, end: int) -> _Unit | None:
        """None where there is nothing but white space."""
        piece = self._text[start:end]
        first = end - len(piece.lstrip())
        if first == end:
            return None
        end = start + len(piece.rstrip())
        line = max(start, self._text.rfind("\n", start, first) + 1)
        start = line if end - line <= self._size else first
        is_counted = self._max_tokens is not None and end - start <= self._size
        num_tokens = self._num_tokens(start, end) if is_counted else 0
        return _Unit(start=start, end=end, num_tokens=num_tokens)

    def _fits(self, unit: _Unit) -> bool:
        return unit.end - unit.start <= self._size and unit.num_tokens <= self._limit
