"""From a request to lines of a file: whole records, each of which the reader can read.

A record that is no span or log record is rejected and counted, and the rest is kept.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from astuner.collecting.export_request import ExportResult, Signal
from astuner.run_dir import json_line
from astuner.serving.json_text import JSON
from astuner.serving.refusal import Refusal
from astuner.traces.otlp.json_form import WrongForm, json_records

_NAMES = {
    "traces": ("resourceSpans", "scopeSpans", "spans"),
    "logs": ("resourceLogs", "scopeLogs", "logRecords"),
}
_TRACE_ID, _SPAN_ID = re.compile(r"[0-9a-fA-F]{32}"), re.compile(r"[0-9a-fA-F]{16}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptExport:
    """Lines to be written, and what is to be answered."""

    lines: list[bytes]
    """Each a TracesData or LogsData with the records of one scope."""
    result: ExportResult


def kept_export(document: JSON, signal: Signal, masked: Callable[[Any], Any]) -> KeptExport:
    """What of a request is kept, as `masked` leaves it. Raises Refusal 400 for none at all."""
    outer, inner, records = _NAMES[signal]
    lines: list[bytes] = []
    num_kept, reasons = 0, []
    for resource, scope, found in _scoped(document, signal):
        kept = []
        for record in found:
            try:
                _check(record, signal)
                kept.append(masked(record))
            except WrongForm as error:
                reasons.append(str(error))
            except (TypeError, AttributeError, KeyError, ValueError, RecursionError) as error:
                reasons.append(f"fields that OTLP has in another form ({error})")
        if kept:
            num_kept += len(kept)
            scoped = {"scope": masked(scope), records: kept}
            line = {outer: [{"resource": masked(resource), inner: [scoped]}]}
            lines.append(json_line(line, where="a request"))
    reason = f"{reasons[0]}, and {len(reasons) - 1} more" if reasons[1:] else "".join(reasons)
    result = ExportResult(num_kept=num_kept, num_rejected=len(reasons), reason=reason)
    return KeptExport(lines=lines, result=result)


def _scoped(document: JSON, signal: Signal) -> Iterator[tuple[JSON, JSON, list[Any]]]:
    """Resource, scope and records. An empty request is one too."""
    outer, inner, records = _NAMES[signal]
    if document and outer not in document:
        shown = ", ".join(sorted(document)[:4])[:100]
        raise _wrong(f"the request has {shown}; expected {outer}")
    for group in _objects(document, outer):
        for scoped in _objects(group, inner):
            found = scoped.get(records) or []
            if not isinstance(found, list):
                raise _wrong(f"{records} is a {type(found).__name__}; expected a list")
            yield _object(group, "resource"), _object(scoped, "scope"), found


def _objects(value: Mapping[str, Any], key: str) -> list[JSON]:
    found = value.get(key) or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise _wrong(f"{key} is no list of objects")
    return found


def _object(value: Mapping[str, Any], key: str) -> JSON:
    """Raises Refusal for one whose attributes are of another form."""
    found = value.get(key) or {}
    outer, inner, records = _NAMES["traces"]
    probe = {outer: [{"resource": found, inner: [{"scope": found, records: [{}]}]}]}
    try:
        list(json_records(probe))
    except WrongForm as error:
        raise _wrong(f"{key}: {error}") from error
    return found


def _check(record: Any, signal: Signal) -> None:
    """Raises WrongForm for what the reader could not read."""
    outer, inner, records = _NAMES[signal]
    list(json_records({outer: [{inner: [{records: [record]}]}]}))
    ids = (str(record.get("traceId") or ""), str(record.get("spanId") or ""))
    is_whole = _TRACE_ID.fullmatch(ids[0]) and _SPAN_ID.fullmatch(ids[1])
    if signal == "traces" and not is_whole:
        raise WrongForm(
            "a span whose traceId has not 32 hexadecimal digits, or whose spanId not 16"
        )


def _wrong(what: str) -> Refusal:
    return Refusal(400, what, code="invalid_request")
