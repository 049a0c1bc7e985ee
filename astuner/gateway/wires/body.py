"""Reads the body of a call: from bytes to an object, and the object field by field.

Knows no format. Nothing that a client sends is ignored in silence.
"""

import json
import re
from typing import Any

from astuner.gateway.refusals import bad_request, unsupported
from astuner.serving.json_text import JSON
from astuner.serving.refusal import Refusal

_MAX_STOPS = 16
_LARGEST = 2**31 - 1
_MAY_BE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_body(body: bytes) -> JSON:
    """Raises Refusal for bytes that are no JSON object, or not UTF-8."""
    try:
        # Not the bytes, in which json would take half of a surrogate pair and other encodings.
        value = json.loads(body.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise bad_request(f"the body is {type(value).__name__}; expected a JSON object")
    if _MAY_BE_SURROGATE.search(body) and not _is_text(value):
        raise bad_request("the body holds half of a surrogate pair, which no tokenizer can read")
    return value


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _is_text(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


class Fields:
    """The fields of a body, taken one by one; what nobody took is refused by name.

    A field that is null counts as absent.
    """

    def __init__(self, body: JSON, *, path: str = "") -> None:
        self._left = {key: value for key, value in body.items() if value is not None}
        self._path = path

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
        """Refuse what is left."""
        if self._left:
            key = min(self._left)
            raise unsupported(self.name(key), "this field is not supported; leave it out")

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
