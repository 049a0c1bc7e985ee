"""HTML: what a reader of the page sees, by the parser of the standard library."""

import codecs
import re
from collections.abc import Iterator
from html.parser import HTMLParser

from astuner.task_generation.documents.document import TextBlock
from astuner.task_generation.documents.extracted import ExtractedText, extracted
from astuner.task_generation.documents.formats.decoding import decode
from astuner.task_generation.documents.formats.heading_path import HeadingPath

_CHARSET = re.compile(rb"""<meta\b[^>]{0,200}?charset\s{0,9}=\s{0,9}["']?([\w:.-]{1,40})""", re.I)
_CHARSET_WITHIN = 4096
"""Bytes from the beginning; browsers look at 1024."""
_UNSEEN = {"script", "style", "template"}
_LEVELS = {"title": 0, **{f"h{level}": level for level in range(1, 7)}}
_INLINE = {
    *("a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em"),
    *("font", "i", "img", "ins", "kbd", "label", "mark", "q", "ruby", "s", "samp", "small"),
    *("span", "strike", "strong", "sub", "sup", "time", "tt", "u", "var", "wbr"),
}
_PARAGRAPHS = {"p", "ul", "ol", "dl", "table", "pre", "blockquote", "section", "article", "hr"}
_CELLS = {"td", "th"}
_SPACE = re.compile(r"[ \t\n\r\f]+")


def read_html(data: bytes) -> ExtractedText:
    """The text of a page; its title is the outermost heading."""
    text, remarks = _decoded(data)
    page = _Page()
    page.feed(text)
    page.close()
    return extracted(page.blocks(), remarks)


def _decoded(data: bytes) -> tuple[str, tuple[str, ...]]:
    """In the encoding that the page names, else as any text."""
    named = _CHARSET.search(data[:_CHARSET_WITHIN])
    if named and not data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return data.decode(named[1].decode("ascii")), ()
        except (LookupError, UnicodeDecodeError):
            pass  # it lies, as many pages do
    decoded = decode(data)
    return decoded.text, (decoded.remark,) if decoded.remark else ()


class _Page(HTMLParser):
    """Gathers the lines of a page, and where its headings stand."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        """Of the text since the last heading began, in order."""
        self._blocks: list[TextBlock] = []
        self._path = HeadingPath()
        self._headings: tuple[str, ...] = ()
        self._num_heading_characters = 0
        self._heading_level: int | None = None
        """Of the heading that is being read."""
        self._num_unseen = 0
        self._num_preformatted = 0

    def blocks(self) -> Iterator[TextBlock]:
        """After all was read."""
        self._end_heading()
        self._end_block()
        yield from self._blocks

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._num_unseen += 1
        elif tag in _LEVELS:
            self._end_heading()
            self._end_block()
            self._heading_level = _LEVELS[tag]
        elif tag == "li":
            self._break("\n")
            self._parts.append("- ")
        elif tag in _CELLS:
            if self._parts and self._parts[-1][-1:] != "\n":
                self._parts.append(" | ")
        elif tag not in _INLINE:
            self._break("\n\n" if tag in _PARAGRAPHS else "\n")
        if tag == "pre":
            self._num_preformatted += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in _UNSEEN:
            self._num_unseen = max(0, self._num_unseen - 1)
        elif tag in _LEVELS:
            self._end_heading()
        elif tag not in _INLINE and tag not in _CELLS:
            self._break("\n\n" if tag in _PARAGRAPHS else "\n")
        if tag == "pre":
            self._num_preformatted = max(0, self._num_preformatted - 1)

    def handle_data(self, data: str) -> None:
        if self._num_unseen:
            return
        text = data if self._num_preformatted else _SPACE.sub(" ", data)
        if not self._num_preformatted and (not self._parts or self._parts[-1][-1:].isspace()):
            text = text.lstrip(" ")
        if text:
            self._parts.append(text)

    def _break(self, line_ends: str) -> None:
        """So many line ends, with those that stand there already; inside a heading a space."""
        if not self._parts:
            return
        if self._heading_level is not None:
            line_ends = " "
        last = self._parts[-1]
        if not last.strip("\n"):
            self._parts[-1] = max(last, line_ends, key=len)
        elif last[-1] != "\n" or self._num_preformatted:
            self._parts.append(line_ends)

    def _end_heading(self) -> None:
        if self._heading_level is None:
            return
        heading = " ".join("".join(self._parts).split())
        if heading:
            self._headings = self._path.enter(self._heading_level, heading)
            self._num_heading_characters = len(heading) + 2
        self._parts = [heading, "\n\n"] if heading else []
        self._heading_level = None

    def _end_block(self) -> None:
        text = "".join(self._parts)
        if text.strip():
            self._blocks.append(
                TextBlock(
                    text=text.rstrip() + "\n\n",
                    headings=self._headings,
                    num_heading_characters=self._num_heading_characters,
                )
            )
        self._parts = []
        self._num_heading_characters = 0
