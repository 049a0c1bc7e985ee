"""Long values in the spool's database, each without the beginning that an earlier one has."""

import pickle
import sqlite3
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from astuner.traces.last_histories import LastHistories, is_long

HISTORIES_TABLE = """
CREATE TABLE histories(id INTEGER PRIMARY KEY, base INTEGER, num_shared INTEGER, rest BLOB);
"""
_MAX_CHAIN = 64
"""Rows to go through for one value that is read out of order."""
_NUM_READ = 8
"""Values that the next one may go on with."""
_PACKED_FROM = 2_000
"""Bytes from which on packing is worth its time: texts repeat."""


@dataclass(frozen=True, slots=True)
class HistoryNumber:
    """Stands in the place of a value."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Put:
    number: int
    length: int
    num_above: int
    """Rows that it is made of beside its own."""


class SpooledHistories:
    """Put while the spool is filled, read while it is gone through; of one thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._num_put = 0
        self._put: LastHistories[_Put] = LastHistories()
        self._read: OrderedDict[int, str | list[Any]] = OrderedDict()

    def put_all(self, told: Mapping[str, Any]) -> Mapping[str, Any]:
        """Attributes with numbers in the place of long values."""
        if not any(map(is_long, told.values())):
            return told
        return {
            key: self._number_of(value) if is_long(value) else value for key, value in told.items()
        }

    def all_read(self, told: Mapping[str, Any]) -> Mapping[str, Any]:
        """The attributes as they came. Lists that go on with each other share their elements."""
        if not any(isinstance(value, HistoryNumber) for value in told.values()):
            return told
        return {
            key: self._value(value.number) if isinstance(value, HistoryNumber) else value
            for key, value in told.items()
        }

    def _number_of(self, history: str | list[Any]) -> HistoryNumber:
        base, num_shared = self._put.nearest(history)
        if base is not None and num_shared == len(history) == base.length:
            return HistoryNumber(base.number)
        if base is None or base.num_above >= _MAX_CHAIN:
            base, num_shared = None, 0
        self._num_put += 1
        row = (self._num_put, base and base.number, num_shared, packed(history[num_shared:]))
        self._connection.execute("INSERT INTO histories VALUES (?, ?, ?, ?)", row)
        put = _Put(
            number=self._num_put, length=len(history), num_above=base.num_above + 1 if base else 0
        )
        self._put.keep(history, put, instead_of=base)
        return HistoryNumber(self._num_put)

    def _value(self, number: int) -> str | list[Any]:
        value = self._read.get(number)
        if value is None:
            value = self._read[number] = self._joined(number)
        self._read.move_to_end(number)
        while len(self._read) > _NUM_READ:
            self._read.popitem(last=False)
        return value

    def _joined(self, number: int) -> str | list[Any]:
        """Out of its own row and as much as it wants of those that it goes on with."""
        pieces: list[Any] = []
        wanted: int | None = None
        above: int | None = number
        while above is not None:
            if (known := self._read.get(above)) is not None:
                pieces.append(known[:wanted])
                break
            above, num_shared, rest = self._connection.execute(
                "SELECT base, num_shared, rest FROM histories WHERE id = ?", (above,)
            ).fetchone()
            own = None if wanted is None else max(wanted - num_shared, 0)
            pieces.append(unpacked(rest)[:own])
            wanted = num_shared if wanted is None else min(wanted, num_shared)
        pieces.reverse()
        if isinstance(pieces[0], str):
            return "".join(pieces)
        return [element for piece in pieces for element in piece]


def packed(value: Any) -> bytes:
    """Of our own process, so that pickle reads nothing that others wrote."""
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return b"z" + zlib.compress(data, 1) if len(data) > _PACKED_FROM else b"p" + data


def unpacked(data: bytes) -> Any:
    """What `packed` was given."""
    return pickle.loads(zlib.decompress(data[1:]) if data[:1] == b"z" else data[1:])
