"""The one door to the readers of traces: tasks are made of whatever comes through it."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from astuner.errors import ConfigError
from astuner.traces.reader import read_traces
from astuner.traces.reading import Cursor, TraceSource, Unread
from astuner.traces.trace import Trace


class TracePlace(Protocol):
    """Traces of one address."""

    def read(self, unread: Unread) -> Iterator[Trace]:
        """All of them. Raises TraceSourceError where the place cannot be read as a whole."""
        ...

    def state(self) -> Any:
        """What changes when something comes to it, a JSON value; None: only asking tells."""
        ...

    def cursor(self) -> Cursor:
        """Behind what `read` has given."""
        ...

    def has_news(self, since: Cursor) -> bool:
        """Whether there is anything behind the cursor."""
        ...


class KnownPlace:
    """Read by `traces.sources`."""

    def __init__(self, address: str, *, format_name: str | None) -> None:
        self._address, self._format = address, format_name
        self._cursor: Cursor = {}

    def read(self, unread: Unread) -> Iterator[Trace]:
        source = self._opened()
        yield from read_traces(source, unread)
        self._cursor = source.cursor()

    def state(self) -> Any:
        return None if is_url(self._address) else _state_of(Path(self._address))

    def cursor(self) -> Cursor:
        return self._cursor

    def has_news(self, since: Cursor) -> bool:
        return next(iter(self._opened().read(Unread(), since)), None) is not None

    def _opened(self) -> TraceSource:
        # The table of sources, with the clients of their servers, is for those that read traces.
        from astuner.traces.sources import known

        return known.open_source(self._address, format=self._format)


def is_url(address: str) -> bool:
    return urlsplit(address).scheme in ("http", "https")


def found_address(address: str, search_dirs: Sequence[Path], *, key: str) -> str:
    """The address; of a file or folder, its absolute path. Raises ConfigError where neither is
    there."""
    if is_url(address):
        return address
    plain = address.removeprefix("sqlite:///").removeprefix("file://")
    places = [folder / Path(plain).expanduser() for folder in search_dirs or (Path.cwd(),)]
    for place in places:
        if place.exists():
            return str(place.absolute())
    raise ConfigError(
        f"{key}: no such file or folder; looked for {', '.join(map(str, places))}; name a file, a "
        "folder, a database or an address that begins with http"
    )


def _state_of(path: Path) -> str:
    """Digest of names, sizes and times of change; of a database, what waits beside it too."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path, Path(f"{path}-wal")]
    digest = hashlib.sha256()
    for file in files:
        try:
            told = file.stat()
        except FileNotFoundError:
            continue
        if not os.path.isdir(file):
            name = file.relative_to(path) if path.is_dir() else file.name
            digest.update(f"{name}\0{told.st_size}\0{told.st_mtime_ns}\n".encode(errors="replace"))
    return digest.hexdigest()
