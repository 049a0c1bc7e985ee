"""Files of traces as `astuner traces import` writes them: read as they were, origin included.

Feedback that came later has files of its own, whose names come first; each trace is given what is
about it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from astuner.errors import UnreadableError
from astuner.traces.late_feedback import FORMAT as FEEDBACK_FORMAT
from astuner.traces.late_feedback import LateFeedback, from_feedback_line
from astuner.traces.reading import Cursor, Found, FoundFeedback, Unread
from astuner.traces.sources.address import SourceAddress
from astuner.traces.sources.rows import SourceFiles, StoredRow, WrongRow, noted_row, read_rows
from astuner.traces.trace import Trace
from astuner.traces.trace_json import FORMAT, from_json


class TraceLinesSource:
    """A file, or a folder of them. Its cursor: the bytes read of each."""

    name = "traces"

    def __init__(self, address: SourceAddress) -> None:
        self.address = address.shown
        self._files = SourceFiles(address.path, endings=(".jsonl",))

    def read(self, unread: Unread, since: Cursor) -> Iterator[Found]:
        late = LateFeedback()
        for path, position in self._files.positions(since):
            for row in read_rows(path, unread, position):
                for found in noted_row(_found, row, unread):
                    if isinstance(found, FoundFeedback):
                        late.add(found)
                    else:
                        yield late.given_to(found) if isinstance(found, Trace) else found
        yield from late.left()

    def cursor(self) -> Cursor:
        return self._files.cursor()


def is_trace_row(row: Mapping[str, Any]) -> bool:
    return FORMAT in row or FEEDBACK_FORMAT in row


def _found(row: StoredRow) -> Iterator[Found]:
    try:
        yield (from_feedback_line if FEEDBACK_FORMAT in row.value else from_json)(row.value)
    except UnreadableError as error:
        raise WrongRow(str(error)) from error
