"""Files whose lines, or whose one document, are JSON objects; and tables of Parquet.

Read as a stream from a position on. What does not parse is counted, and the rest is read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from astuner.errors import ConfigError, TraceSourceError
from astuner.traces.reading import Cursor, Found, FoundFeedback, Unread
from astuner.traces.span import TracedSpan
from astuner.traces.stored_file import (
    BOM,
    MAX_DOCUMENT_BYTES,
    FilePosition,
    json_lines,
    loaded_json,
    noting_damage,
    opened,
)

PARQUET = b"PAR1"
_ROWS_AT_ONCE = 500
_LINES_LOOKED_AT = 20
"""Of a file, until one is JSON."""
_LISTS = ("traces", "runs", "data")
"""Under which the answers of servers and commands hold their rows."""
JSON_ENDINGS = (".jsonl", ".json", ".ndjson", ".parquet")


class WrongRow(ValueError):
    """A row that is not what its format says; the message says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRow:
    """One object of a file."""

    value: Mapping[str, Any]
    place: str
    """For people: `runs.jsonl, line 3`."""
    name: str
    """Of the file and where in it the row begins: the same whenever it is read again."""


class SourceFiles:
    """The file of an address, or the files of its folder, and how far each has been read."""

    def __init__(self, path: Path, *, endings: Sequence[str]) -> None:
        """Of a folder, files with these ends of names count, packed ones too."""
        self.path = path
        self._endings = (*endings, *(f"{ending}.gz" for ending in endings))
        self._positions: dict[str, FilePosition] = {}

    def paths(self) -> list[Path]:
        """In the order of their names. Raises TraceSourceError where there is none."""
        if not self.path.is_dir():
            return [self.path]
        found = [path for path in sorted(self.path.rglob("*")) if self._counts(path)]
        if not found:
            raise TraceSourceError(
                f"{self.path}: no file in this folder ends in {', '.join(self._endings)}; name the "
                "file or the folder that has the traces"
            )
        return found

    def positions(self, since: Cursor) -> Iterator[tuple[Path, FilePosition]]:
        """Each file with where to go on, which is to be moved along."""
        self._positions = {
            str(name): FilePosition(num_bytes=int(num_bytes))
            for name, num_bytes in since.get("bytes", {}).items()
        }
        for path in self.paths():
            name = self._name(path)
            position = self._positions.setdefault(name, FilePosition())
            if _is_shorter(path, position):
                position.num_bytes = 0
            yield path, position

    def cursor(self) -> Cursor:
        """Bytes of each unpacked file, by its name in the folder."""
        return {"bytes": {name: at.num_bytes for name, at in self._positions.items()}}

    def _counts(self, path: Path) -> bool:
        is_hidden = any(part.startswith(".") for part in path.relative_to(self.path).parts)
        return path.is_file() and not is_hidden and path.name.endswith(self._endings)

    def _name(self, path: Path) -> str:
        return path.name if path == self.path else path.relative_to(self.path).as_posix()


ReadRow = Callable[[StoredRow], Iterator[Found]]
"""What one row is made of. Raises WrongRow."""


class RowFiles:
    """A source of files with rows, each of which becomes what `read_row` makes of it."""

    def __init__(self, name: str, address: str, path: Path, read_row: ReadRow) -> None:
        self.name, self.address = name, address
        self._files = SourceFiles(path, endings=JSON_ENDINGS)
        self._read_row = read_row

    def read(self, unread: Unread, since: Cursor) -> Iterator[Found]:
        for path, position in self._files.positions(since):
            for row in read_rows(path, unread, position):
                yield from noted_row(self._read_row, row, unread)

    def cursor(self) -> Cursor:
        return self._files.cursor()


def noted_row(read_row: ReadRow, row: StoredRow, unread: Unread) -> Iterator[Found]:
    """What the row is made of, up to where its form is another one, which is noted."""
    try:
        for found in read_row(row):
            _check_ids(found)
            yield found
    except WrongRow as error:
        unread.add(str(error), row.place)
    except (TypeError, AttributeError, KeyError, ValueError, IndexError) as error:
        unread.add(f"fields in another form ({type(error).__name__}: {error})", row.place)


def _check_ids(found: Found) -> None:
    ids: tuple[Any, ...] = ()
    if isinstance(found, TracedSpan):
        ids = (found.trace_id, found.span_id, found.parent_id, found.error)
    elif isinstance(found, FoundFeedback):
        ids = (found.trace_id, found.feedback.span_id)
    if not all(one is None or isinstance(one, str) for one in ids):
        raise WrongRow("ids, or an error, that are no texts")


