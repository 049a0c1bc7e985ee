"""A span or a log record of OpenTelemetry as plain values, wherever it was kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedEvent:
    """An event of a span, or a log record that names one."""

    name: str
    attributes: Mapping[str, Any]
    body: Any = None
    """Of a log record."""
    time: float | None = None
    """Seconds since 1970."""
    trace_id: str = ""
    span_id: str = ""
    """Both in hexadecimal digits; empty for events that stand inside their span."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedSpan:
    """What one operation of an agent's program left."""

    trace_id: str
    """32 hexadecimal digits, or whatever the source has."""
    span_id: str
    parent_id: str | None
    name: str
    started: float | None
    """Seconds since 1970; the next one too."""
    ended: float | None
    attributes: Mapping[str, Any]
    """Flat: keys with dots, values as JSON values; nested ones stand as they came."""
    events: Sequence[TracedEvent] = ()
    resource: Mapping[str, Any] = field(default_factory=dict)
    scope: str = ""
    """Name of the instrumentation."""
    scope_version: str = ""
    error: str | None = None
    """Message of a status that says error; empty where it has none."""
