"""Finds a text in what was said in a run's episodes, in either case, a part of them at a time.

The bytes of a line are looked through before it is read as JSON: most lines do not have the text.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from astuner.logview.reading.cache import IndexCache
from astuner.logview.reading.inventory import EPISODES
from astuner.logview.reading.lines import json_object, own_file, shown
from astuner.logview.reading.query import (
    SELECT_ROWS,
    EpisodeQuery,
    filter_of,
    keys_of,
    rows_from,
)
from astuner.logview.reading.row import EpisodeRow
from astuner.logview.reading.said import SaidText, texts_of
from astuner.machine.regular_file import open_regular

SEARCH_SECONDS = 0.15
"""How long one call looks, at most about: what is left is left to the next."""

_AROUND_SIGNS = 80
_FIRST_ROWS, _MOST_ROWS = 100, 1600
"""Taken from the index at a time: few while hits may be near, since most orders sort all for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchHit:
    """An episode that says the text, with the first place where it does."""

    row: EpisodeRow
    call: int
    """Index of the call in the episode."""
    message: int
    """Index among the messages of the call; that of its reply is their number."""
    role: str
    before: str
    """What stands before the found text, a part of it."""
    found: str
    """As it is written there."""
    behind: str
    """What stands behind it."""
    num_messages: int
    """Of the episode, that say it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPage:
    """What one call found, and how to go on."""

    hits: list[SearchHit]
    num_searched: int
    """Episodes that were looked through, with those of the calls before."""
    total: int
    """Episodes that the query asks for."""
    after: str | None
    """From where to go on; None where all were looked through."""


def search_episodes(
    cache: IndexCache,
    root: Path,
    text: str,
    query: EpisodeQuery,
    *,
    limit: int,
    after: str | None,
    seconds: float,
) -> SearchPage:
    """The episodes of the query, in its order, of which a message says `text`.

    Cases are those of `str.lower`. Ends with `limit` hits, or once the `seconds` are over, and then
    goes on `after` what it gave. Records that cannot be read are passed over, and counted.
    """
    deadline = time.monotonic() + seconds
    needle, wanted, keys = text.lower(), filter_of(query), keys_of(query.order)
    cursor = _Cursor.read(after, len(keys))
    total = cache.read(f"SELECT count(*) FROM episodes e WHERE {wanted.sql}", wanted.values)
    hits: list[SearchHit] = []
    may_say = _prefilter(needle)
    with _Lines(root) as lines:
        for place, row in _rows_behind(cache, query, cursor.place):
            line = lines.of(row)
            cursor = _Cursor(place=place, num_searched=cursor.num_searched + 1)
            if line is not None and may_say(line) and (hit := _look(line, row, needle)):
                hits.append(hit)
            if len(hits) >= limit or time.monotonic() >= deadline:
                break
        else:
            cursor = _Cursor(place=None, num_searched=cursor.num_searched)
    num_asked = total[0][0] if total else 0
    return SearchPage(
        hits=hits,
        num_searched=cursor.num_searched,
        total=num_asked,
        after=cursor.written() if cursor.num_searched < num_asked else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cursor:
    """Where a search stands: behind the episode at `place`, in the order of the query."""

    place: tuple[Any, ...] | None
    num_searched: int

    @classmethod
    def read(cls, text: str | None, num_keys: int) -> "_Cursor":
        """One that was not written here begins at the beginning."""
        with suppress(ValueError, TypeError, RecursionError):
            num_searched, *place = json.loads(text or "")
            is_plain = all(isinstance(value, int | float | str) for value in place)
            if isinstance(num_searched, int) and is_plain and len(place) == num_keys:
                return cls(place=tuple(place), num_searched=num_searched)
        return cls(place=None, num_searched=0)

    def written(self) -> str | None:
        return None if self.place is None else json.dumps([self.num_searched, *self.place])


def _rows_behind(
    cache: IndexCache, query: EpisodeQuery, place: tuple[Any, ...] | None
) -> Iterator[tuple[tuple[Any, ...], EpisodeRow]]:
    """Each with its place in the order."""
    keys, wanted, limit = keys_of(query.order), filter_of(query), _FIRST_ROWS
    columns, _, tables = SELECT_ROWS.partition(" FROM ")
    order = ", ".join(keys)
    while True:
        behind = wanted if place is None else wanted.behind(keys, place)
        next_ones = f"SELECT e.rowid FROM episodes e WHERE {behind.sql} ORDER BY {order} LIMIT ?"
        found = cache.read(
            f"{columns}, {order} FROM {tables} WHERE e.rowid IN ({next_ones}) ORDER BY {order}",
            (*behind.values, limit),
        )
        rows = rows_from([values[: -len(keys)] for values in found])
        for values, row in zip(found, rows, strict=True):
            place = values[-len(keys) :]
            yield place, row
        if len(found) < limit:
            return
        limit = min(2 * limit, _MOST_ROWS)


class _Lines:
    """Reads lines of one run; keeps the file open that it read last."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._name = ""
        self._file: BinaryIO | None = None

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def of(self, row: EpisodeRow) -> bytes | None:
        """The line of a row; None where it cannot be had."""
        if row.problem is not None:
            return None
        try:
            file = self._opened(row.file)
            if file is None:
                return None
            file.seek(row.offset)
            return file.read(row.length)
        except OSError:
            return None

    def _opened(self, name: str) -> BinaryIO | None:
        if name != self._name:
            self._close()
            path = own_file(self._root, f"{EPISODES}/{name}")
            self._file = None if path is None else open_regular(path, buffering=0)
            self._name = name
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()


def _prefilter(needle: str) -> Callable[[bytes], bool]:
    """Whether a line may say the text, by its bytes, in either of the forms that JSON has for it.

    Lowering bytes changes the letters A to Z only: that is enough for a text of ASCII.
    """
    as_is = json.dumps(needle, ensure_ascii=False)[1:-1].lower()
    if as_is.isascii():
        return lambda line: as_is.encode() in line.lower()
    escaped = json.dumps(needle)[1:-1].lower().encode()
    as_bytes = as_is.encode("utf-8", "backslashreplace")
    if needle == needle.upper():
        return lambda line: as_bytes in (low := line.lower()) or escaped in low
    lowered = as_bytes.decode()
    return lambda line: lowered in line.decode(errors="replace").lower() or escaped in line.lower()


def _look(line: bytes, row: EpisodeRow, needle: str) -> SearchHit | None:
    try:
        saying = [said for said in texts_of(json_object(line)) if needle in said.text.lower()]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    return _hit(row, saying, needle) if saying else None


def _hit(row: EpisodeRow, saying: list[SaidText], needle: str) -> SearchHit:
    first = saying[0]
    start, end = _span(first.text, needle)
    return SearchHit(
        row=row,
        call=first.call,
        message=first.message,
        role=first.role,
        before=shown(first.text[max(0, start - _AROUND_SIGNS) : start]),
        found=shown(first.text[start:end]),
        behind=shown(first.text[end : end + _AROUND_SIGNS]),
        num_messages=len({(said.call, said.message) for said in saying}),
    )


def _span(text: str, needle: str) -> tuple[int, int]:
    """Where the needle stands in a text; lowering may change its length, as that of İ does."""
    start = text.lower().find(needle)
    if len(text.lower()) == len(text):
        return start, start + len(needle)
    lengths, position = [], 0
    for sign in text:
        lengths.append(position)
        position += len(sign.lower())
    first = max(i for i, at in enumerate(lengths) if at <= start)
    last = max(i for i, at in enumerate(lengths) if at < start + len(needle))
    return first, last + 1
