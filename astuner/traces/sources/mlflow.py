"""MLflow: its server by REST, and traces that its command or its client wrote as JSON.

Source: mlflow 3.18, protos/service.proto and entities/span.py.
"""

import base64
import binascii
import itertools
import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from astuner.errors import TraceSourceError
from astuner.traces.messages import as_json
from astuner.traces.otlp.json_form import WrongForm, error_message, json_records
from astuner.traces.reading import Cursor, Found, FoundFeedback, Unread
from astuner.traces.sources.address import SourceAddress
from astuner.traces.sources.rows import RowFiles, StoredRow, WrongRow, noted_row
from astuner.traces.sources.values import first_of, number_of, seconds_since_1970
from astuner.traces.sources.web import ServerLogin, TraceServer
from astuner.traces.span import TracedEvent, TracedSpan
from astuner.traces.trace import TraceFeedback

TOKEN, USER, PASSWORD = (
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
)
_PAGE = 100
_TRACES_AT_ONCE = 20
_UNFINISHED = "IN_PROGRESS"
_BY = {"HUMAN": "human", "LLM_JUDGE": "model", "AI_JUDGE": "model", "CODE": "code"}
_CORRECTIONS = {"expected_response", "expected_answer", "expected_output", "correction"}
"""Names of expectations that hold the answer that should have been given."""
_INNER = {"mlflow.trace.session", "mlflow.trace.user"}


class MlflowSource:
    """A server. Its cursor: of each experiment, the time of the last trace that had ended before
    any that goes on, and the traces of that time.

    Feedback that is given later on a trace that was read already is found by reading anew.
    """

    name = "mlflow"

    def __init__(self, address: SourceAddress) -> None:
        self.address = address.url
        self._project = address.project or _experiment_of_page(address.text)
        token = os.environ.get(TOKEN)
        user, password = os.environ.get(USER), os.environ.get(PASSWORD)
        self._login = ServerLogin(
            advice=f"set the environment variables {USER} and {PASSWORD}, or {TOKEN}",
            headers={"Authorization": f"Bearer {token}"} if token else {},
            user_and_password=(user, password or "") if user else address.user_and_password,
        )
        self._read: dict[str, Mapping[str, Any]] = {}

    def read(self, unread: Unread, since: Cursor) -> Iterator[Found]:
        self._read = dict(since.get("experiments", {}))
        with TraceServer(self.address, self._login) as server:
            for experiment in self._experiments(server):
                yield from self._traces(server, experiment, unread)

    def cursor(self) -> Cursor:
        return {"experiments": self._read}

    def _experiments(self, server: TraceServer) -> Sequence[str]:
        pages = _pages(server, "/api/2.0/mlflow/experiments/search", {"max_results": 1_000})
        found = {
            str(one["experiment_id"]): str(one.get("name"))
            for page in pages
            for one in page.get("experiments", ())
        }
        if self._project is None:
            return list(found)
        wanted = [one for one, name in found.items() if self._project in (one, name)]
        if not wanted:
            raise TraceSourceError(
                f"{self.address}: there is no experiment {self._project!r}; there are "
                f"{', '.join(map(repr, found.values()))}: name one of them"
            )
        return wanted

    def _traces(self, server: TraceServer, experiment: str, unread: Unread) -> Iterator[Found]:
        known = self._read.get(experiment, {})
        last, ids = known.get("milliseconds", 0), set(known.get("ids", ()))
        place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
        asked = {
            "locations": [place],
            "filter": f"trace.timestamp_ms >= {last}",
            "max_results": _PAGE,
            "order_by": ["timestamp_ms ASC"],
        }
        is_behind = True
        for page in _pages(server, "/api/3.0/mlflow/traces/search", asked):
            infos = [info for info in page.get("traces", ()) if info["trace_id"] not in ids]
            ended = [info for info in infos if info.get("state") != _UNFINISHED]
            yield from self._with_spans(server, ended, unread)
            if is_behind:
                behind = itertools.takewhile(lambda one: one.get("state") != _UNFINISHED, infos)
                for info in behind:
                    self._move(experiment, info)
                is_behind = len(ended) == len(infos)

    def _move(self, experiment: str, info: Mapping[str, Any]) -> None:
        known = self._read.get(experiment, {})
        time = _milliseconds(info)
        same = known.get("ids", ()) if known.get("milliseconds") == time else ()
        self._read[experiment] = {"milliseconds": time, "ids": [*same, info["trace_id"]]}

    def _with_spans(
        self, server: TraceServer, infos: Sequence[Mapping[str, Any]], unread: Unread
    ) -> Iterator[Found]:
        for start in range(0, len(infos), _TRACES_AT_ONCE):
            some = infos[start : start + _TRACES_AT_ONCE]
            spans = _spans(server, [info["trace_id"] for info in some])
            for info in some:
                name = str(info["trace_id"])
                value = {"info": info, "data": {"spans": spans.get(name, [])}}
                row = StoredRow(value=value, place=f"{self.address}, trace {name}", name=name)
                yield from noted_row(read_mlflow_trace, row, unread)


