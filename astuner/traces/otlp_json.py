"""The JSON form of OTLP, as much of it as spans and log records need.

Source: OpenTelemetry protocol 1.x, "JSON Protobuf Encoding": names in camelCase, ids in hexadecimal
digits, 64-bit integers as texts; and its file exporter: one TracesData or LogsData a line, a file
holds one of the two.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

_INT64 = 2**63
JSON = dict[str, Any]


def any_value(value: Any) -> JSON:
    """A JSON value as an AnyValue; None is the empty one."""
    match value:
        case None:
            return {}
        case bool():
            return {"boolValue": value}
        case int() if -_INT64 <= value < _INT64:
            return {"intValue": str(value)}
        case float() if math.isfinite(value):
            return {"doubleValue": value}
        case str() | int() | float():
            return {"stringValue": str(value)}
        case Mapping():
            return {"kvlistValue": {"values": attributes(value)}}
    assert isinstance(value, Sequence), type(value)
    return {"arrayValue": {"values": [any_value(item) for item in value]}}


def attributes(values: Mapping[str, Any]) -> list[JSON]:
    """KeyValues in the given order."""
    return [{"key": str(key), "value": any_value(value)} for key, value in values.items()]


def nanoseconds(seconds: float) -> str:
    """Since 1970, to the microsecond, which is what a float of today's seconds holds."""
    return str(round(seconds * 1e6) * 1_000)


def traces_data(span: JSON, *, resource: Mapping[str, Any], scope: JSON) -> JSON:
    """One span as a line of a file of traces."""
    scoped = {"scope": scope, "spans": [span]}
    return {
        "resourceSpans": [
            {"resource": {"attributes": attributes(resource)}, "scopeSpans": [scoped]}
        ]
    }


def logs_data(record: JSON, *, resource: Mapping[str, Any], scope: JSON) -> JSON:
    """One log record as a line of a file of logs."""
    scoped = {"scope": scope, "logRecords": [record]}
    return {
        "resourceLogs": [{"resource": {"attributes": attributes(resource)}, "scopeLogs": [scoped]}]
    }
