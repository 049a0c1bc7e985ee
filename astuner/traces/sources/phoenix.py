"""Phoenix: its server by REST, and tables of spans that its client saved.

Source: arize-phoenix 20.26, server/api/routers/v1; spans come with the newest first, by their
number in its database, which older servers do too.
"""

import base64
import binascii
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from astuner.traces.otlp.json_form import error_message
from astuner.traces.reading import Cursor, Found, FoundFeedback, Unread
from astuner.traces.sources.address import SourceAddress
from astuner.traces.sources.rows import RowFiles, StoredRow, WrongRow, noted_row
from astuner.traces.sources.values import first_of, flattened, number_of, seconds_since_1970
from astuner.traces.sources.web import ServerLogin, TraceServer
from astuner.traces.span import TracedEvent, TracedSpan
from astuner.traces.trace import TraceFeedback
from astuner.traces.vocabularies.nested import nested

KEY = "PHOENIX_API_KEY"
_PAGE = 100
_IDS_AT_ONCE = 100
"""Of spans in one address, which servers bound at some kilobytes."""
_MAX_ANNOTATIONS = 1_000
_BY = {"HUMAN": "human", "LLM": "model", "CODE": "code"}
_KIND = "openinference.span.kind"
_NO_KIND = "UNKNOWN"
_TAKEN_APART = (
    "metadata",
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.definitions",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
)
"""Attributes that were objects or lists, which the server tells piece by piece."""
_TRANSLATED = ("llm.", "openinference.", "input.", "output.")
"""What Phoenix adds to spans in OpenTelemetry's names: a part of what they say."""


class PhoenixSource:
    """A server. Its cursor: of each project, the number of the newest span.

    Feedback that is given later on a span that was read already is found by reading anew.
    """

    name = "phoenix"

    def __init__(self, address: SourceAddress) -> None:
        url, _, page = address.url.partition("/projects/")
        self.address = url
        self._project = address.project or page.partition("/")[0] or None
        key = os.environ.get(KEY)
        self._login = ServerLogin(
            advice=f"set the environment variable {KEY} to an API key of this Phoenix",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            user_and_password=address.user_and_password,
        )
        self._newest: dict[str, int] = {}

    def read(self, unread: Unread, since: Cursor) -> Iterator[Found]:
        self._newest = dict(since.get("newest", {}))
        with TraceServer(self.address, self._login) as server:
            for project in self._projects(server):
                yield from self._spans(server, project, unread)

    def cursor(self) -> Cursor:
        return {"newest": self._newest}

    def _projects(self, server: TraceServer) -> Sequence[str]:
        if self._project:
            return [self._project]
        pages = _pages(server, "/v1/projects", {"limit": _PAGE})
        return [str(project["id"]) for page in pages for project in page]

    def _spans(self, server: TraceServer, project: str, unread: Unread) -> Iterator[Found]:
        path = f"/v1/projects/{project}"
        known, newest = self._newest.get(project, 0), 0
        for page in _pages(server, f"{path}/spans", {"limit": _PAGE}):
            new = [span for span in page if _number(span) == 0 or _number(span) > known]
            newest = max([newest, *map(_number, new)])
            for span in new:
                row = StoredRow(value=span, place=f"{self.address}, span {span.get('id')}", name="")
                yield from noted_row(read_phoenix_span, row, unread)
            ids = [span["context"] for span in new if isinstance(span.get("context"), Mapping)]
            yield from _of_spans(server, path, ids, unread)
            yield from _of_traces(server, path, ids, unread)
            if len(new) < len(page):
                break
        self._newest[project] = max(known, newest)


def phoenix_files(address: SourceAddress) -> RowFiles:
    """Tables in Parquet of the client's dataframe, or JSON lines of spans as the server tells."""
    return RowFiles("phoenix", address.shown, address.path, read_phoenix_span)


def is_phoenix_row(row: Mapping[str, Any]) -> bool:
    return "context.span_id" in row or (
        isinstance(row.get("context"), Mapping) and "span_id" in row["context"]
    )


def read_phoenix_span(row: StoredRow) -> Iterator[Found]:
    """A span as the server tells it, or a row of the client's dataframe."""
    told = row.value
    context = told.get("context") or {}
    span_id = context.get("span_id") or told.get("context.span_id")
    trace_id = context.get("trace_id") or told.get("context.trace_id")
    if not span_id or not trace_id:
        raise WrongRow("a span without ids")
    events = [_event(event) for event in _list(told.get("events"))]
    is_error = told.get("status_code") == "ERROR"
    yield TracedSpan(
        trace_id=str(trace_id),
        span_id=str(span_id),
        parent_id=first_of(told, "parent_id"),
        name=str(told.get("name") or ""),
        started=seconds_since_1970(told.get("start_time")),
        ended=seconds_since_1970(told.get("end_time")),
        attributes=_attributes(told),
        events=events,
        error=error_message(told.get("status_message") or "", events) if is_error else None,
    )


