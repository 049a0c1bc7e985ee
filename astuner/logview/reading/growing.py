"""The objects of a small file that grows by lines, each read once."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astuner.logview.reading.lines import json_object, own_file, whole_lines
from astuner.machine.regular_file import open_regular

_MAX_LINE_BYTES = 16 * 2**20
_MAX_PROBLEMS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a file holds as of one moment."""

    version: int
    """Changes with every change of the others."""
    objects: list[dict[str, Any]]
    """Of all whole lines that hold one, in order."""
    problems: list[str]
    """What is wrong with the others, in words."""


class GrowingLines:
    """Follows one file of a run, also over its replacement. Holds what it read."""

    def __init__(self, root: Path, name: str) -> None:
        self._root = root
        self._name = name
        self._lock = threading.Lock()
        self._inode = 0
        self._done = 0
        self._num_lines = 0
        self._num_problems = 0
        self._version = 0
        self._objects: list[dict[str, Any]] = []
        self._problems: list[str] = []

    def read(self) -> Content:
        """Read what was appended; all again where the file is another one or became shorter."""
        with self._lock:
            path = own_file(self._root, self._name)
            try:
                if path is not None:
                    self._follow(path)
                elif self._inode:
                    self._begin_anew(inode=0)
            except OSError as error:
                return self._content(f"{self._name}: it cannot be read: {error.strerror}")
            return self._content()

    def _content(self, *also: str) -> Content:
        return Content(
            version=self._version,
            objects=list(self._objects),
            problems=[*self._problems, *also],
        )

    def _follow(self, path: Path) -> None:
        with open_regular(path) as file:
            stat = os.fstat(file.fileno())
            if stat.st_ino != self._inode or stat.st_size < self._done:
                self._begin_anew(inode=stat.st_ino)
            if stat.st_size == self._done:
                return
            for line in whole_lines(file, self._done, max_bytes=_MAX_LINE_BYTES):
                self._done = line.offset + line.length
                self._num_lines += 1
                self._version += 1
                self._take(line.data)

    def _take(self, data: bytes | None) -> None:
        where = f"{self._name}, line {self._num_lines}"
        if data is None:
            self._say(f"{where}: it is longer than {_MAX_LINE_BYTES:,} bytes and was passed over")
            return
        try:
            self._objects.append(json_object(data))
        except ValueError as error:
            self._say(f"{where}: it was passed over: {error}")

    def _say(self, problem: str) -> None:
        self._num_problems += 1
        if len(self._problems) < _MAX_PROBLEMS:
            self._problems.append(problem)
        elif self._num_problems == _MAX_PROBLEMS + 1:
            self._problems.append("… and more of them")

    def _begin_anew(self, *, inode: int) -> None:
        self._inode, self._done, self._num_lines, self._num_problems = inode, 0, 0, 0
        self._version += 1
        self._objects, self._problems = [], []
