"""The files of a folder of traces: one for each day and process, and another where one gets large.

A file holds whole lines, written at once and synced; a kill leaves at most the last line torn, in a
file that nobody appends to any more. Traces and feedback have files of their own, since a file of
OTLP holds one kind of data. Owner only. Knows no content.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

from astuner.models.manifest import sync

TraceKind = Literal["traces", "feedback", "logs"]
"""Feedback is log records too, of our own model server; `logs` are those of others."""
_MAX_FILE_BYTES = 64_000_000
"""Small enough to be opened by an editor and sent by mail of the larger kind."""
_FILES_OF_BOUND = 8
"""At least so many make up a folder with a bound, so that what goes at a time is little."""


class TraceFiles:
    """What one process appends to one kind. Used by one thread."""

    def __init__(
        self, folder: Path, kind: TraceKind, *, max_bytes: float | None, today: Callable[[], str]
    ) -> None:
        """`max_bytes` is of all files of the folder together, about; None: no bound. `today` gives
        the date in ISO 8601."""
        self._folder, self._kind, self._today = folder, kind, today
        self._max_bytes = max_bytes
        self._max_file_bytes = min(_MAX_FILE_BYTES, (max_bytes or 1e18) / _FILES_OF_BOUND)
        self._file: int | None = None
        self._day = ""
        self._size = 0

    def append(self, lines: Sequence[bytes]) -> None:
        """Write whole lines and wait until the disk has them.

        Raises OSError where the file system refuses; none of these lines stands in a file then.
        """
        data = memoryview(b"".join(lines))
        file = self._current()
        try:
            written = 0
            while written < len(data):
                written += os.write(file, data[written:])
            os.fsync(file)
        except OSError:
            self._take_back(file)
            raise
        self._size += len(data)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _current(self) -> int:
        is_todays = self._day == self._today()
        if self._file is not None and is_todays and self._size < self._max_file_bytes:
            return self._file
        self.close()
        self._day, self._size = self._today(), 0
        self._file = self._new()
        if self._max_bytes is not None:
            _drop_oldest(self._folder, self._max_bytes)
        return self._file

    def _new(self) -> int:
        """Locked, so that nobody who bounds the folder takes it for an old one."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        for path in _free_names(self._folder / f"{self._kind}_{self._day}"):
            try:
                file = os.open(path, flags, 0o600)
            except FileExistsError:
                continue
            fcntl.flock(file, fcntl.LOCK_SH)
            sync(self._folder)
            return file
        raise AssertionError("names do not end")

    def _take_back(self, file: int) -> None:
        """What was written of a refused batch; where that is refused too, the next one begins a new
        file."""
        try:
            os.ftruncate(file, self._size)
        except OSError:
            self.close()


def files_of(folder: Path, kind: TraceKind) -> list[Path]:
    """The oldest first."""
    return sorted(folder.glob(f"{kind}_*.jsonl"), key=_age)


def _free_names(stem: Path) -> Iterator[Path]:
    taken = [path.stem.rpartition("_")[2] for path in stem.parent.glob(f"{stem.name}_*.jsonl")]
    number = max((int(one) for one in taken if one.isdecimal()), default=0)
    while True:
        number += 1
        yield stem.with_name(f"{stem.name}_{number:04d}.jsonl")


def _drop_oldest(folder: Path, max_bytes: float) -> None:
    paths = [path for kind in get_args(TraceKind) for path in files_of(folder, kind)]
    paths.sort(key=_age)
    excess = sum(map(_size, paths)) - max_bytes
    for path in paths:
        if excess <= 0:
            return
        size = _size(path)
        if _dropped(path):
            excess -= size


def _dropped(path: Path) -> bool:
    """False for one that is written to, by this process or another."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except OSError:
        return False
    return True


def _age(path: Path) -> tuple[float, str]:
    try:
        return path.stat().st_mtime, path.name
    except FileNotFoundError:
        return 0.0, path.name


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