def _attributes(told: Mapping[str, Any]) -> dict[str, Any]:
    """Flat; what Phoenix took apart together again, and what it translated as it was told."""
    given = told.get("attributes")
    if not isinstance(given, Mapping):
        prefix = "attributes."
        given = {key[len(prefix) :]: value for key, value in told.items() if key.startswith(prefix)}
    flat = dict(flattened(given, whole=frozenset(("metadata",))))
    for name in _TAKEN_APART:
        if together := nested(flat, name):
            flat = {key: one for key, one in flat.items() if not key.startswith(f"{name}.")}
            flat[name] = together
    if "gen_ai.operation.name" in flat:
        return {key: one for key, one in flat.items() if not key.startswith(_TRANSLATED)}
    kind = first_of(told, "span_kind")
    return {**flat, _KIND: kind} if kind and kind != _NO_KIND else flat


def _event(event: Mapping[str, Any]) -> TracedEvent:
    return TracedEvent(
        name=str(event.get("name") or ""),
        attributes=dict(flattened(event.get("attributes") or {})),
        time=seconds_since_1970(event.get("timestamp")),
    )


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _of_spans(
    server: TraceServer, path: str, ids: Sequence[Mapping[str, Any]], unread: Unread
) -> Iterator[FoundFeedback]:
    """What people and judges said of these spans."""
    traces = {str(one.get("span_id")): str(one.get("trace_id")) for one in ids}
    for some in _some(list(traces)):
        asked = {"span_ids": some, "limit": _MAX_ANNOTATIONS}
        for page in _pages(server, f"{path}/span_annotations", asked, may_miss=True):
            for annotation in page:
                span_id = str(annotation.get("span_id"))
                yield from _feedback(annotation, traces.get(span_id, ""), span_id, unread)


def _of_traces(
    server: TraceServer, path: str, ids: Sequence[Mapping[str, Any]], unread: Unread
) -> Iterator[FoundFeedback]:
    """The same of whole traces, which older servers have no route for."""
    for some in _some(list(dict.fromkeys(str(one.get("trace_id")) for one in ids))):
        asked = {"trace_ids": some, "limit": _MAX_ANNOTATIONS}
        for page in _pages(server, f"{path}/trace_annotations", asked, may_miss=True):
            for annotation in page:
                yield from _feedback(annotation, str(annotation.get("trace_id")), None, unread)


def _feedback(
    annotation: Mapping[str, Any], trace_id: str, span_id: str | None, unread: Unread
) -> Iterator[FoundFeedback]:
    result = annotation.get("result") or {}
    if not isinstance(result, Mapping):
        unread.add("an annotation of a form that is not known", f"trace {trace_id}")
        return
    feedback = TraceFeedback(
        name=str(annotation.get("name") or "annotation"),
        score=number_of(result.get("score")),
        label=result.get("label"),
        comment=result.get("explanation"),
        by=_BY.get(str(annotation.get("annotator_kind"))),
        span_id=span_id,
        told=seconds_since_1970(annotation.get("created_at")),
    )
    yield FoundFeedback(trace_id=trace_id, feedback=feedback)


def _pages(
    server: TraceServer, path: str, params: Mapping[str, Any], *, may_miss: bool = False
) -> Iterator[Sequence[Mapping[str, Any]]]:
    """None at all where the server has no such route, or nothing of it, and that may be."""
    cursor = None
    ask = server.get_if_there if may_miss else server.get
    while True:
        answer = ask(path, {**params, "cursor": cursor})
        if answer is None:
            return
        yield answer["data"]
        cursor = answer.get("next_cursor")
        if not cursor:
            return


def _some(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _IDS_AT_ONCE):
        yield ids[start : start + _IDS_AT_ONCE]


def _number(span: Mapping[str, Any]) -> int:
    """In the database, which the id says as base64 of `Span:12`; 0 where it does not."""
    try:
        text = base64.b64decode(str(span.get("id") or ""), validate=True).decode()
        return int(text.rpartition(":")[2])
    except (binascii.Error, ValueError):
        return 0