def _experiment_of_page(url: str) -> str | None:
    """Its id, which pages of the server have in their fragment: `#/experiments/7/traces`."""
    found = re.match(r"/experiments/(\d+)", urllib.parse.urlsplit(url).fragment)
    return found[1] if found else None


def mlflow_files(address: SourceAddress) -> RowFiles:
    """What `mlflow traces search --output json` prints, or traces by `to_dict`, one a line."""
    return RowFiles("mlflow", address.shown, address.path, read_mlflow_trace)


def is_mlflow_row(row: Mapping[str, Any]) -> bool:
    data = row.get("data")
    return isinstance(row.get("info"), Mapping) and isinstance(data, Mapping) and "spans" in data


def read_mlflow_trace(row: StoredRow) -> Iterator[Found]:
    """One trace with its spans, and what was said of it."""
    info, data = row.value["info"], row.value["data"]
    if not data["spans"]:
        raise WrongRow("a trace without spans")
    shared = _of_trace(info)
    for span in data["spans"]:
        for found in _span(span, shared):
            yield _with_agent(found)
    for assessment in info.get("assessments") or ():
        yield from _feedback(assessment, _hexadecimal(str(info["trace_id"])))


def _of_trace(info: Mapping[str, Any]) -> dict[str, Any]:
    """What the trace tells of all its spans."""
    metadata = info.get("trace_metadata") or {}
    tags = info.get("tags") or {}
    own = {key: value for key, value in tags.items() if not key.startswith("mlflow.")}
    shared = {key: metadata[key] for key in _INNER if key in metadata}
    return {**shared, "mlflow.trace.tags": own} if own else shared


def _span(span: Mapping[str, Any], shared: Mapping[str, Any]) -> Iterator[TracedSpan]:
    attributes = span.get("attributes")
    if isinstance(attributes, list):
        yield from _protobuf_span(span, shared)
        return
    status = span.get("status") or {}
    events = [
        TracedEvent(
            name=str(event.get("name") or ""),
            attributes=event.get("attributes") or {},
            time=seconds_since_1970(event.get("time_unix_nano")),
        )
        for event in span.get("events") or ()
    ]
    is_error = str(status.get("code")).endswith("ERROR")
    yield TracedSpan(
        trace_id=_hexadecimal(str(span["trace_id"])),
        span_id=_hexadecimal(str(span["span_id"])),
        parent_id=_hexadecimal(str(span.get("parent_span_id") or "")) or None,
        name=str(span.get("name") or ""),
        started=seconds_since_1970(span.get("start_time_unix_nano")),
        ended=seconds_since_1970(span.get("end_time_unix_nano")),
        attributes={**shared, **(attributes or {})},
        events=events,
        error=error_message(status.get("message") or "", events) if is_error else None,
    )


