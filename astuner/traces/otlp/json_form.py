"""Spans and log records out of the JSON form of OTLP; its writer's side is traces/otlp_json.py.

Read is what exporters, collectors and `json_format` of protobuf write: ids in hexadecimal digits or
base64, 64-bit integers as texts or numbers.
"""

import base64
import binascii
import operator
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from astuner.traces.last_histories import LastHistories, is_long
from astuner.traces.span import TracedEvent, TracedSpan

_HEX = set(string.hexdigits)
_ID_BYTES = (8, 16)
_ERROR_CODES = (2, "STATUS_CODE_ERROR", "2")
EXCEPTION = "exception"


class WrongForm(ValueError):
    """What was read is no OTLP, or torn; the message says how."""


def json_records(document: Any) -> Iterator[TracedSpan | TracedEvent]:
    """Of one TracesData, LogsData or request of an export.

    Raises WrongForm where it is none of these, before the first record or in between.
    """
    if not isinstance(document, Mapping):
        raise WrongForm(f"a JSON {type(document).__name__} in place of an object of OTLP")
    if "resourceSpans" not in document and "resourceLogs" not in document:
        raise WrongForm(f"neither resourceSpans nor resourceLogs, but {_names(document)}")
    try:
        yield from _spans(document)
        yield from _logs(document)
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        raise WrongForm(f"fields that OTLP has in another form ({error})") from error


def error_message(status: str, events: Sequence[TracedEvent]) -> str:
    """Of a span whose status says error: what the status tells, else its exception."""
    if status:
        return status
    for event in events:
        if event.name == EXCEPTION:
            told = (event.attributes.get(f"exception.{part}") for part in ("type", "message"))
            return ": ".join(str(one) for one in told if one)
    return ""


def _names(document: Mapping[str, Any]) -> str:
    shown = ", ".join(sorted(map(str, document))[:4])
    return shown or "nothing"


def _spans(document: Mapping[str, Any]) -> Iterator[TracedSpan]:
    for group in document.get("resourceSpans") or ():
        resource = plain_attributes((group.get("resource") or {}).get("attributes"))
        scoped = group.get("scopeSpans") or group.get("instrumentationLibrarySpans")
        for inner in scoped or ():
            scope = inner.get("scope") or inner.get("instrumentationLibrary") or {}
            for span in inner.get("spans") or ():
                yield _span(span, resource, scope)


def _logs(document: Mapping[str, Any]) -> Iterator[TracedEvent]:
    for group in document.get("resourceLogs") or ():
        for scoped in group.get("scopeLogs") or ():
            for record in scoped.get("logRecords") or ():
                yield _log(record)


def _span(
    span: Mapping[str, Any], resource: Mapping[str, Any], scope: Mapping[str, Any]
) -> TracedSpan:
    status = span.get("status") or {}
    events = [_event(event) for event in span.get("events") or ()]
    is_error = status.get("code") in _ERROR_CODES
    return TracedSpan(
        trace_id=_id(span.get("traceId")),
        span_id=_id(span.get("spanId")),
        parent_id=_id(span.get("parentSpanId")) or None,
        name=span.get("name") or "",
        started=_seconds(span.get("startTimeUnixNano")),
        ended=_seconds(span.get("endTimeUnixNano")),
        attributes=plain_attributes(span.get("attributes")),
        events=events,
        resource=resource,
        scope=scope.get("name") or "",
        scope_version=scope.get("version") or "",
        error=error_message(status.get("message") or "", events) if is_error else None,
    )


def _event(event: Mapping[str, Any]) -> TracedEvent:
    return TracedEvent(
        name=event.get("name") or "",
        attributes=plain_attributes(event.get("attributes")),
        time=_seconds(event.get("timeUnixNano")),
    )


def _log(record: Mapping[str, Any]) -> TracedEvent:
    told = plain_attributes(record.get("attributes"))
    time = _seconds(record.get("timeUnixNano"))
    return TracedEvent(
        name=record.get("eventName") or str(told.get("event.name") or ""),
        attributes=told,
        body=plain_value(record.get("body")),
        time=_seconds(record.get("observedTimeUnixNano")) if time is None else time,
        trace_id=_id(record.get("traceId")),
        span_id=_id(record.get("spanId")),
    )


def plain_attributes(pairs: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """KeyValues as a mapping of JSON values."""
    return {str(pair["key"]): plain_value(pair.get("value")) for pair in pairs or ()}


def plain_value(value: Any) -> Any:
    """An AnyValue as a JSON value; bytes stay base64."""
    if not value:
        return None
    [(kind, inner)] = value.items()
    match kind:
        case "stringValue":  # of most
            return inner
        case "intValue":
            return int(inner)
        case "doubleValue":
            return float(inner)
        case "arrayValue":
            return _plain_list(inner.get("values") or ())
        case "kvlistValue":
            return plain_attributes(inner.get("values"))
    return inner


_LAST_LISTS: LastHistories[list[Any]] = LastHistories(is_same=operator.eq)
"""Equal AnyValues say the same, since each kind has a key of its own."""


def _plain_list(values: Sequence[Any]) -> list[Any]:
    """A conversation comes again with each call: its elements are the same objects then."""
    known, num_known = _LAST_LISTS.nearest(values) if is_long(values) else (None, 0)
    plain = known[:num_known] if known else []
    plain += map(plain_value, values[num_known:])
    if is_long(values):
        _LAST_LISTS.keep(values, plain, instead_of=known)
    return plain


def _id(value: Any) -> str:
    """In small hexadecimal digits; empty for none, and for one of zeros only, which means none."""
    text = str(value or "")
    if not set(text) <= _HEX or len(text) % 2:
        text = _of_base64(text)
    text = text.lower()
    return text if text.strip("0") else ""


def _of_base64(text: str) -> str:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return text
    return decoded.hex() if len(decoded) in _ID_BYTES else text


def _seconds(nanoseconds: Any) -> float | None:
    """None where there is no time, which some write as 0."""
    number = int(nanoseconds or 0)  # a division of integers rounds once
    return number / 1_000_000_000 if number > 0 else None
