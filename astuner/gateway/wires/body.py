"""Reads the body of a call: from bytes to an object, and the object field by field.

Knows no format. Nothing that a client sends is ignored in silence.
"""

import json
import math
import re
from collections.abc import Iterable
from typing import Any, Self

from astuner.gateway.refusals import bad_request, unknown_fields, unsupported
from astuner.serving.json_text import JSON
from astuner.serving.refusal import Refusal

_MAX_STOPS = 16
_LARGEST = 2**31 - 1
_MAX_DEPTH = 100
"""Of lists and objects in each other; what can just be read may be too deep to be written again."""
_MAX_VALUES = 200_000
"""Lists, objects and what stands in them. Reading JSON holds up every thread, by a second for some
million small lists; long texts cost next to nothing."""
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_MAY_BE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_body(body: bytes) -> JSON:
    """Raises Refusal for bytes that are no JSON object, no UTF-8, or hold what no answer could."""
    if _has_too_many_values(body):
        raise bad_request(f"the body holds more than {_MAX_VALUES} values; send a shorter one")
    try:
        # Not the bytes, in which json would take half of a surrogate pair and other encodings.
        value = json.loads(body.decode(), parse_constant=_no_number, parse_float=_finite)
    except RecursionError as error:
        raise bad_request(f"the body is more than {_MAX_DEPTH} lists and objects deep") from error
    except ValueError as error:
        raise bad_request(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise bad_request(f"the body is {type(value).__name__}; expected a JSON object")
    if body.count(b"{") + body.count(b"[") > _MAX_DEPTH and _is_deep(value):
        raise bad_request(f"the body is more than {_MAX_DEPTH} lists and objects deep")
    if _MAY_BE_SURROGATE.search(body) and not _is_text(value):
        raise bad_request("the body holds half of a surrogate pair, which no tokenizer can read")
    return value


def _has_too_many_values(body: bytes) -> bool:
    """By the signs that begin or part them, of which those inside of texts are none."""
    if _num_signs(body, 0, len(body)) <= _MAX_VALUES:
        return False
    num_values = at = 0
    for text in _TEXT.finditer(body):
        num_values += _num_signs(body, at, text.start())
        at = text.end()
        if num_values > _MAX_VALUES:
            return True
    return num_values + _num_signs(body, at, len(body)) > _MAX_VALUES


def _num_signs(body: bytes, start: int, end: int) -> int:
    return sum(body.count(sign, start, end) for sign in (b"[", b"{", b","))


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _finite(digits: str) -> float:
    """No answer could repeat an infinite number, and none of a tool's schema means one."""
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{_shown(digits)} is beyond the range of numbers")
    return number


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [part for whole in level for part in _parts(whole)]
        if not level:
            return False
    return True


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _is_text(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


class Fields:
    """The fields of a body, taken one by one; what nobody took is refused by name.

    A field that is null counts as absent. The objects in a body are read by `inside` of it, so that
    closing the body can name all that is unknown in any of them.
    """

    def __init__(self, body: JSON) -> None:
        self._left = {key: value for key, value in body.items() if value is not None}
        self._path = ""
        self._unknown: list[str] = []
        self._is_inside = False

    def inside(self, value: JSON, *, path: str) -> Self:
        """The fields of an object in this body; `path` begins their names."""
        fields = type(self)(value)
        fields._path, fields._unknown, fields._is_inside = path, self._unknown, True
        return fields

    def name(self, key: str) -> str:
        return f"{self._path}{key}"

    def has(self, key: str) -> bool:
        return key in self._left

    def raw(self, key: str, default: Any = None) -> Any:
        return self._left.pop(key, default)

    def text(self, key: str, default: str = "") -> str:
        return self._typed(key, str, "a text", default)

    def flag(self, key: str, *, default: bool = False) -> bool:
        return self._typed(key, bool, "true or false", default)

    def items(self, key: str) -> list[Any]:
        return self._typed(key, list, "a list", [])

    def objects(self, key: str) -> list[dict[str, Any]]:
        found = self.items(key)
        for index, item in enumerate(found):
            if not isinstance(item, dict):
                raise self.wrong(f"{key}[{index}]", item, "an object")
        return found

    def mapping(self, key: str) -> dict[str, Any] | None:
        return self._typed(key, dict, "an object", None)

    def whole(self, key: str, *, low: int, high: int = _LARGEST) -> int | None:
        value = self._left.pop(key, None)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(key, value, "a whole number")
        if not low <= value <= high:
            raise self.wrong(key, value, f"{low} to {high}")
        return value

    def number(self, key: str) -> float | None:
        value = self._left.pop(key, None)
        if value is None:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (is_number and abs(value) <= _LARGEST):
            raise self.wrong(key, value, "a number")
        return float(value)

    def stops(self, key: str) -> tuple[str, ...]:
        value = self._left.pop(key, None) or []
        stops = [value] if isinstance(value, str) else value
        if not isinstance(stops, list) or not all(isinstance(s, str) and s for s in stops):
            raise self.wrong(key, value, "a text or a list of texts, none of them empty")
        if len(stops) > _MAX_STOPS:
            raise self.wrong(key, value, f"at most {_MAX_STOPS} texts")
        return tuple(stops)

    def only(self, key: str, *allowed: object, why: str) -> None:
        """The field may be absent or one of these, which say what happens anyway."""
        value = self._left.pop(key, None)
        if value is None or any(value == one and type(value) is type(one) for one in allowed):
            return
        raise unsupported(self.name(key), f"{_shown(value)} is not supported: {why}")

    def ignore(self, *keys: str) -> None:
        """Fields that change nothing about the answer."""
        for key in keys:
            self._left.pop(key, None)

    def close(self) -> None:
        """Nothing else is to be taken. Of the body itself: refuse what is left, here and inside."""
        self._unknown += map(self.name, self._left)
        self._left.clear()
        if self._unknown and not self._is_inside:
            raise unknown_fields(self._unknown)

    def wrong(self, key: str, value: object, expected: str) -> Refusal:
        name = self.name(key)
        return bad_request(f"{name} is {_shown(value)}; expected {expected}", param=name)

    def _typed(self, key: str, kind: type, expected: str, default: Any) -> Any:
        value = self._left.pop(key, None)
        if value is None:
            return default
        if not isinstance(value, kind):
            raise self.wrong(key, value, expected)
        return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