def _with_agent(span: TracedSpan) -> TracedSpan:
    """Its client names an agent by the span only."""
    if str(span.attributes.get("mlflow.spanType")).strip('"') != "AGENT":
        return span
    return replace(span, attributes={"agent.name": span.name, **span.attributes})


def _protobuf_span(span: Mapping[str, Any], shared: Mapping[str, Any]) -> Iterator[TracedSpan]:
    """As the server tells it: protobuf's JSON with its names in snake case."""
    document = {"resourceSpans": [{"scopeSpans": [{"spans": [_in_camel_case(span)]}]}]}
    try:
        for found in json_records(document):
            if isinstance(found, TracedSpan):
                yield replace(found, attributes={**shared, **found.attributes})
    except WrongForm as error:
        raise WrongRow(str(error)) from error


def _in_camel_case(value: Any) -> Any:
    """Attributes' names are no keys of it."""
    if isinstance(value, list):
        return [_in_camel_case(inner) for inner in value]
    if not isinstance(value, Mapping):
        return value
    return {_camel(key): _in_camel_case(inner) for key, inner in value.items()}


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


def _hexadecimal(name: str) -> str:
    """Of an id as MLflow writes it: `tr-` and digits, digits, or base64."""
    digits = name.removeprefix("tr-")
    if digits.startswith("0x"):
        return digits[2:]
    try:
        decoded = base64.b64decode(digits, validate=True)
    except (binascii.Error, ValueError):
        return digits
    return decoded.hex() if len(decoded) in (8, 16) else digits


def _feedback(assessment: Mapping[str, Any], trace_id: str) -> Iterator[FoundFeedback]:
    """A judgement, or what was expected."""
    name = str(first_of(assessment, "assessment_name", "name") or "assessment")
    judged, expected = assessment.get("feedback"), assessment.get("expectation")
    value = (judged or {}).get("value")
    told = _expected(expected)
    source = assessment.get("source") or {}
    span_id = assessment.get("span_id")
    feedback = TraceFeedback(
        name=name,
        score=number_of(value),
        label=value if isinstance(value, str) else None if name in _CORRECTIONS else told,
        comment=assessment.get("rationale"),
        by=_BY.get(str(source.get("source_type"))),
        span_id=_hexadecimal(str(span_id)) if span_id else None,
        correction=told if name in _CORRECTIONS else None,
        told=seconds_since_1970(assessment.get("create_time")),
    )
    yield FoundFeedback(trace_id=trace_id, feedback=feedback)


def _expected(expected: Any) -> str | None:
    if not isinstance(expected, Mapping):
        return None
    told = expected.get("value", expected.get("serialized_value"))
    if isinstance(told, Mapping):
        told = told.get("value", told)
    return None if told is None else as_json(told)


def _milliseconds(info: Mapping[str, Any]) -> int:
    return round((seconds_since_1970(info.get("request_time")) or 0.0) * 1_000)


def _spans(server: TraceServer, ids: Sequence[str]) -> Mapping[str, Sequence[Any]]:
    """Of each trace; of those that are kept in files, one by one."""
    found: dict[str, Sequence[Any]] = {}
    answer = server.get_if_there("/api/3.0/mlflow/traces/batchGet", {"trace_ids": list(ids)})
    for trace in (answer or {}).get("traces", ()):
        found[str(trace["trace_info"]["trace_id"])] = trace.get("spans") or ()
    for name in ids:
        if not found.get(name):
            path = "/ajax-api/2.0/mlflow/get-trace-artifact"
            kept = server.get_if_there(path, {"request_id": name})
            found[name] = (kept or {}).get("spans") or ()
    return found


def _pages(server: TraceServer, path: str, asked: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    token = None
    while True:
        page = server.post(path, {**asked, "page_token": token} if token else asked)
        yield page
        token = page.get("next_page_token")
        if not token:
            return
