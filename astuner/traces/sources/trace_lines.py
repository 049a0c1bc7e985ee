"""Files of traces as `astuner traces import` writes them: read as they were, origin included."""

from collections.abc import Iterator, Mapping
from typing import Any

from astuner.errors import UnreadableError
from astuner.traces.reading import Cursor, Found, Unread
from astuner.traces.sources.address import SourceAddress
from astuner.traces.sources.rows import SourceFiles, StoredRow, WrongRow, noted_row, read_rows
from astuner.traces.trace_json import FORMAT, from_json


class TraceLinesSource:
    """A file, or a folder of them. Its cursor: the bytes read of each."""

    name = "traces"

    def __init__(self, address: SourceAddress) -> None:
        self.address = address.shown
        self._files = SourceFiles(address.path, endings=(".jsonl",))

    def read(self, unread: Unread, since: Cursor) -> Iterator[Found]:
        for path, position in self._files.positions(since):
            for row in read_rows(path, unread, position):
                yield from noted_row(_trace, row, unread)

    def cursor(self) -> Cursor:
        return self._files.cursor()


def is_trace_row(row: Mapping[str, Any]) -> bool:
    return FORMAT in row


def _trace(row: StoredRow) -> Iterator[Found]:
    try:
        yield from_json(row.value)
    except UnreadableError as error:
        raise WrongRow(str(error)) from error
