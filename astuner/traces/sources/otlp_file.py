"""Files of OTLP: one, or a folder of them, such as `astuner serve --record` writes."""

from collections.abc import Iterator

from astuner.traces.otlp.files import read_otlp
from astuner.traces.reading import Cursor, Found, Unread
from astuner.traces.sources.address import SourceAddress
from astuner.traces.sources.rows import SourceFiles

OTLP_ENDINGS = (".jsonl", ".json", ".ndjson", ".pb", ".bin", ".otlp", ".proto")


class OtlpFileSource:
    """Its cursor: the bytes read of each file."""

    name = "otlp"

    def __init__(self, address: SourceAddress) -> None:
        self.address = address.shown
        self._files = SourceFiles(address.path, endings=OTLP_ENDINGS)

    def read(self, unread: Unread, since: Cursor) -> Iterator[Found]:
        for path, position in self._files.positions(since):
            yield from read_otlp(path, unread, position)

    def cursor(self) -> Cursor:
        return self._files.cursor()
