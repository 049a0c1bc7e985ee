"""PDF, by pypdf: the text of each page under its number."""

import io
from collections.abc import Iterable
from typing import Any

from astuner.task_generation.documents.document import TextBlock
from astuner.task_generation.documents.extracted import ExtractedText, extracted
from astuner.task_generation.documents.formats.no_text import NoTextError

_PASSWORD = "it is protected by a password; save it without one"
_MAX_NAMED = 10


def read_pdf(data: bytes) -> ExtractedText:
    """Raises NoTextError for one that is damaged, locked, or has pages and no text."""
    pages = _pages(data)
    blocks, empty, wrong = [], [], []
    for number, page in enumerate(pages, start=1):
        try:
            text = page.extract_text()
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  # pypdf raises anything over a damaged page
            wrong.append((number, error))
            continue
        if not text.strip():
            empty.append(number)
        blocks.append(TextBlock(text=f"{text.rstrip()}\n", headings=(f"page {number}",)))
    if wrong and len(wrong) == len(pages):
        raise NoTextError(f"none of its pages can be read: {_said(wrong[0][1])}; repair it")
    if len(empty) == len(blocks):
        raise NoTextError(
            f"it has {_number_of(len(pages), 'page')} and no text: it was scanned or drawn; have "
            "its text recognised, for example by `ocrmypdf`"
        )
    remarks = []
    if empty:
        remarks.append(f"no text, perhaps scanned: {_named(empty)}")
    if wrong:
        named = _named([number for number, _ in wrong])
        remarks.append(f"cannot be read: {named} ({_said(wrong[0][1])})")
    return extracted(blocks, remarks)


def _pages(data: bytes) -> Any:
    from pypdf import PdfReader
    from pypdf.errors import DependencyError

    try:
        reader = PdfReader(io.BytesIO(data))
        # Many are locked against changes only, and open with an empty password.
        if reader.is_encrypted and not reader.decrypt(""):
            raise NoTextError(_PASSWORD)
        if len(reader.pages) == 0:
            raise NoTextError("it has no pages; leave it out")
        return reader.pages
    except DependencyError as error:
        raise NoTextError(f"it is encrypted: {error}; `pip install 'astuner[docs]'`") from error
    except (NoTextError, MemoryError):
        raise
    except Exception as error:  # pypdf raises anything over a damaged file
        raise NoTextError(f"it is no PDF, or a damaged one: {_said(error)}; repair it") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200].rstrip()


def _named(numbers: Iterable[int]) -> str:
    numbers = list(numbers)
    more = f" and {len(numbers) - _MAX_NAMED} more" if len(numbers) > _MAX_NAMED else ""
    word = "page" if len(numbers) == 1 else "pages"
    return f"{word} {', '.join(map(str, numbers[:_MAX_NAMED]))}{more}"


def _number_of(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