def read_rows(path: Path, unread: Unread, position: FilePosition) -> Iterator[StoredRow]:
    """The objects from the position on, which moves along.

    Raises TraceSourceError where the file cannot be read, ConfigError where it is Parquet and
    pyarrow is missing.
    """
    with opened(path) as file:
        if file.read(len(PARQUET)) == PARQUET:
            yield from _table_rows(path, unread, position)
            return
        file.seek(0)
        with noting_damage(path, unread):
            if position.num_bytes == 0 and not _has_lines(file):
                yield from _document_rows(file, path, unread, position)
                return
            file.seek(position.num_bytes)
            yield from _line_rows(file, path, unread, position)


def first_row(path: Path) -> Mapping[str, Any] | None:
    """The first object of a file of JSON; None where none of the first lines has any.

    Raises TraceSourceError where the file cannot be opened.
    """
    unread = Unread()
    with opened(path) as file, noting_damage(path, unread):
        if not _has_lines(file):
            rows = _document_rows(file, path, unread, FilePosition())
            return next((row.value for row in rows), None)
        for _ in range(_LINES_LOOKED_AT):
            loaded = loaded_json(file.readline(MAX_DOCUMENT_BYTES).strip()) or []
            if row := next(_inner(loaded, str(path), "", unread), None):
                return row.value
    return None


def _has_lines(file: BinaryIO) -> bool:
    """Whether the first line is JSON by itself, or is not the beginning of a document."""
    first = file.readline(MAX_DOCUMENT_BYTES).removeprefix(BOM).strip()
    file.seek(0)
    return loaded_json(first) is not None or first[:1] not in (b"[", b"{") or len(first) > 100


def _document_rows(
    file: BinaryIO, path: Path, unread: Unread, position: FilePosition
) -> Iterator[StoredRow]:
    document = loaded_json(file.read(MAX_DOCUMENT_BYTES))
    if document is None:
        unread.add("a JSON document that is cut off or changed", str(path))
        return
    yield from _inner(document, str(path), path.stem, unread)
    position.num_bytes = file.tell()


def _line_rows(
    file: BinaryIO, path: Path, unread: Unread, position: FilePosition
) -> Iterator[StoredRow]:
    for loaded, place in json_lines(file, path, unread, position):
        yield from _inner(loaded, place, f"{path.stem}-{position.num_bytes}", unread)


def _inner(value: Any, place: str, name: str, unread: Unread) -> Iterator[StoredRow]:
    """The objects of a list, of what holds one, or the object itself."""
    if isinstance(value, Mapping):
        held = next((value[key] for key in _LISTS if isinstance(value.get(key), list)), None)
        if held is None:
            yield StoredRow(value=value, place=place, name=name)
            return
        value = held
    for number, one in enumerate(value):
        if isinstance(one, Mapping):
            yield StoredRow(value=one, place=f"{place}, item {number + 1}", name=f"{name}-{number}")
        else:
            unread.add(f"a JSON {type(one).__name__} in place of an object", place)


def _table_rows(path: Path, unread: Unread, position: FilePosition) -> Iterator[StoredRow]:
    """All, or none where the file has the size that it had."""
    size = path.stat().st_size
    if position.num_bytes == size:
        return
    number = 0
    for batch in _batches(path):
        for value in batch:
            number += 1
            yield StoredRow(
                value=value, place=f"{path}, row {number}", name=f"{path.stem}-{number}"
            )
    position.num_bytes = size


def table_columns(path: Path) -> list[str]:
    """Of a file of Parquet. Raises as `read_rows` does."""
    return list(_parquet_file(path).schema_arrow.names)


def _batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    import pyarrow

    try:
        for batch in _parquet_file(path).iter_batches(batch_size=_ROWS_AT_ONCE):
            yield batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise TraceSourceError(
            f"{path}: the table cannot be read on: {error}; write it again"
        ) from error


def _parquet_file(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            f"{path}: reading Parquet takes the package pyarrow, which is not installed: "
            "pip install pyarrow"
        ) from error
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise TraceSourceError(
            f"{path}: begins like a table of Parquet and is none ({error}); it may be cut off: "
            "write it again"
        ) from error


def _is_shorter(path: Path, position: FilePosition) -> bool:
    """Whether a file that is not packed holds less than was read of it: it is another one now."""
    try:
        return not path.name.endswith(".gz") and path.stat().st_size < position.num_bytes
    except OSError:
        return False
