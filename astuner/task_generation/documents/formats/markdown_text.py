"""Markdown: its own text, cut where headings stand.

Of CommonMark it knows what decides whether a line is a heading: ATX and setext headings, fences,
and paragraphs. Front matter between `---` (YAML) or `+++` (TOML) is no text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from astuner.task_generation.documents.document import TextBlock
from astuner.task_generation.documents.formats.heading_path import HeadingPath

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)", re.DOTALL)
_ATX = re.compile(r" {0,3}(#{1,6})(?=[ \t\n]|$)")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*\n?$")
_NO_PARAGRAPH = re.compile(r"(?: {4}|\t| {0,3}(?:[>|]|[-*+](?:[ \t]|$)|\d{1,9}[.)][ \t]))")
"""Of the first line of a list, a quotation, a table and indented code, which underlines end."""
_MAX_HEADING_LINES = 3
"""Of a heading that is underlined; a longer paragraph above a line was meant to be one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heading:
    level: int
    text: str
    first_line: int
    """Index; its text ends before `end_line`."""
    end_line: int


def markdown_blocks(text: str, name: str) -> Iterator[TextBlock]:
    """Of the whole text but its front matter."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").splitlines(keepends=True)
    begin = _front_matter_length(lines)
    path, headings, num_heading_characters = HeadingPath(), (), 0
    for heading in _headings(lines, begin):
        if heading.first_line > begin:
            yield TextBlock(
                text="".join(lines[begin : heading.first_line]),
                headings=headings,
                num_heading_characters=num_heading_characters,
            )
        headings = path.enter(heading.level, heading.text)
        begin = heading.first_line
        num_heading_characters = sum(map(len, lines[begin : heading.end_line]))
    yield TextBlock(
        text="".join(lines[begin:]),
        headings=headings,
        num_heading_characters=num_heading_characters,
    )


def _front_matter_length(lines: list[str]) -> int:
    """In lines."""
    fence = lines[0].rstrip() if lines else ""
    if fence not in ("---", "+++"):
        return 0
    ends = (index for index, line in enumerate(lines) if index and line.rstrip() == fence)
    return next(ends, -1) + 1


def _headings(lines: list[str], begin: int) -> Iterator[_Heading]:
    fence = ""
    paragraph = begin
    """First line of the paragraph that goes on; the line itself where none does."""
    for index in range(begin, len(lines)):
        line = lines[index]
        if found := _FENCE.match(line):
            if not fence and not (found[1][0] == "`" and "`" in found[2]):
                fence = found[1]
            elif fence and found[1].startswith(fence) and not found[2].strip():
                fence = ""
            paragraph = index + 1
        elif fence or not line.strip():
            paragraph = index + 1
        elif found := _ATX.match(line):
            text = _without_closing_marks(line[found.end() :].strip())
            yield _Heading(level=len(found[1]), text=text, first_line=index, end_line=index + 1)
            paragraph = index + 1
        elif (found := _UNDERLINE.match(line)) and 0 < index - paragraph <= _MAX_HEADING_LINES:
            if not _NO_PARAGRAPH.match(lines[paragraph]):
                yield _Heading(
                    level=1 if found[1][0] == "=" else 2,
                    text=" ".join(part.strip() for part in lines[paragraph:index]),
                    first_line=paragraph,
                    end_line=index + 1,
                )
            paragraph = index + 1


def _without_closing_marks(text: str) -> str:
    bare = text.rstrip("#")
    return bare.rstrip() if not bare or bare[-1] in " \t" else text
