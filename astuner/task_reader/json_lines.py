"""Files of JSON objects, with the line of each for messages."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astuner.errors import TaskReadError


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonLine:
    """One object and where it stands, as "file:line"."""

    place: str
    number: int
    """Line in the file; counts from 1."""
    fields: dict[str, Any]


def read_json_lines(path: Path) -> Iterator[JsonLine]:
    """The objects of a file with one on each line; blank lines are skipped.

    Raises TaskReadError, with file, line and column, for what is not UTF-8, JSON or an object.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            place = f"{path}:{number}"
            text = _decode(raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw, place)
            if text.strip():
                yield JsonLine(place=place, number=number, fields=_parse_object(text, place))


def loads(text: str) -> Any:
    """Reads JSON, and NaN, which pandas writes for what is missing, as null."""
    return json.loads(text, parse_constant=_constant)


def _constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)


def _decode(raw: bytes, place: str) -> str:
    try:
        return raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise TaskReadError(
            f"{place}:{error.start + 1}: not UTF-8 text; found byte 0x{raw[error.start]:02x}; "
            "save the file as UTF-8"
        ) from error


def _parse_object(text: str, place: str) -> dict[str, Any]:
    try:
        value = loads(text)
    except json.JSONDecodeError as error:
        raise TaskReadError(
            f"{place}:{error.colno}: not JSON: {error.msg}; found {text.strip()!r:.80}; write one "
            "JSON object per line"
        ) from error
    except (ValueError, RecursionError) as error:  # numbers, or nesting, without a sensible end
        raise TaskReadError(
            f"{place}: cannot be read: {error}; found {text.strip()!r:.80}; shorten that value"
        ) from error
    if not isinstance(value, dict):
        raise TaskReadError(
            f"{place}: not a JSON object; found {text.strip()!r:.80}; write one object per line, "
            'such as {"main_query": "…"}'
        )
    return value
