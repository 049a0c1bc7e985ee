"""Spans and log records out of the protobuf form of OTLP.

A message is read one resource at a time, so that what is torn costs what stands behind the tear.
Source: opentelemetry-proto, trace/v1/trace.proto and logs/v1/logs.proto.
"""

import io
import math
from collections.abc import Iterator
from typing import Any, BinaryIO

from astuner.errors import ConfigError
from astuner.traces.otlp.json_form import WrongForm, error_message
from astuner.traces.span import TracedEvent, TracedSpan

_FIRST_FIELD = 0x0A
"""Tag of field 1 with a length: `resource_spans` and `resource_logs` both."""
_MAX_RESOURCE_BYTES = 512_000_000
"""More than any collector takes in one request."""
_MAX_VARINT_BYTES = 10
_ERROR = 2
_NO_TRACE_ID, _NO_SPAN_ID = bytes(16), bytes(8)


def protobuf_records(message: bytes) -> Iterator[TracedSpan | TracedEvent]:
    """Of one TracesData, LogsData or request of an export; raises as `message_records`."""
    return message_records(io.BytesIO(message))


def message_records(file: BinaryIO) -> Iterator[TracedSpan | TracedEvent]:
    """Of a stream that holds one message, or several behind each other.

    Raises WrongForm for what is torn or something else, behind the records before it; ConfigError
    where the package is missing.
    """
    forms = protobuf_forms()
    while (resource := _next_resource(file)) is not None:
        yield from _resource_records(resource, forms)


def protobuf_forms() -> Any:
    """The classes of the messages. Raises ConfigError where no package has them."""
    try:
        from google.protobuf.message import DecodeError
        from opentelemetry.proto.logs.v1.logs_pb2 import ResourceLogs
        from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans
    except ImportError as error:
        raise ConfigError(
            f"traces in protobuf are read by a package that is not installed ({error}): "
            "pip install 'astuner[traces]', or write them as JSON lines"
        ) from error
    return ResourceSpans, ResourceLogs, DecodeError


def _next_resource(file: BinaryIO) -> bytes | None:
    """The next value of field 1; None at the end."""
    tag = file.read(1)
    if not tag:
        return None
    if tag[0] != _FIRST_FIELD:
        raise WrongForm("no message of OTLP in protobuf")
    length = _varint(file)
    if length > _MAX_RESOURCE_BYTES:
        raise WrongForm("a protobuf message of a length that none has")
    data = file.read(length)
    if len(data) < length:
        raise WrongForm("a protobuf message that is cut off")
    return data


def _varint(file: BinaryIO) -> int:
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        byte = file.read(1)
        if not byte:
            raise WrongForm("a protobuf message that is cut off")
        value |= (byte[0] & 0x7F) << (7 * index)
        if byte[0] < 0x80:
            return value
    raise WrongForm("no message of OTLP in protobuf")


def _resource_records(data: bytes, forms: Any) -> Iterator[TracedSpan | TracedEvent]:
    """A file does not say of which kind it is: a span begins with its trace id, a log record with a
    time, and each parses as the other with that field unknown or as an error."""
    ResourceSpans, ResourceLogs, DecodeError = forms
    for kind, read, is_one in (
        (ResourceSpans, _spans, _has_spans),
        (ResourceLogs, _logs, _has_logs),
    ):
        try:
            message = kind.FromString(data)
        except DecodeError:
            continue
        if is_one(message):
            yield from read(message)
            return
    raise WrongForm("a protobuf message that holds neither spans nor log records")


def _has_spans(message: Any) -> bool:
    spans = [span for scoped in message.scope_spans for span in scoped.spans]
    return not message.scope_spans or any(len(span.trace_id) == 16 for span in spans)


def _has_logs(message: Any) -> bool:
    records = [record for scoped in message.scope_logs for record in scoped.log_records]
    return any(
        record.time_unix_nano or record.observed_time_unix_nano or len(record.trace_id) == 16
        for record in records
    )


def _spans(message: Any) -> Iterator[TracedSpan]:
    resource = _attributes(message.resource.attributes)
    for scoped in message.scope_spans:
        for span in scoped.spans:
            yield _span(span, resource, scoped.scope)


def _logs(message: Any) -> Iterator[TracedEvent]:
    for scoped in message.scope_logs:
        for record in scoped.log_records:
            yield _log(record)


def _span(span: Any, resource: dict[str, Any], scope: Any) -> TracedSpan:
    events = [_event(event) for event in span.events]
    is_error = span.status.code == _ERROR
    return TracedSpan(
        trace_id=_id(span.trace_id),
        span_id=_id(span.span_id),
        parent_id=_id(span.parent_span_id) or None,
        name=span.name,
        started=_seconds(span.start_time_unix_nano),
        ended=_seconds(span.end_time_unix_nano),
        attributes=_attributes(span.attributes),
        events=events,
        resource=resource,
        scope=scope.name,
        scope_version=scope.version,
        error=error_message(span.status.message, events) if is_error else None,
    )


def _event(event: Any) -> TracedEvent:
    return TracedEvent(
        name=event.name,
        attributes=_attributes(event.attributes),
        time=_seconds(event.time_unix_nano),
    )


def _log(record: Any) -> TracedEvent:
    told = _attributes(record.attributes)
    return TracedEvent(
        name=record.event_name or str(told.get("event.name") or ""),
        attributes=told,
        body=_value(record.body),
        time=_seconds(record.time_unix_nano or record.observed_time_unix_nano),
        trace_id=_id(record.trace_id),
        span_id=_id(record.span_id),
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    """An AnyValue as a JSON value; bytes in hexadecimal digits."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    inner = getattr(value, kind)
    match kind:
        case "array_value":
            return [_value(item) for item in inner.values]
        case "kvlist_value":
            return _attributes(inner.values)
        case "bytes_value":
            return inner.hex()
        case "double_value":
            return inner if math.isfinite(inner) else str(inner)
    return inner


def _id(value: bytes) -> str:
    return "" if value in (_NO_TRACE_ID, _NO_SPAN_ID) else value.hex()


def _seconds(nanoseconds: int) -> float | None:
    return nanoseconds / 1_000_000_000 if nanoseconds else None
