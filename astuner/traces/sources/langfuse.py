"""Langfuse: its server by REST, its exports to a bucket, and the traces that its pages save.

Source: the OpenAPI document of Langfuse 5.0 as its Python client 5.0 has it, and the pages about
exports. Servers before 4 have no observations of version 2; their traces are asked for one by one.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from astuner.clock import iso_utc
from astuner.traces.messages import as_json, parsed
from astuner.traces.reading import Cursor, Found, FoundFeedback, Unread
from astuner.traces.sources.address import SourceAddress
from astuner.traces.sources.rows import RowFiles, StoredRow, WrongRow, noted_row
from astuner.traces.sources.values import first_of, number_of, seconds_since_1970
from astuner.traces.sources.web import ServerLogin, TraceServer
from astuner.traces.span import TracedSpan
from astuner.traces.trace import TraceFeedback

PUBLIC_KEY, SECRET_KEY = "LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY"
_PAGE = 100
_FIELDS = "core,basic,io,metadata,model,usage,trace_context"
_SCORE_FIELDS = "details,subject,annotation"
_OVERLAP_SECONDS = 3_600.0
"""What is told later than it began by less than this is not missed; what comes twice by it is told
apart by its content."""
_BY = {"ANNOTATION": "human", "EVAL": "model"}
_CORRECTION = "CORRECTION"
_CATEGORIES = ("CATEGORICAL", "TEXT", "BOOLEAN")


class LangfuseSource:
    """A server. Its cursor: when the last observation began, and the last score was given."""

    name = "langfuse"

    def __init__(self, address: SourceAddress) -> None:
        self.address = address.url
        public, secret = os.environ.get(PUBLIC_KEY), os.environ.get(SECRET_KEY)
        self._login = ServerLogin(
            advice=f"set the environment variables {PUBLIC_KEY} and {SECRET_KEY} to the keys of "
            "the project, from its settings",
            user_and_password=(public, secret or "") if public else address.user_and_password,
        )
        self._last: dict[str, float] = {}

    def read(self, unread: Unread, since: Cursor) -> Iterator[Found]:
        self._last = dict(since)
        with TraceServer(self.address, self._login) as server:
            asked = {"fields": _FIELDS, "limit": _PAGE, "fromStartTime": self._from("observation")}
            pages = _cursor_pages(server, "/api/public/v2/observations", asked)
            if (first := next(pages, None)) is None:
                yield from self._traces(server, unread)
                return
            yield from self._rows(first, "observation", unread)
            for page in pages:
                yield from self._rows(page, "observation", unread)
            for page in self._scores(server):
                yield from self._rows(page, "score", unread)

    def cursor(self) -> Cursor:
        return self._last

    def _from(self, kind: str) -> str | None:
        """Of the first read: from the beginning."""
        last = self._last.get(kind)
        return None if last is None else iso_utc(last - _OVERLAP_SECONDS)

    def _scores(self, server: TraceServer) -> Iterator[Sequence[Mapping[str, Any]]]:
        """By cursor, and of servers that have them by number of page, so."""
        asked = {"limit": _PAGE, "fromTimestamp": self._from("score")}
        by_cursor = {**asked, "fields": _SCORE_FIELDS}
        pages = _cursor_pages(server, "/api/public/v3/scores", by_cursor)
        if (first := next(pages, None)) is None:
            yield from _numbered_pages(server, "/api/public/v2/scores", asked)
            return
        yield first
        yield from pages

    def _traces(self, server: TraceServer, unread: Unread) -> Iterator[Found]:
        """Of servers that tell observations with their trace only."""
        asked = {"limit": _PAGE, "fromTimestamp": self._from("trace")}
        asked["orderBy"] = "timestamp.asc"
        for page in _numbered_pages(server, "/api/public/traces", asked):
            whole = [server.get(f"/api/public/traces/{trace['id']}") for trace in page]
            yield from self._rows(whole, "trace", unread)

    def _rows(
        self, rows: Sequence[Mapping[str, Any]], kind: str, unread: Unread
    ) -> Iterator[Found]:
        for value in rows:
            place = f"{self.address}, {kind} {value.get('id')}"
            yield from noted_row(
                read_langfuse_row, StoredRow(value=value, place=place, name=""), unread
            )
            time = seconds_since_1970(first_of(value, "startTime", "timestamp"))
            if time is not None:
                self._last[kind] = max(time, self._last.get(kind, 0.0))


def langfuse_files(address: SourceAddress) -> RowFiles:
    """Exports to a bucket: folders of observations and scores; or what a page of a trace saves."""
    return RowFiles("langfuse", address.shown, address.path, read_langfuse_row)


def is_langfuse_row(row: Mapping[str, Any]) -> bool:
    return _is_trace(row) or _is_observation(row) or _is_score(row)


def read_langfuse_row(row: StoredRow) -> Iterator[Found]:
    """An observation, a score, or a trace with all of its own, in camel or in snake case."""
    if _is_trace(row.value):
        yield from _whole_trace(row.value)
    elif _is_score(row.value):
        yield from _feedback(row.value)
    elif _is_observation(row.value):
        yield _observation(row.value, {})
    elif not _is_trace_alone(row.value):
        raise WrongRow("an object that is no observation, score or trace of Langfuse")


def _is_trace(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("observations"), list)


def _is_trace_alone(row: Mapping[str, Any]) -> bool:
    """As exports have it beside observations, which tell the same."""
    return "id" in row and "timestamp" in row and "name" in row


def _is_observation(row: Mapping[str, Any]) -> bool:
    return "type" in row and not {"startTime", "start_time"}.isdisjoint(row) and "id" in row


def _is_score(row: Mapping[str, Any]) -> bool:
    return not {"dataType", "data_type"}.isdisjoint(row) and "value" in row and "name" in row


def _whole_trace(value: Mapping[str, Any]) -> Iterator[Found]:
    trace = value.get("trace") if isinstance(value.get("trace"), Mapping) else value
    assert isinstance(trace, Mapping)
    for observation in value["observations"]:
        yield _observation(observation, trace)
    for score in first_of(value, "scores") or first_of(trace, "scores") or ():
        if isinstance(score, Mapping):
            yield from _feedback({"traceId": trace.get("id"), **score})


def _observation(row: Mapping[str, Any], trace: Mapping[str, Any]) -> TracedSpan:
    """Under the names that Langfuse's own client writes as OTLP."""
    metadata = parsed(row.get("metadata")) or {}
    told = {
        "langfuse.observation.type": str(row["type"]).lower(),
        "langfuse.observation.input": row.get("input"),
        "langfuse.observation.output": row.get("output"),
        "langfuse.observation.model.name": first_of(
            row, "model", "providedModelName", "provided_model_name"
        ),
        "langfuse.observation.usage_details": parsed(
            first_of(row, "usageDetails", "usage_details", "usage")
        ),
        "agent.name": row.get("name") if str(row["type"]).upper() == "AGENT" else None,
        "langfuse.trace.name": first_of(row, "traceName", "trace_name") or trace.get("name"),
        "langfuse.trace.tags": first_of(row, "tags") or trace.get("tags"),
        "langfuse.trace.metadata": parsed(trace.get("metadata")),
        "session.id": _shared(row, trace, "sessionId", "session_id"),
        "user.id": _shared(row, trace, "userId", "user_id"),
    }
    attributes = dict(metadata.get("attributes") or {}) if isinstance(metadata, Mapping) else {}
    return TracedSpan(
        trace_id=str(first_of(row, "traceId", "trace_id") or trace["id"]),
        span_id=str(row["id"]),
        parent_id=first_of(row, "parentObservationId", "parent_observation_id"),
        name=str(row.get("name") or ""),
        started=seconds_since_1970(first_of(row, "startTime", "start_time")),
        ended=seconds_since_1970(first_of(row, "endTime", "end_time")),
        attributes={
            **{key: one for key, one in attributes.items() if key in _KEPT_ATTRIBUTES},
            **{key: one for key, one in told.items() if one not in (None, "", [], {})},
        },
        error=_error(row),
    )


