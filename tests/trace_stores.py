"""Spans as the stores of others keep them: databases, rows and tables, made in a test."""

import base64
import contextlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from astuner.traces.reader import read_traces
from astuner.traces.reading import Cursor, Unread
from astuner.traces.sources.known import open_source
from astuner.traces.span import TracedSpan
from astuner.traces.trace import Trace

_OLD_KINDS = {"chat": "LLM", "invoke_agent": "AGENT", "execute_tool": "TOOL"}
_NEW_TABLE = """
CREATE TABLE span_table (
    id varchar PRIMARY KEY NOT NULL, traceId varchar NOT NULL, spanId varchar NOT NULL,
    traceState varchar, parentSpanId varchar, flags integer, name varchar NOT NULL,
    kind integer NOT NULL, startTimeUnixNano varchar NOT NULL, endTimeUnixNano varchar NOT NULL,
    attributes json NOT NULL, droppedAttributesCount integer, events json,
    droppedEventsCount integer, links json, droppedLinksCount integer, status json NOT NULL,
    resource json NOT NULL, scope json NOT NULL, statusCode integer, serviceName varchar,
    operationName varchar, instrumentationName varchar, instrumentationVersion varchar,
    model varchar, inputTokens integer, outputTokens integer, totalTokens integer,
    conversationId varchar, latencyNs float NOT NULL
)
"""
_OLD_TABLE = """
CREATE TABLE span_table (
    id varchar PRIMARY KEY NOT NULL, traceId varchar NOT NULL, parentSpanId varchar,
    run_id varchar, name varchar NOT NULL, spanKind varchar, attributes json NOT NULL,
    startTime varchar NOT NULL, endTime varchar NOT NULL, latencyMs float, status varchar,
    statusMessage varchar, events json
)
"""


def read_all(
    address: str | Path, unread: Unread | None = None, since: Cursor | None = None, **options: Any
) -> tuple[list[Trace], Cursor]:
    """The traces and the cursor behind them; without `unread`, nothing may be unreadable."""
    told = Unread() if unread is None else unread
    source = open_source(str(address), **options)
    traces = list(read_traces(source, told, since))
    assert unread is not None or not told.counts, told
    return traces, source.cursor()


def new_studio(path: Path, spans: Iterable[TracedSpan]) -> Path:
    """As Studio 1.0.9 keeps them."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(_NEW_TABLE.replace("TABLE", "TABLE IF NOT EXISTS"))
        for span in spans:
            insert(database, _new_row(span))
    return path


def old_studio(path: Path, spans: Iterable[TracedSpan]) -> Path:
    """As Studio before 1.0.9 kept what AgentScope before 1.0.9 told."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(_OLD_TABLE)
        for span in spans:
            insert(database, _old_row(span))
    return path


def migrated_studio(path: Path, spans: Iterable[TracedSpan]) -> Path:
    """As Studio 1.0.9 keeps what it found in an old table."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(_NEW_TABLE)
        for span in spans:
            insert(database, {**_new_row(span), "attributes": json.dumps(_migrated(span))})
    return path


def insert(database: sqlite3.Connection, row: Mapping[str, Any]) -> None:
    marks = ", ".join("?" * len(row))
    database.execute(
        f"INSERT INTO span_table ({', '.join(row)}) VALUES ({marks})", tuple(row.values())
    )


def _new_row(span: TracedSpan) -> dict[str, Any]:
    status = {"code": 1 if span.error is None else 2, "message": span.error or ""}
    return {
        "id": span.span_id,
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "parentSpanId": span.parent_id or "",
        "name": span.name,
        "kind": 1,
        "startTimeUnixNano": _nanoseconds(span.started),
        "endTimeUnixNano": _nanoseconds(span.ended),
        "attributes": json.dumps(_nested(span.attributes)),
        "events": "[]",
        "status": json.dumps(status),
        "resource": json.dumps({"attributes": _nested(span.resource)}),
        "scope": json.dumps({"name": span.scope, "version": span.scope_version, "attributes": {}}),
        "latencyNs": 1.0,
    }


def _old_row(span: TracedSpan) -> dict[str, Any]:
    return {
        "id": span.span_id,
        "traceId": span.trace_id,
        "parentSpanId": span.parent_id,
        "run_id": "run",
        "name": _nested(span.attributes)["agentscope"]["function"]["name"],
        "spanKind": "INTERNAL",
        "attributes": json.dumps(_of_old_agentscope(span)),
        "startTime": datetime.fromtimestamp(span.started or 0, UTC).isoformat(),
        "endTime": datetime.fromtimestamp(span.ended or 0, UTC).isoformat(),
        "latencyMs": 1.0,
        "status": "OK" if span.error is None else "ERROR",
        "statusMessage": span.error or "",
        "events": "[]",
    }


def _of_old_agentscope(span: TracedSpan) -> dict[str, Any]:
    told = _nested(span.attributes)
    names = told["gen_ai"]
    about = {
        "name": names.get("agent", names.get("tool", {})).get("name"),
        "model_name": names.get("request", {}).get("model"),
    }
    function = told["agentscope"]["function"]
    return {
        "span": {"kind": _OLD_KINDS.get(names["operation"]["name"], "COMMON")},
        "project": {"run_id": names["conversation"]["id"]},
        "input": function.get("input"),
        "output": function.get("output"),
        "metadata": about,
    }


def _migrated(span: TracedSpan) -> dict[str, Any]:
    told = _nested(span.attributes)
    names = told["gen_ai"]
    return {
        "gen_ai": {
            "conversation": names["conversation"],
            "request": names.get("request", {}),
            "operation": names["operation"],
            "agent": {"name": names.get("agent", {}).get("name", "")},
            "tool": {"name": names.get("tool", {}).get("name", "")},
        },
        "agentscope": {"function": told["agentscope"]["function"]},
    }


def _nested(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """As Studio makes them: dots become objects, JSON in texts what it says."""
    root: dict[str, Any] = {}
    for key, value in attributes.items():
        *path, last = key.split(".")
        place = root
        for name in path:
            place = place.setdefault(name, {})
        with contextlib.suppress(ValueError):
            value = json.loads(value) if isinstance(value, str) else value
        place[last] = value
    return root


def phoenix_row(span: TracedSpan, number: int) -> dict[str, Any]:
    """As the server of Phoenix 20 tells it."""
    attributes = dict(span.attributes)
    kind = attributes.pop("openinference.span.kind", "UNKNOWN")
    return {
        "id": base64.b64encode(f"Span:{number}".encode()).decode(),
        "name": span.name,
        "context": {"trace_id": span.trace_id, "span_id": span.span_id},
        "span_kind": kind,
        "parent_id": span.parent_id,
        "start_time": datetime.fromtimestamp(span.started or 0, UTC).isoformat(),
        "end_time": datetime.fromtimestamp(span.ended or 0, UTC).isoformat(),
        "status_code": "OK" if span.error is None else "ERROR",
        "status_message": span.error or "",
        "attributes": dict(_apart("", attributes)),
        "events": [],
    }


def _apart(prefix: str, value: Any) -> Iterable[tuple[str, Any]]:
    """What is nested, piece by piece."""
    if isinstance(value, Mapping):
        items = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        items = [(str(place), inner) for place, inner in enumerate(value)]
    else:
        yield prefix, value
        return
    for key, inner in items:
        yield from _apart(f"{prefix}.{key}" if prefix else key, inner)


def _nanoseconds(seconds: float | None) -> str:
    return str(round((seconds or 0) * 1e6) * 1000)
