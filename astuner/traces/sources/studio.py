"""The database of AgentScope Studio, its table of spans as it is now and as it was before 1.0.9.

Only read, some rows at a time, so that a Studio that is at work is not held up.
"""

import json
import sqlite3
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from astuner.errors import TraceSourceError
from astuner.traces.otlp.json_form import error_message
from astuner.traces.reading import Cursor, Found, Unread
from astuner.traces.sources.address import SourceAddress
from astuner.traces.sources.agentscope_reprs import WrongRepr, old_attributes
from astuner.traces.sources.rows import StoredRow, WrongRow, noted_row
from astuner.traces.sources.values import first_of, flattened, seconds_since_1970
from astuner.traces.span import TracedEvent, TracedSpan

SQLITE_HEAD = b"SQLite format 3\0"
_ROWS_AT_ONCE = 200
_NEW = {"traceId", "spanId", "parentSpanId", "name", "startTimeUnixNano", "attributes", "status"}
_OLD = {"id", "traceId", "parentSpanId", "name", "startTime", "attributes", "status"}
_TABLES = ("span_table", "span_table_old_backup")
"""The second one while Studio moves to its new table, and where it was stopped at that."""
_ERRORS = (2, "2", "ERROR")
_NO_RUN = "unknown"
"""What Studio writes for a span without a conversation."""
_WHOLE = frozenset(
    (
        *("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions"),
        *("gen_ai.tool.definitions", "gen_ai.tool.call.arguments", "gen_ai.tool.call.result"),
        *("agentscope.function.input", "agentscope.function.output"),
        *("input.value", "output.value", "metadata", "mlflow.spanInputs", "mlflow.spanOutputs"),
        *("langfuse.observation.input", "langfuse.observation.output"),
        "langfuse.observation.usage_details",
    )
)
"""Attributes that were texts of JSON, whose objects Studio does not tell from its own nesting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _SpanTable:
    name: str
    read_row: Callable[[StoredRow], Iterator[Found]]
    is_new: bool


class StudioSource:
    """Its cursor: the number of the last row, and which of the tables has it."""

    name = "studio"

    def __init__(self, address: SourceAddress) -> None:
        self.address = address.shown
        self._path, self._wait_seconds = address.path, address.wait_seconds
        self._cursor: Cursor = {}

    def read(self, unread: Unread, since: Cursor) -> Iterator[Found]:
        try:
            with closing(self._opened()) as connection:
                table = self._table(connection)
                for number, row in self._rows(connection, table, since):
                    yield from noted_row(table.read_row, row, unread)
                    self._cursor = {"is_new": table.is_new, "row": number}
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def cursor(self) -> Cursor:
        return self._cursor

    def _opened(self) -> sqlite3.Connection:
        if not self._path.is_file():
            raise TraceSourceError(f"{self._path}: there is no such file; name the database")
        quoted = urllib.parse.quote(str(self._path.absolute()))
        connection = sqlite3.connect(
            f"file:{quoted}?mode=ro", uri=True, timeout=self._wait_seconds, isolation_level=None
        )
        # what a program wrote as text may be no UTF-8, and costs only itself then
        connection.text_factory = lambda text: text.decode(errors="replace")
        return connection

    def _table(self, connection: sqlite3.Connection) -> _SpanTable:
        found: dict[str, set[str]] = {}
        for name in _TABLES:
            columns = {row[1] for row in connection.execute(f"PRAGMA table_info({name})")}
            if columns >= _NEW:
                return _SpanTable(name=name, read_row=_read_new, is_new=True)
            if columns >= _OLD:
                return _SpanTable(name=name, read_row=_read_old, is_new=False)
            found |= {name: columns} if columns else {}
        raise TraceSourceError(f"{self._path}: {_unknown(connection, found)}")

    def _rows(
        self, connection: sqlite3.Connection, table: _SpanTable, since: Cursor
    ) -> Iterator[tuple[int, StoredRow]]:
        [[newest]] = connection.execute(f"SELECT coalesce(max(rowid), 0) FROM {table.name}")
        last = since.get("row", 0) if since.get("is_new") == table.is_new else 0
        if last > newest:  # rows were deleted, so that their numbers came anew
            last = 0
        self._cursor = {"is_new": table.is_new, "row": last}
        while True:
            cursor = connection.execute(
                f"SELECT rowid AS number_of_row, * FROM {table.name} WHERE rowid > ? "
                "ORDER BY rowid LIMIT ?",
                (last, _ROWS_AT_ONCE),
            )
            names = [column[0] for column in cursor.description]
            rows = cursor.fetchall()
            if not rows:
                return
            for row in rows:
                last = row[0]
                place = f"{self._path}, {table.name}, row {last}"
                value = dict(zip(names, row, strict=True))
                yield last, StoredRow(value=value, place=place, name=str(last))

    def _failed(self, error: sqlite3.Error) -> TraceSourceError:
        if "locked" in str(error) or "busy" in str(error):
            return TraceSourceError(
                f"{self._path}: somebody writes to this database and did not let go of it for "
                f"{self._wait_seconds:g} s ({error}); wait until Studio is idle, or read a copy"
            )
        return TraceSourceError(
            f"{self._path}: the database cannot be read: {error}; it may be cut off or changed: "
            "read a copy that was made while Studio was stopped"
        )


def _unknown(connection: sqlite3.Connection, found: Mapping[str, set[str]]) -> str:
    for table, columns in found.items():
        return (
            f"{table} is of a version of Studio that is not known: found the columns "
            f"{', '.join(sorted(columns))}; known are {', '.join(sorted(_NEW))}, and of old "
            f"{', '.join(sorted(_OLD))}: have its spans sent as OTLP instead"
        )
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master ORDER BY 1")]
    shown = ", ".join(tables[:12]) or "nothing"
    advice = "name the database.sqlite of AgentScope Studio"
    if "span_annotations" in tables:
        advice = "it looks like Phoenix's own: give the URL of its server instead"
    elif "trace_info" in tables:
        advice = "it looks like MLflow's own: give the URL of its server instead"
    return f"no database of AgentScope Studio: found {shown}; {advice}"


def _read_new(row: StoredRow) -> Iterator[Found]:
    """A row as Studio writes it since 1.0.9, also one that it made from an older one."""
    told = row.value
    nested = _object(told["attributes"], "attributes")
    flat = dict(flattened(nested, whole=_WHOLE))
    if _is_older(nested):
        flat |= _of_repr(nested)
    if flat.get("gen_ai.conversation.id") == _NO_RUN:
        del flat["gen_ai.conversation.id"]
    status = _object(told["status"], "status")
    scope = _object(told.get("scope") or "{}", "scope")
    resource = _object(told.get("resource") or "{}", "resource")
    events = list(_events(told.get("events")))
    is_error = status.get("code") in _ERRORS
    yield TracedSpan(
        trace_id=told["traceId"],
        span_id=told["spanId"],
        parent_id=told["parentSpanId"] or None,
        name=told["name"],
        started=_nanoseconds(told["startTimeUnixNano"]),
        ended=_nanoseconds(told.get("endTimeUnixNano")),
        attributes=flat,
        events=events,
        resource=dict(flattened(resource.get("attributes") or {})),
        scope=str(scope.get("name") or ""),
        scope_version=str(scope.get("version") or ""),
        error=error_message(status.get("message") or "", events) if is_error else None,
    )


def _read_old(row: StoredRow) -> Iterator[Found]:
    told = row.value
    nested = _object(told["attributes"], "attributes")
    message = str(told.get("statusMessage") or "")
    events = list(_events(told.get("events")))
    yield TracedSpan(
        trace_id=told["traceId"],
        span_id=told["id"],
        parent_id=told["parentSpanId"] or None,
        name=told["name"],
        started=seconds_since_1970(told["startTime"]),
        ended=seconds_since_1970(told.get("endTime")),
        attributes=_of_repr(nested),
        events=events,
        scope="agentscope",
        error=error_message(message, events) if told["status"] in _ERRORS else None,
    )


def _is_older(nested: Mapping[str, Any]) -> bool:
    """Whether Studio made it from a row of its old table, or from a span of an old AgentScope."""
    told = nested.get("gen_ai")
    if not isinstance(told, Mapping) or "input" in told or "output" in told:
        return False
    function = nested.get("agentscope")
    return isinstance(function, Mapping) and "function" in function


def _of_repr(nested: Mapping[str, Any]) -> dict[str, Any]:
    try:
        told = old_attributes(nested)
    except WrongRepr as error:
        raise WrongRow(str(error)) from error
    return {key: value for key, value in told.items() if value not in (None, "", _NO_RUN)}


def _events(value: Any) -> Iterator[TracedEvent]:
    events = json.loads(value) if isinstance(value, str) and value else value
    for event in events or ():
        time = first_of(event, "time", "timeUnixNano", "timestamp")
        yield TracedEvent(
            name=event.get("name") or "",
            attributes=dict(flattened(event.get("attributes") or {}, whole=_WHOLE)),
            time=seconds_since_1970(time),
        )


def _object(text: Any, column: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise WrongRow(f"a column {column} that is no JSON") from error
    if not isinstance(value, Mapping):
        raise WrongRow(f"a column {column} that is no object")
    return value


def _nanoseconds(value: Any) -> float | None:
    number = int(value or 0)
    return number / 1_000_000_000 if number > 0 else None
