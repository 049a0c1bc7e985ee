"""Values as stores write them: times, numbers, nested attributes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

_MILLISECONDS_FROM = 1e11
"""As seconds this would be in the year 5138."""
_NANOSECONDS_FROM = 1e16


def seconds_since_1970(value: Any) -> float | None:
    """Of a time as ISO 8601, UTC where it names no zone, or as a number of seconds, milliseconds or
    nanoseconds; None for what is no time."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, str) and not value.strip().isdecimal():
        try:
            return seconds_since_1970(datetime.fromisoformat(value.strip().removesuffix(" UTC")))
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    number = int(value) if isinstance(value, str) else value
    if number <= 0 or not math.isfinite(number):
        return None
    if number >= _NANOSECONDS_FROM:
        return number / 1_000_000_000
    return number / 1_000 if number >= _MILLISECONDS_FROM else float(number)


def number_of(value: Any) -> float | None:
    """A truth value is 1 or 0; None for what is no number, or not finite."""
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    return None


def flattened(
    value: Any, *, whole: frozenset[str] = frozenset(), prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """The values of nested objects, and of lists of objects, under keys with dots.

    Those under the keys in `whole` stay as they are; so do empty ones. None is left out.
    """
    if value is None:
        return
    if not value or prefix in whole:
        yield prefix, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            name = f"{prefix}.{key}" if prefix else str(key)
            yield from flattened(inner, whole=whole, prefix=name)
    elif is_list_of_objects(value):
        for place, inner in enumerate(value):
            yield from flattened(inner, whole=whole, prefix=f"{prefix}.{place}")
    else:
        yield prefix, value


def is_list_of_objects(value: Any) -> bool:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return False
    return bool(value) and all(isinstance(inner, Mapping) for inner in value)


def first_of(row: Mapping[str, Any], *keys: str) -> Any:
    """The first of these that is there and neither None nor an empty text."""
    return next((row[key] for key in keys if row.get(key) not in (None, "")), None)
