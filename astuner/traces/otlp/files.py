"""Files of OTLP, as collectors and exporters write them, read as a stream.

Lines of JSON, one document of JSON, protobuf as one message or each behind its length, all of them
also packed by gzip; which it is, the first bytes say.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from astuner.traces.otlp.json_form import WrongForm, json_records
from astuner.traces.otlp.protobuf_form import message_records, protobuf_records
from astuner.traces.reading import Unread
from astuner.traces.span import TracedEvent, TracedSpan
from astuner.traces.stored_file import (
    BROKEN_GZIP,
    MAX_DOCUMENT_BYTES,
    FilePosition,
    json_lines,
    loaded_json,
    noting_damage,
    opened,
)

Found = Iterator[TracedSpan | TracedEvent]
OtlpForm = Literal["json", "protobuf", "protobuf with lengths"]
_MAX_FIRST_LINE = 1_000
"""Of a document over several lines, whose first one is a bracket as a rule."""
_LENGTH_BYTES = 4
"""Before each message of the collector's file exporter, the most significant first."""


def read_otlp(path: Path, unread: Unread, position: FilePosition | None = None) -> Found:
    """The spans and log records of a file from a position on, which moves along.

    What does not parse goes to `unread`, and the rest is read. Raises TraceSourceError where the
    file cannot be opened, ConfigError where it is protobuf and the package is missing.
    """
    position = position or FilePosition()
    with opened(path) as file:
        form = form_of(file)
        with noting_damage(path, unread):
            file.seek(position.num_bytes)
            match form:
                case "json":
                    yield from _json(file, path, unread, position)
                case "protobuf":
                    yield from _noted(message_records(file), unread, str(path))
                    position.num_bytes = file.tell()
                case _:
                    yield from _with_lengths(file, path, unread, position)


def form_of(file: BinaryIO) -> OtlpForm:
    """By the first bytes; the file stands at its beginning then."""
    try:
        head = file.read(64)
    except (*BROKEN_GZIP, OSError):
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
        for line, place in json_lines(file, path, unread, position):
            yield from _noted(json_records(line), unread, place)
        return
    for one in document if isinstance(document, list) else [document]:
        yield from _noted(json_records(one), unread, str(path))
    position.num_bytes = file.tell()


def _document(file: BinaryIO) -> object:
    """None where the first line is one of JSON lines, whole or torn."""
    first = file.readline(MAX_DOCUMENT_BYTES)
    if len(first) > _MAX_FIRST_LINE or loaded_json(first) is not None:
        return None
    file.seek(0)
    text = file.read(MAX_DOCUMENT_BYTES + 1)
    return loaded_json(text) if len(text) <= MAX_DOCUMENT_BYTES else None


def _with_lengths(file: BinaryIO, path: Path, unread: Unread, position: FilePosition) -> Found:
    number = 0
    while head := file.read(_LENGTH_BYTES):
        number += 1
        place = f"{path}, message {number}"
        length = int.from_bytes(head, "big")
        if length > MAX_DOCUMENT_BYTES:
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
