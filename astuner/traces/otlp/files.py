"""Files of OTLP, as collectors and exporters write them, read as a stream.

Lines of JSON, one document of JSON, protobuf as one message or each behind its length, all of them
also packed by gzip; which it is, the first bytes say.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

from astuner.errors import TraceSourceError
from astuner.traces.otlp.json_form import WrongForm, json_records
from astuner.traces.otlp.protobuf_form import message_records, protobuf_records
from astuner.traces.reading import Unread
from astuner.traces.span import TracedEvent, TracedSpan

Found = Iterator[TracedSpan | TracedEvent]
OtlpForm = Literal["json", "protobuf", "protobuf with lengths"]
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_MAX_DOCUMENT_BYTES = 256_000_000
"""Of one line, and of one JSON document over several lines, which are in memory at once."""
_MAX_FIRST_LINE = 1_000
"""Of a document over several lines, whose first one is a bracket as a rule."""
_LENGTH_BYTES = 4
"""Before each message of the collector's file exporter, the most significant first."""
_BROKEN_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(slots=True, kw_only=True)
class FilePosition:
    """How far a file has been read."""

    num_bytes: int = 0
    """Of the unpacked file, behind the last whole line or message."""


def read_otlp(path: Path, unread: Unread, position: FilePosition | None = None) -> Found:
    """The spans and log records of a file from a position on, which moves along.

    What does not parse goes to `unread`, and the rest is read. Raises TraceSourceError where the
    file cannot be opened, ConfigError where it is protobuf and the package is missing.
    """
    position = position or FilePosition()
    with opened(path) as file:
        form = form_of(file)
        try:
            file.seek(position.num_bytes)
            match form:
                case "json":
                    yield from _json(file, path, unread, position)
                case "protobuf":
                    yield from _noted(message_records(file), unread, str(path))
                    position.num_bytes = file.tell()
                case _:
                    yield from _with_lengths(file, path, unread, position)
        except _BROKEN_GZIP as error:
            unread.add(f"a packed file that is cut off or changed ({error})", str(path))
        except OSError as error:
            raise TraceSourceError(
                f"{path}: cannot be read on: {error.strerror}; look whether the disk is well"
            ) from error


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


def form_of(file: BinaryIO) -> OtlpForm:
    """By the first bytes; the file stands at its beginning then."""
    try:
        head = file.read(64)
    except (*_BROKEN_GZIP, OSError):
        head = b""
    file.seek(0)
    if head[:1] == b"\n" and not _is_text(head):
        return "protobuf"
    return "protobuf with lengths" if b"" < head[:1] < b"\t" else "json"


def _is_text(head: bytes) -> bool:
    """A message in protobuf begins with a line feed too, and has the lengths of names behind it,
    which are bytes that no text has."""
    return all(byte in b"\t\n\r" or byte >= 0x20 for byte in head[:16])


def _json(file: BinaryIO, path: Path, unread: Unread, position: FilePosition) -> Found:
    """Lines, or one document over many."""
    document = _document(file) if position.num_bytes == 0 else None
    if document is None:
        file.seek(position.num_bytes)
        yield from _lines(file, path, unread, position)
        return
    for one in document if isinstance(document, list) else [document]:
        yield from _noted(json_records(one), unread, str(path))
    position.num_bytes = file.tell()


def _document(file: BinaryIO) -> object:
    """None where the first line is one of JSON lines, whole or torn."""
    first = file.readline(_MAX_DOCUMENT_BYTES)
    if len(first) > _MAX_FIRST_LINE or _loaded(first.removeprefix(_BOM)) is not None:
        return None
    file.seek(0)
    text = file.read(_MAX_DOCUMENT_BYTES + 1)
    return _loaded(text.removeprefix(_BOM)) if len(text) <= _MAX_DOCUMENT_BYTES else None


def _lines(file: BinaryIO, path: Path, unread: Unread, position: FilePosition) -> Found:
    number = 0
    while line := file.readline(_MAX_DOCUMENT_BYTES):
        number += 1
        place = f"{path}, line {number}"
        text = line.removeprefix(_BOM).strip()
        if not text:
            position.num_bytes += len(line)
            continue
        if (document := _loaded(text)) is not None:
            yield from _noted(json_records(document), unread, place)
        elif line.endswith(b"\n"):
            unread.add("a line that is no JSON", place)
        else:  # which may be written just now
            unread.add("a torn last line", place)
            return
        position.num_bytes += len(line)


def _loaded(text: bytes) -> object:
    """None for what is no JSON object or list."""
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return loaded if isinstance(loaded, dict | list) else None


def _with_lengths(file: BinaryIO, path: Path, unread: Unread, position: FilePosition) -> Found:
    number = 0
    while head := file.read(_LENGTH_BYTES):
        number += 1
        place = f"{path}, message {number}"
        length = int.from_bytes(head, "big")
        if length > _MAX_DOCUMENT_BYTES:
            unread.add("a protobuf message of a length that none has", place)
            return
        message = file.read(length)
        yield from _noted(protobuf_records(message), unread, place)
        if len(head) < _LENGTH_BYTES or len(message) < length:
            unread.add("a protobuf message that is cut off", place)
            return
        position.num_bytes += len(head) + length


def _noted(records: Found, unread: Unread, place: str) -> Found:
    """The records up to the first that does not parse, which is noted."""
    try:
        yield from records
    except WrongForm as error:
        unread.add(str(error), place)
