"""Traces as one JSON object each: the lines that `astuner traces import` writes.

The fields are those of the dataclasses in `trace.py`; one that has its default is left out. What
is written is read back as it was, sequences as tuples.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from astuner.errors import UnreadableError
from astuner.run_dir import json_line
from astuner.traces.trace import Step, Trace, TraceFeedback

FORMAT = "astuner_trace"
"""The first key of each object, by which the format is recognised; its value is the version."""
FORMAT_VERSION = 1


def to_json(trace: Trace) -> dict[str, Any]:
    """The trace as JSON values."""
    return {FORMAT: FORMAT_VERSION, **_told(trace)}


def trace_line(trace: Trace) -> bytes:
    """The trace as one line, its end included."""
    return json_line(to_json(trace), where=f"trace {trace.trace_id}")


def from_json(record: Mapping[str, Any]) -> Trace:
    """The trace that `to_json` was given.

    Raises UnreadableError for a version that is not known here, and for what is no such object.
    """
    version = record.get(FORMAT)
    if version != FORMAT_VERSION:
        known = f"this release of astuner reads {FORMAT} {FORMAT_VERSION}"
        if version is None:
            raise UnreadableError(f"an object without the key {FORMAT}; {known}")
        raise UnreadableError(
            f"a trace of {FORMAT} {version!r}; {known}: read it with the release that wrote it, or "
            "a newer one"
        )
    return _checked(Trace, record)


def feedback_to_json(feedback: TraceFeedback) -> dict[str, Any]:
    return _told(feedback)


def feedback_from_json(record: Any) -> TraceFeedback:
    """What `feedback_to_json` was given. Raises UnreadableError for what is no such object."""
    return _checked(TraceFeedback, record)


T = TypeVar("T", Trace, Step, TraceFeedback)


def differing_fields(original: T, other: T) -> dict[str, Any]:
    """The fields of `original` that `other` has otherwise, as JSON values; None for one that has
    its default there."""
    told, found = _told(original), _told(other)
    names = [one.name for one in fields(original) if told.get(one.name) != found.get(one.name)]
    return {name: told.get(name) for name in names}


def with_fields(value: T, told: Mapping[str, Any]) -> T:
    """The value with these fields as `differing_fields` told them. Raises UnreadableError."""
    merged = {**_told(value), **told}
    given = {key: one for key, one in merged.items() if one is not None}
    return _checked(type(value), given)


def _checked(kind: type[T], told: Mapping[str, Any]) -> T:
    try:
        return _with_tuples(_adapter(kind).validate_python(told))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        name = kind.__name__.lower()
        raise UnreadableError(f"a {name} whose {place} is wrong: {first['msg']}") from error


@cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


def _told(value: Any) -> dict[str, Any]:
    """Of a dataclass, what is not as it is by default."""
    told: dict[str, Any] = {}
    for one in fields(value):
        inner = getattr(value, one.name)
        default = one.default if one.default_factory is MISSING else one.default_factory()
        if default is MISSING or not _is_same(inner, default):
            told[one.name] = _plain(inner)
    return told


def _is_same(value: Any, default: Any) -> bool:
    """Any empty sequence is the same as another."""
    if default == ():
        return not len(value)
    return value is None if default is None else value == default


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return _told(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def _with_tuples(value: Any) -> Any:
    """A dataclass whose sequences are tuples, as far as its own fields and those inside go."""
    changed: dict[str, Any] = {}
    for one in fields(value):
        inner = getattr(value, one.name)
        if is_dataclass(inner):
            changed[one.name] = _with_tuples(inner)
        elif isinstance(inner, list):
            has_fields = inner and is_dataclass(inner[0])
            changed[one.name] = tuple(map(_with_tuples, inner)) if has_fields else tuple(inner)
    return replace(value, **changed) if changed else value
