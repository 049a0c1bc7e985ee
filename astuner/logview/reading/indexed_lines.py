"""Where the lines of a growing file lie, with the little of each that lists and filters need.

Owns the following of the file, also over its replacement. Texts stay on the disk and are read by
their places.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

from astuner.errors import UnreadableError
from astuner.logview.reading.lines import WholeLine, json_object, own_file, whole_lines
from astuner.machine.regular_file import open_regular

MAX_LINE_BYTES = 16 * 2**20
_MAX_PROBLEMS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LinePlace:
    """Where a line lies in its file, in bytes."""

    offset: int
    length: int


class PlacedEntry(Protocol):
    """What is kept of a line."""

    @property
    def place(self) -> LinePlace: ...


Entry = TypeVar("Entry", bound=PlacedEntry)
EntryMaker = Callable[[Mapping[str, Any], LinePlace], Entry]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedContent(Generic[Entry]):
    """What a file holds as of one moment."""

    version: int
    """Changes with every change of the others."""
    entries: Sequence[Entry]
    """Of all whole lines that could be read, in order."""
    problems: Sequence[str]
    """What is wrong with the others, in words."""
    num_torn_bytes: int
    """Of a last line that has no end yet."""
    modified: float | None
    """Seconds since 1970; None where the file is not there."""


class IndexedLines(Generic[Entry]):
    """Follows one file of a folder. May be used by several threads."""

    def __init__(self, root: Path, name: str, *, entry_of: EntryMaker[Entry]) -> None:
        """Of the folder `root`, which has no links in its own path.

        `entry_of` makes what is kept of a line; it raises ValueError, in words, for one that holds
        something else.
        """
        self._root = root
        self.name = name
        self._entry_of = entry_of
        self._lock = threading.Lock()
        self._version = 0
        self._begin_anew()

    def read(self) -> IndexedContent[Entry]:
        """Read what was appended; all again where what was read is no longer there."""
        with self._lock:
            path = own_file(self._root, self.name)
            try:
                if path is None:
                    if self._seen is not None:
                        self._begin_anew()
                else:
                    self._follow(path)
            except OSError as error:
                return self._content(f"{self.name}: it cannot be read: {error.strerror}")
            return self._content()

    def objects(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, dict[str, Any]]]:
        """Each with all of its line, as long as somebody asks for more.

        Raises UnreadableError, in words, where the file is gone or was changed since.
        """
        path = own_file(self._root, self.name)
        if path is None:
            raise UnreadableError(f"{self._root / self.name} is gone: it was deleted or moved")
        try:
            with open_regular(path) as file:
                for entry in entries:
                    yield entry, self._object(file, entry)
        except OSError as error:
            raise UnreadableError(f"{path} cannot be read: {error.strerror}") from error

    def object(self, entry: Entry) -> dict[str, Any]:
        """All of its line. Raises as `objects` does."""
        return next(found for _, found in self.objects([entry]))

    def _object(self, file: BinaryIO, entry: Entry) -> dict[str, Any]:
        file.seek(entry.place.offset)
        try:
            found = json_object(file.read(entry.place.length))
            is_same = self._entry_of(found, entry.place) == entry
        except ValueError:
            is_same = False
        if not is_same:
            raise UnreadableError(
                f"{self._root / self.name}: another line stands at byte {entry.place.offset:,} "
                "now; the file was changed after it was listed: load the page again"
            )
        return found

    def _content(self, *also: str) -> IndexedContent[Entry]:
        size, modified = (self._seen[1], self._seen[2] / 1e9) if self._seen else (0, None)
        return IndexedContent(
            version=self._version,
            entries=list(self._entries),
            problems=[*self._problems, *also],
            num_torn_bytes=max(0, size - self._done),
            modified=modified,
        )

    def _begin_anew(self) -> None:
        self._seen: tuple[int, int, int] | None = None
        """Inode, size and time of the last look; None: the file was not there."""
        self._done = 0
        self._last_line: tuple[int, bytes] | None = None
        """Where the last line that was read begins, and how."""
        self._num_lines = 0
        self._entries: list[Entry] = []
        self._problems: list[str] = []
        self._version += 1

    def _follow(self, path: Path) -> None:
        with open_regular(path) as file:
            stat = os.fstat(file.fileno())
            seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if seen == self._seen:
                return
            if self._seen is not None and not self._has_grown(file, seen):
                self._begin_anew()
            for line in whole_lines(file, self._done, max_bytes=MAX_LINE_BYTES):
                self._take(line)
            self._seen = seen[0], max(seen[1], self._done), seen[2]

    def _has_grown(self, file: BinaryIO, seen: tuple[int, int, int]) -> bool:
        """Whether all that was read is still there."""
        assert self._seen is not None
        if seen[0] != self._seen[0] or seen[1] < self._done:
            return False
        if self._last_line is None:
            return self._done == 0
        file.seek(self._last_line[0])
        return file.read(len(self._last_line[1])) == self._last_line[1]

    def _take(self, line: WholeLine) -> None:
        self._done = line.offset + line.length
        self._last_line = line.offset, line.head
        self._num_lines += 1
        self._version += 1
        where = f"{self.name}, line {self._num_lines:,}"
        if line.data is None:
            self._say(f"{where}: it is longer than {MAX_LINE_BYTES:,} bytes and was passed over")
            return
        if not line.data.strip():
            return
        place = LinePlace(offset=line.offset, length=line.length)
        try:
            self._entries.append(self._entry_of(json_object(line.data), place))
        except ValueError as error:
            self._say(f"{where}: it was passed over: {error}")

    def _say(self, problem: str) -> None:
        if len(self._problems) < _MAX_PROBLEMS:
            self._problems.append(problem)
        elif len(self._problems) == _MAX_PROBLEMS:
            self._problems.append(f"{self.name}: … and more of them")
