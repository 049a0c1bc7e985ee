"""Brings the index of a run up to its files: what was appended is read, what was replaced again.

A file that was read to its end is not opened again while its size, time and inode stay. Work is
stored in small batches, each idempotent, so that any number of processes may do it at once.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

from astuner.logview.reading.cache import IndexCache
from astuner.logview.reading.inventory import EPISODES, FoundFile, episode_files
from astuner.logview.reading.lines import MAX_LINE_BYTES, WholeLine, whole_lines
from astuner.logview.reading.row import (
    ROW_COLUMNS,
    EpisodeRow,
    Place,
    row_of,
    to_values,
    too_long,
    unreadable_row,
)
from astuner.logview.reading.skim import skim
from astuner.machine.regular_file import open_regular

_BATCH_BYTES = 8 * 2**20
_BATCH_LINES = 512
_BUFFER_BYTES = 2**20

_INSERT = (
    f"INSERT OR IGNORE INTO episodes (file_id, {', '.join(ROW_COLUMNS)}) "
    f"VALUES (?, {', '.join('?' for _ in ROW_COLUMNS)})"
)
_NOTE = """
INSERT INTO files
    (name, step, is_validation, inode, size, mtime_ns, is_finished, done, mark_offset, mark,
    num_episodes)
VALUES (?, ?, ?, ?, ?, ?, 0, 0, 0, x'', 0)
ON CONFLICT (name) DO UPDATE
SET size = excluded.size, mtime_ns = excluded.mtime_ns, is_finished = 0
"""
_MOVE_ON = """
UPDATE files SET done = ?, mark_offset = ?, mark = ?, num_episodes = num_episodes + ? WHERE id = ?
"""
_FINISH = "UPDATE files SET is_finished = ? WHERE id = ?"
_MARK = "SELECT mark_offset, mark FROM files WHERE id = ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed:
    """How much of a run's episodes the index knows."""

    done_bytes: int
    total_bytes: int
    is_whole: bool
    """Whether every whole line of every file is known, as of the last look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _KnownFile:
    """One file of episodes, as the index knows it."""

    id: int
    name: str
    step: int
    is_validation: bool
    inode: int
    size: int
    mtime_ns: int
    is_finished: bool
    """Whether all its whole lines are known, for that size and time."""
    done: int
    """Where the next line begins."""


_COLUMNS = tuple(column.name for column in fields(_KnownFile))


class Indexer:
    """Reads the files of one run into its cache."""

    def __init__(
        self,
        root: Path,
        cache: IndexCache,
        *,
        max_line_bytes: int = MAX_LINE_BYTES,
        look: Callable[[Path], dict[str, FoundFile]] = episode_files,
    ) -> None:
        """`look` finds the files that are there."""
        self._root = root
        self._look = look
        self._cache = cache
        self._max_line_bytes = max_line_bytes
        self._lock = threading.Lock()
        """Held for a batch: several threads take turns instead of reading the same lines."""

    def refresh(
        self, *, step: int | None, is_validation: bool | None, seconds: float | None
    ) -> Indexed:
        """Read what is new for about that time, at least a line; the files of `step` first."""
        deadline = None if seconds is None else time.monotonic() + seconds
        # In this order: of a look that is older than what another process read meanwhile, a file
        # would seem to have become shorter.
        before = self._known_files()
        found = self._look(self._root)
        if not found and not os.path.isdir(self._root):
            return self._as_known()
        as_before = _progress(before, found)
        if as_before.is_whole:
            return as_before
        unread = self._reconcile(before, found)

        def urgency(known: _KnownFile) -> tuple[bool, bool, int]:
            file = found[known.name]
            is_asked = file.step == step and is_validation in (None, file.is_validation)
            return not is_asked, not file.is_validation, -file.step

        for known in sorted(unread, key=urgency):
            self._read_file(found[known.name], deadline)
            if _is_over(deadline):
                break
        return _progress(self._known_files(), found)

    def _as_known(self) -> Indexed:
        """Of a run whose directory is gone: what was known of it stays."""
        ((done,),) = self._cache.read("SELECT coalesce(sum(done), 0) FROM files") or [(0,)]
        return Indexed(done_bytes=done, total_bytes=done, is_whole=True)

    def _known_files(self, condition: str = "", *values: str) -> dict[str, _KnownFile]:
        rows = self._cache.read(f"SELECT {', '.join(_COLUMNS)} FROM files {condition}", values)
        known = [_KnownFile(**dict(zip(_COLUMNS, row, strict=True))) for row in rows]
        return {file.name: file for file in known}

    def _reconcile(
        self, known: dict[str, _KnownFile], found: dict[str, FoundFile]
    ) -> list[_KnownFile]:
        """Forget what is no longer there, note what changed, and return the files to read."""
        gone = [file for name, file in known.items() if name not in found]
        replaced = [file for name, file in known.items() if _is_replaced(file, found.get(name))]
        changed = [
            file
            for name, file in found.items()
            if name not in known or not _is_finished(known[name], file)
        ]

        def note(connection: sqlite3.Connection) -> None:
            for file in (*gone, *replaced):
                _forget(connection, file)
            connection.executemany(_NOTE, [_noted(file) for file in changed])

        self._cache.change(note)
        noted = self._known_files()
        return [noted[file.name] for file in changed if file.name in noted]

    def _read_file(self, found: FoundFile, deadline: float | None) -> None:
        has_more = True
        while has_more:
            with self._lock:
                known = self._known_files("WHERE name = ?", found.name).get(found.name)
                if known is None or known.is_finished:
                    return
                has_more = self._read_batch(known, found, deadline)
            if _is_over(deadline):
                return

    def _read_batch(self, known: _KnownFile, found: FoundFile, deadline: float | None) -> bool:
        """Read and store some lines; whether there may be more to read."""
        batch, is_finished = _RowsToStore(start=known.done), False
        path = self._root / EPISODES / known.name
        try:
            with open_regular(path, buffering=_BUFFER_BYTES) as file:
                if not self._has_mark(file, known):
                    return self._cache.change(
                        lambda connection: _begin_anew(connection, known, found)
                    )
                for line in whole_lines(file, known.done, max_bytes=self._max_line_bytes):
                    batch.add(_row_of_line(line, known, self._max_line_bytes), line)
                    if batch.is_full or _is_over(deadline):
                        break
                else:
                    is_finished = True
        except OSError:  # deleted or made unreadable since it was found
            return False
        is_done = self._cache.change(
            lambda connection: _store(connection, known, batch, is_finished=is_finished)
        )
        return is_done and not is_finished

    def _has_mark(self, file: BinaryIO, known: _KnownFile) -> bool:
        """Whether the line that was read last still stands where it stood."""
        for offset, mark in self._cache.read(_MARK, (known.id,)):
            file.seek(offset)
            return file.read(len(mark)) == mark
        return True


def _progress(known: dict[str, _KnownFile], found: dict[str, FoundFile]) -> Indexed:
    return Indexed(
        done_bytes=sum(file.done for file in known.values()),
        total_bytes=sum(file.size for file in found.values()),
        is_whole=found.keys() == known.keys()
        and all(_is_finished(known[name], file) for name, file in found.items()),
    )


def _is_over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


@dataclass(slots=True)
class _RowsToStore:
    """Rows that are stored together. Owned by who reads the file."""

    start: int
    """Where the first of its lines begins."""
    rows: list[EpisodeRow] = field(default_factory=list)
    last: WholeLine | None = None

    @property
    def end(self) -> int:
        return self.start if self.last is None else self.last.offset + self.last.length

    @property
    def is_full(self) -> bool:
        return self.end - self.start >= _BATCH_BYTES or len(self.rows) >= _BATCH_LINES

    def add(self, row: EpisodeRow, line: WholeLine) -> None:
        self.rows.append(row)
        self.last = line


def _is_replaced(known: _KnownFile, found: FoundFile | None) -> bool:
    """Whether another file has its name now, or other lines; see also `_has_mark`."""
    if found is None:
        return False
    is_rewritten = found.size == known.size and found.mtime_ns != known.mtime_ns
    return found.inode != known.inode or found.size < known.done or is_rewritten


def _is_finished(known: _KnownFile, found: FoundFile) -> bool:
    return (
        bool(known.is_finished)
        and (known.inode, known.size) == (found.inode, found.size)
        and known.mtime_ns == found.mtime_ns
    )


def _store(
    connection: sqlite3.Connection, known: _KnownFile, batch: _RowsToStore, *, is_finished: bool
) -> None:
    """Nothing where another process has read further, or has begun the file anew."""
    found = connection.execute("SELECT done FROM files WHERE id = ?", (known.id,))
    if found.fetchone() != (batch.start,):
        return
    connection.executemany(_INSERT, [(known.id, *to_values(row)) for row in batch.rows])
    if batch.last is not None:
        values = (batch.end, batch.last.offset, batch.last.head, len(batch.rows), known.id)
        connection.execute(_MOVE_ON, values)
    connection.execute(_FINISH, (is_finished, known.id))


def _begin_anew(connection: sqlite3.Connection, known: _KnownFile, found: FoundFile) -> None:
    """Another file stands in its place."""
    _forget(connection, known)
    connection.execute(_NOTE, _noted(found))


def _forget(connection: sqlite3.Connection, known: _KnownFile) -> None:
    connection.execute("DELETE FROM episodes WHERE file_id = ?", (known.id,))
    connection.execute("DELETE FROM files WHERE id = ?", (known.id,))


def _noted(file: FoundFile) -> tuple[Any, ...]:
    return file.name, file.step, file.is_validation, file.inode, file.size, file.mtime_ns


def _row_of_line(line: WholeLine, known: _KnownFile, max_line_bytes: int) -> EpisodeRow:
    place = Place(
        step=known.step,
        is_validation=bool(known.is_validation),
        file=known.name,
        offset=line.offset,
        length=line.length,
    )
    if line.data is None:
        return unreadable_row(place, too_long(line.length, max_line_bytes))
    try:
        return row_of(skim(line.data), place)
    except ValueError as error:
        return unreadable_row(place, f"the line cannot be read: {error}")
