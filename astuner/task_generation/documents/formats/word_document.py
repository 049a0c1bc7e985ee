"""Word (.docx), by python-docx: paragraphs and tables in their order, headings by their style.

Headers, footers, footnotes and comments are not part of it; what was struck out by a tracked change
is gone, and what was put in stands.
"""

import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from astuner.task_generation.documents.document import TextBlock
from astuner.task_generation.documents.extracted import ExtractedText, extracted
from astuner.task_generation.documents.formats.heading_path import HeadingPath
from astuner.task_generation.documents.formats.no_text import NoTextError

MAX_UNPACKED_BYTES = 512 * 2**20
"""Of all that the file holds. A few kilobytes can be packed to unpack to gigabytes."""
_HEADING = re.compile(r"heading (\d)", re.I)


def read_docx(data: bytes) -> ExtractedText:
    """Raises NoTextError for what is no Word document, a damaged one, or unpacks to too much."""
    from docx import Document

    try:
        _check_unpacked_size(data)
        document = Document(io.BytesIO(data))
    except (NoTextError, MemoryError):
        raise
    except Exception as error:  # it raises anything over a damaged file
        said = f"{type(error).__name__}: {error}"[:200].rstrip()
        raise NoTextError(
            f"it is no Word document, or a damaged one: {said}; save it again as docx"
        ) from error
    return extracted(_blocks(document))


def _check_unpacked_size(data: bytes) -> None:
    """By what the archive says; zipfile reads no more of a member than it says."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > MAX_UNPACKED_BYTES:
        raise NoTextError(
            f"it unpacks to {size / 2**20:,.0f} MiB, and no more than "
            f"{MAX_UNPACKED_BYTES // 2**20} MiB are read; split it into smaller files"
        )


def _blocks(document: Any) -> Iterator[TextBlock]:
    path = HeadingPath()
    headings: tuple[str, ...] = ()
    parts: list[str] = []
    num_heading_characters = 0
    for level, text in _paragraphs(document):
        if level is None:
            parts.append(f"{text}\n\n")
            continue
        if parts:
            yield TextBlock(
                text="".join(parts),
                headings=headings,
                num_heading_characters=num_heading_characters,
            )
        headings = path.enter(level, text)
        parts = [f"{text}\n\n"]
        num_heading_characters = len(parts[0])
    yield TextBlock(
        text="".join(parts), headings=headings, num_heading_characters=num_heading_characters
    )


def _paragraphs(document: Any) -> Iterator[tuple[int | None, str]]:
    """Those with text, and tables, each with its level as a heading."""
    levels = {style.style_id: _level(style.name or "") for style in document.styles}
    for element in _content(document.element.body):
        if _tag(element) == "tbl":
            level, text = None, "\n".join(_row_texts(element))
        else:
            level, text = levels.get(element.style), _text(element).strip()
        if text:
            yield level, text


def _level(style: str) -> int | None:
    if style.lower() == "title":
        return 0
    found = _HEADING.fullmatch(style)
    return int(found[1]) if found else None


def _content(parent: Any) -> Iterator[Any]:
    """Paragraphs and tables below an element, also those in fields that a form has."""
    for element in parent:
        if _tag(element) in ("p", "tbl"):
            yield element
        elif _tag(element) in ("sdt", "sdtContent", "ins", "customXml"):
            yield from _content(element)


def _row_texts(table: Any) -> Iterator[str]:
    """A line for each row; a table in a cell becomes words of the cell."""
    for row in table:
        if _tag(row) == "tr":
            cells = [" ".join(_cell_text(cell).split()) for cell in row if _tag(cell) == "tc"]
            if any(cells):
                yield " | ".join(cells)


def _cell_text(cell: Any) -> str:
    return "\n".join(
        "\n".join(_row_texts(element)) if _tag(element) == "tbl" else _text(element)
        for element in _content(cell)
    )


def _text(element: Any) -> str:
    """Of a paragraph, with what hangs on it, such as a text box."""
    tag = _tag(element)
    if tag == "t":
        return element.text or ""
    if tag in ("tab", "br", "cr"):
        return "\t" if tag == "tab" else "\n"
    if tag in ("pPr", "rPr", "Fallback", "del", "moveFrom"):
        return ""
    return "".join(map(_text, element))


def _tag(element: Any) -> str:
    """Without its namespace; comments and the like have none."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
