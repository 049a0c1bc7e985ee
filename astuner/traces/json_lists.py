"""A list in JSON, element by element, from the end of any of them on."""

import json
import re
from collections.abc import Iterator
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode


def list_elements(text: str, start: int) -> Iterator[tuple[Any, int]]:
    """Each with the place behind it; `start` is 0, or such a place.

    Raises ValueError or RecursionError where `json.loads` would, and where it is no list.
    """
    place = _behind_space(text, start)
    if start == 0:
        _expect(text, place, "[")
        place = _behind_space(text, place + 1)
        is_end = text.startswith("]", place)
    else:
        is_end, place = _behind_comma(text, place)
    while not is_end:
        element, place = _decode(text, place)
        yield element, place
        is_end, place = _behind_comma(text, _behind_space(text, place))
    if _behind_space(text, place + 1) != len(text):
        raise ValueError(f"more behind a list, at {place}")


def _behind_comma(text: str, place: int) -> tuple[bool, int]:
    """Whether the list ends at a place behind an element, and where the next one begins."""
    if text.startswith("]", place):
        return True, place
    _expect(text, place, ",")
    return False, _behind_space(text, place + 1)


def _expect(text: str, place: int, character: str) -> None:
    if not text.startswith(character, place):
        raise ValueError(f"no {character} in a list, at {place}")


def _behind_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place
