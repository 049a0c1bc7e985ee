"""A file that is read as a stream, packed or not; it may be torn, or be written to just now."""

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from astuner.errors import TraceSourceError
from astuner.traces.reading import Unread

BOM = b"\xef\xbb\xbf"
MAX_DOCUMENT_BYTES = 256_000_000
"""Of one line, and of one JSON document over several lines, which are in memory at once."""
BROKEN_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)
_GZIP = b"\x1f\x8b"


@dataclass(slots=True, kw_only=True)
class FilePosition:
    """How far a file has been read."""

    num_bytes: int = 0
    """Of the unpacked file, behind the last whole line or message."""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, unpacked where it is packed. Raises TraceSourceError."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise TraceSourceError(
            f"{path}: cannot be opened: {error.strerror}; name a file that is there"
        ) from error
    with file:
        is_packed = file.read(2) == _GZIP
        file.seek(0)
        if not is_packed:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield cast(BinaryIO, unpacked)


@contextmanager
def noting_damage(path: Path, unread: Unread) -> Iterator[None]:
    """Around reading: it ends where a packed file is cut off or changed, which is noted.

    Raises TraceSourceError where the disk gives no more.
    """
    try:
        yield
    except BROKEN_GZIP as error:
        unread.add(f"a packed file that is cut off or changed ({error})", str(path))
    except OSError as error:
        raise TraceSourceError(
            f"{path}: cannot be read on: {error.strerror}; look whether the disk is well"
        ) from error


def json_lines(
    file: BinaryIO, path: Path, unread: Unread, position: FilePosition
) -> Iterator[tuple[Any, str]]:
    """Each object or list with its place for people; `position` is before its line until the next.

    Lines that are no JSON go to `unread`; the last one may be torn, and is left for the next time.
    """
    number, is_whole = 0, position.num_bytes == 0
    while line := file.readline(MAX_DOCUMENT_BYTES):
        number += 1
        place = f"{path}, line {number}" + ("" if is_whole else " of what is new")
        text = line.removeprefix(BOM).strip()
        if (loaded := loaded_json(text)) is not None:
            yield loaded, place
        elif text and line.endswith(b"\n"):
            unread.add("a line that is no JSON", place)
        elif text:  # which may be written just now
            unread.add("a torn last line", place)
            return
        position.num_bytes += len(line)


def loaded_json(text: bytes) -> Any:
    """None for what is no JSON object or list."""
    try:
        loaded = json.loads(text.removeprefix(BOM))
    except (ValueError, RecursionError):
        return None
    return loaded if isinstance(loaded, dict | list) else None