_KEPT_ATTRIBUTES = ("gen_ai.agent.name", "gen_ai.tool.call.id", "gen_ai.tool.name")
"""Of spans that came to Langfuse as OTLP, which has no place of its own for them."""


def _error(row: Mapping[str, Any]) -> str | None:
    if row.get("level") != "ERROR":
        return None
    return str(first_of(row, "statusMessage", "status_message") or "")


def _shared(row: Mapping[str, Any], trace: Mapping[str, Any], *keys: str) -> Any:
    return first_of(row, *keys) or first_of(trace, *keys)


def _feedback(row: Mapping[str, Any]) -> Iterator[FoundFeedback]:
    subject = row.get("subject") or {}
    span_id = first_of(row, "observationId", "observation_id")
    trace_id = first_of(row, "traceId", "trace_id") or subject.get("traceId")
    if subject.get("kind") == "observation":
        span_id = subject.get("id")
    elif subject.get("kind") == "trace":
        trace_id = subject.get("id")
    if not trace_id and not span_id:
        raise WrongRow("a score of a session or an experiment, not of a trace")
    kind = str(first_of(row, "dataType", "data_type"))
    text = first_of(row, "stringValue", "string_value")
    text = row["value"] if text is None and isinstance(row["value"], str) else text
    is_correction = kind == _CORRECTION
    feedback = TraceFeedback(
        name=str(row["name"]),
        score=None if is_correction or kind == "CATEGORICAL" else number_of(row["value"]),
        label=as_json(text) if text is not None and kind in _CATEGORIES else None,
        comment=row.get("comment"),
        by=_BY.get(str(row.get("source"))),
        span_id=span_id,
        correction=as_json(text) if is_correction and text else None,
        told=seconds_since_1970(first_of(row, "timestamp", "createdAt", "created_at")),
    )
    yield FoundFeedback(trace_id=str(trace_id or ""), feedback=feedback)


def _cursor_pages(
    server: TraceServer, path: str, asked: Mapping[str, Any]
) -> Iterator[Sequence[Mapping[str, Any]]]:
    """None at all where the server has no such route."""
    cursor = None
    while True:
        answer = server.get_if_there(path, {**asked, "cursor": cursor})
        if answer is None:
            return
        yield answer["data"]
        cursor = (answer.get("meta") or {}).get("cursor")
        if not cursor:
            return


def _numbered_pages(
    server: TraceServer, path: str, asked: Mapping[str, Any]
) -> Iterator[Sequence[Mapping[str, Any]]]:
    number = 1
    while True:
        answer = server.get(path, {**asked, "page": number})
        yield answer["data"]
        if number >= (answer.get("meta") or {}).get("totalPages", 0):
            return
        number += 1
