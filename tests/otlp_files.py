"""Spans as recorders tell of them, files of them, and what is read back."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from astuner.traces.otlp.files import read_otlp
from astuner.traces.otlp_json import attributes, nanoseconds
from astuner.traces.reader import read_traces
from astuner.traces.reading import Cursor, Found, Unread
from astuner.traces.span import TracedEvent, TracedSpan
from astuner.traces.trace import Trace

TRACE = "0af7651916cd43dd8448eb211c80319c"
START = 1_700_000_000.0


class GivenSource:
    """Yields what it is given."""

    name, address = "otlp", "given"

    def __init__(self, found: Iterable[Found]) -> None:
        self._found = found

    def read(self, unread: Unread, since: Cursor) -> Iterator[Found]:
        return iter(self._found)

    def cursor(self) -> Cursor:
        return {}


class OtlpPaths(GivenSource):
    """Yields what stands in files."""

    def __init__(self, *paths: Path) -> None:
        super().__init__(())
        self._paths = paths

    def read(self, unread: Unread, since: Cursor) -> Iterator[Found]:
        for path in self._paths:
            yield from read_otlp(path, unread)


def traces_of(*found: Found) -> list[Trace]:
    """Nothing of it may be unreadable."""
    unread = Unread()
    traces = list(read_traces(GivenSource(found), unread))
    assert not unread.counts, unread
    return traces


def traced(span_id: str = "00f067aa0ba902b7", **changed: Any) -> TracedSpan:
    given = {
        "trace_id": TRACE,
        "span_id": span_id,
        "parent_id": None,
        "name": "a span",
        "started": START,
        "ended": START + 0.5,
        "attributes": {},
    }
    return TracedSpan(**{**given, **changed})


def chat(
    span_id: str, asked: list[Any], reply: Any, *, at: float = 0.0, session: str = "s", **more: Any
) -> TracedSpan:
    """A model call in the newest conventions; of messages, (role, text)."""
    told = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
        "gen_ai.conversation.id": session,
        "gen_ai.input.messages": [message(one) for one in asked],
        "gen_ai.output.messages": [message(reply)],
    }
    if not session:
        del told["gen_ai.conversation.id"]
    told |= more.pop("attributes", {})
    return traced(span_id, attributes=told, started=START + at, ended=START + at + 0.5, **more)


def message(told: Any) -> Any:
    if not isinstance(told, tuple):
        return told
    role, text = told
    return {"role": role, "parts": [{"type": "text", "content": text}]}


def opinion(span_id: str | None, *, trace_id: str = TRACE, score: float = 1.0) -> TracedEvent:
    return TracedEvent(
        name="gen_ai.evaluation.result",
        attributes={"gen_ai.evaluation.name": "liked", "gen_ai.evaluation.score.value": score},
        trace_id=trace_id,
        span_id=span_id or "",
        time=START + 9,
    )


def json_line(span: TracedSpan) -> bytes:
    """As a file exporter writes it."""
    told = {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "parentSpanId": span.parent_id or "",
        "name": span.name,
        "startTimeUnixNano": nanoseconds(span.started or 0),
        "endTimeUnixNano": nanoseconds(span.ended or 0),
        "attributes": attributes(span.attributes),
        "status": {} if span.error is None else {"code": 2, "message": span.error},
    }
    scoped = {"scope": {"name": "tests", "version": "1"}, "spans": [told]}
    resource = {"attributes": attributes({"service.name": "shop"})}
    line = {"resourceSpans": [{"resource": resource, "scopeSpans": [scoped]}]}
    return json.dumps(line).encode() + b"\n"


def texts(trace: Trace) -> list[tuple[str, str]]:
    return [(step.role, step.text) for step in trace.steps]
