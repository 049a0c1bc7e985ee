"""The file in the cache folder that holds the index of one run; owns the connection to it.

A cache may be thrown away at any time: one that is corrupt or of another version is, and where the
folder cannot be written the index lives in memory. Several processes may use one file at once.
"""

import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from astuner.logview.reading.lines import shown
from astuner.machine.caches import own_folder

logger = logging.getLogger(__name__)

VERSION = 2
"""Of the tables. Raised with each change of them or of what a row means."""

LARGEST_INTEGER = 2**63 - 1
_BUSY_SECONDS = 10.0
_UNUSED_SECONDS = 90 * 24 * 3600.0
"""After which the index of a run that nobody opened is deleted."""
_IN_MEMORY = ":memory:"
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}

_T = TypeVar("_T")

_TABLES = """
CREATE TABLE IF NOT EXISTS files (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    step INTEGER NOT NULL,
    is_validation INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    is_finished INTEGER NOT NULL,
    done INTEGER NOT NULL,
    mark_offset INTEGER NOT NULL,
    mark BLOB NOT NULL,
    num_episodes INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS episodes (
    file_id INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    episode_id TEXT NOT NULL,
    step INTEGER NOT NULL,
    is_validation INTEGER NOT NULL,
    task_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    title TEXT NOT NULL,
    reward REAL,
    is_success INTEGER,
    failure TEXT,
    agents TEXT NOT NULL,
    tools TEXT NOT NULL,
    num_calls INTEGER NOT NULL,
    num_sequences INTEGER NOT NULL,
    num_breaks INTEGER NOT NULL,
    num_sampled_tokens INTEGER NOT NULL,
    num_trained_tokens INTEGER NOT NULL,
    seconds REAL,
    madness TEXT,
    problem TEXT,
    PRIMARY KEY (file_id, offset)
);
CREATE INDEX IF NOT EXISTS by_step
    ON episodes (step, is_validation, task_id, attempt, file_id, offset);
CREATE INDEX IF NOT EXISTS by_task ON episodes (task_id, is_validation, step, problem, reward);
CREATE INDEX IF NOT EXISTS by_id ON episodes (episode_id);
CREATE INDEX IF NOT EXISTS of_failed ON episodes (step) WHERE failure IS NOT NULL;
"""


def cache_folder() -> Path:
    """Where the platform wants caches of this program.

    Where there is no home, that is the folder for temporary files, and where not even that can be
    written, a place that nobody can write, so that indexes live in memory.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    home = os.path.expanduser("~")
    if base and os.path.isabs(base):
        caches = Path(base)
    elif os.path.isabs(home):
        caches = Path(home, ".cache")
    else:
        try:
            caches = own_folder()
        except OSError:
            return Path(os.devnull)
    return caches / "astuner" / "logview"


class IndexCache:
    """The tables of one run. Safe to use from several threads; each call is short."""

    def __init__(self, root: Path, folder: Path) -> None:
        """For the run directory `root`, in the cache folder `folder`. Opened when first used."""
        name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]
        self._path = folder / f"{name}.sqlite"
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None

    def read(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query; none where the file is busy or was found to be corrupt."""
        asked = [_storable(value) for value in values]
        return self._tried(lambda connection: connection.execute(sql, asked).fetchall()) or []

    def change(self, work: Callable[[sqlite3.Connection], None]) -> bool:
        """Do all that `work` does, or nothing of it: False where the file is busy or corrupt."""

        def whole_work(connection: sqlite3.Connection) -> bool:
            connection.execute("BEGIN IMMEDIATE")
            try:
                work(connection)
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # which has undone it already
                    connection.execute("ROLLBACK")
                raise
            return True

        return self._tried(whole_work) or False

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _tried(self, work: Callable[[sqlite3.Connection], _T]) -> _T | None:
        """What is found to be broken begins anew, empty."""
        with self._lock:
            try:
                return work(self._open())
            except sqlite3.OperationalError as error:
                if _is_busy(error):
                    logger.debug("index busy: file=%s", self._path)
                else:
                    self._use_memory(error)
            except sqlite3.DatabaseError as error:
                if type(error) is not sqlite3.DatabaseError:
                    raise
                logger.warning("index thrown away: file=%s: %s", self._path, error)
                self._throw_away()
        return None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                self._connection = self._open_file()
            except (sqlite3.Error, OSError) as error:
                self._use_memory(error)
        assert self._connection is not None
        return self._connection

    def _open_file(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        is_new = not self._path.exists()
        try:
            connection = _connect(self._path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            logger.warning("index made anew: file=%s: %s", self._path, error)
            _delete(self._path)
            connection = _connect(self._path)
        with suppress(OSError):
            os.utime(self._path)
        if is_new:
            _delete_unused(self._path.parent)
        return connection

    def _use_memory(self, error: Exception) -> None:
        logger.warning(
            "the index is kept in memory, and is made anew at each start: file=%s: %s; free some "
            "room there, or name another folder by XDG_CACHE_HOME",
            *(self._path, error),
        )
        self.close()
        self._connection = _connect(_IN_MEMORY)

    def _throw_away(self) -> None:
        self.close()
        _delete(self._path)


def _is_busy(error: sqlite3.OperationalError) -> bool:
    """Its code has details in the higher bits, and is missing where Python itself raised it."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY


def _storable(value: Any) -> Any:
    """What a user asked for as what the tables may hold: they have neither larger numbers nor lone
    surrogates."""
    if isinstance(value, int):
        return max(-LARGEST_INTEGER, min(LARGEST_INTEGER, value))
    return shown(value) if isinstance(value, str) else value


def _delete(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        with suppress(OSError):
            Path(f"{path}{suffix}").unlink()


def _delete_unused(folder: Path) -> None:
    """Indexes that were opened last long ago: their runs may be gone."""
    for path in folder.glob("*.sqlite"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _UNUSED_SECONDS:
                _delete(path)


def _connect(path: Path | str) -> sqlite3.Connection:
    """Raises sqlite3.DatabaseError for a file that is no database or has other tables."""
    connection = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        _make_tables(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _make_tables(connection: sqlite3.Connection) -> None:
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found not in (0, VERSION):
        raise sqlite3.DatabaseError(f"it has version {found} of the tables, not {VERSION}")
    for statement in _TABLES.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")
