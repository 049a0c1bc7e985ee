"""Reads the body of a call: from bytes to an object, and the object field by field.

Knows no format. Nothing that a client sends is ignored in silence.
"""

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self, TypeVar

from astuner.gateway.refusals import all_of, bad_request, unknown_fields, unsupported
from astuner.serving.json_text import JSON
from astuner.serving.refusal import Refusal

T = TypeVar("T")

_MAX_STOPS = 16
_MAX_STOP_CHARACTERS = 1_000
"""Of one stop; a stream looks for the beginning of each behind every token."""
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


@contextlib.contextmanager
def fields_of(body: JSON) -> Iterator["Fields"]:
    """The fields of a body; at the end, all that is wrong with any of them is raised at once.

    A Refusal that is raised inside is the last of them, since nothing was read behind it.
    """
    fields = Fields(body)
    try:
        yield fields
        fields.close()
    except Refusal as refusal:
        fields.refuse(refusal)
    fields.end()


class Fields:
    """The fields of a body, taken one by one; what nobody took is refused by name.

    A field that is null counts as absent. One with a wrong value is noted, and its default given.
    The objects in a body are read by `inside` of it, so that the body knows all that is wrong.
    """

    def __init__(self, body: JSON) -> None:
        self._left = {key: value for key, value in body.items() if value is not None}
        self._path = ""
        self._unknown: list[str] = []
        self._problems: dict[str, Refusal] = {}
        """Of the whole body, in the order they were found; one for each field."""

    def inside(self, value: JSON, *, path: str) -> Self:
        """The fields of an object in this body; `path` begins their names."""
        fields = type(self)(value)
        fields._path, fields._unknown, fields._problems = path, self._unknown, self._problems
        return fields

    def refuse(self, refusal: Refusal) -> None:
        """Note what is wrong; of one field, the first thing."""
        self._problems.setdefault(refusal.param or refusal.message, refusal)

    def is_right(self, key: str) -> bool:
        """Whether nothing is known to be wrong with the field, or in it."""
        name = self.name(key)
        return not any(known.startswith(name) for known in self._problems)

    def attempt(self, read: Callable[[Self], T], otherwise: T) -> T:
        """What `read` makes of these fields; where it raises a Refusal, that is noted."""
        try:
            return read(self)
        except Refusal as refusal:
            self.refuse(refusal)
            return otherwise

    def each(self, key: str, read: Callable[[Self], T]) -> list[T]:
        """What `read` makes of each object of a list; those that it refuses are noted."""
        found: list[T] = []
        for index, item in enumerate(self.items(key)):
            if not isinstance(item, dict):
                self.refuse(self.wrong(f"{key}[{index}]", item, "an object"))
                continue
            inner = self.inside(item, path=f"{self.name(key)}[{index}].")
            inner.attempt(lambda fields: found.append(read(fields)), None)
        return found

    def name(self, key: str) -> str:
        return f"{self._path}{key}"

    def has(self, key: str) -> bool:
        return key in self._left

    def raw(self, key: str, default: Any = None) -> Any:
        return self._left.pop(key, default)

    def rest(self) -> dict[str, Any]:
        """All that nobody took yet, which counts as taken now."""
        left, self._left = self._left, {}
        return left

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
                self.refuse(self.wrong(f"{key}[{index}]", item, "an object"))
        return [item for item in found if isinstance(item, dict)]

    def mapping(self, key: str) -> dict[str, Any] | None:
        return self._typed(key, dict, "an object", None)

    def whole(self, key: str, *, low: int, high: int = _LARGEST) -> int | None:
        value = self._left.pop(key, None)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(self.wrong(key, value, "a whole number"))
            return None
        if not low <= value <= high:
            self.refuse(self.wrong(key, value, f"{low} to {high}"))
            return None
        return value

    def number(self, key: str) -> float | None:
        value = self._left.pop(key, None)
        if value is None:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (is_number and abs(value) <= _LARGEST):
            self.refuse(self.wrong(key, value, "a number"))
            return None
        return float(value)

    def stops(self, key: str) -> tuple[str, ...]:
        value = self._left.pop(key, None) or []
        stops = [value] if isinstance(value, str) else value
        if not isinstance(stops, list) or not all(isinstance(s, str) and s for s in stops):
            self.refuse(self.wrong(key, value, "a text or a list of texts, none of them empty"))
            return ()
        if len(stops) > _MAX_STOPS:
            self.refuse(self.wrong(key, value, f"at most {_MAX_STOPS} texts"))
            return ()
        if any(len(stop) > _MAX_STOP_CHARACTERS for stop in stops):
            expected = f"texts of at most {_MAX_STOP_CHARACTERS} characters"
            self.refuse(self.wrong(key, value, expected))
            return ()
        return tuple(stops)

    def only(self, key: str, *allowed: object, why: str) -> None:
        """The field may be absent or one of these, which say what happens anyway."""
        value = self._left.pop(key, None)
        if value is None or any(value == one and type(value) is type(one) for one in allowed):
            return
        self.refuse(unsupported(self.name(key), f"{_shown(value)} is not supported: {why}"))

    def ignore(self, *keys: str) -> None:
        """Fields that change nothing about the answer."""
        for key in keys:
            self._left.pop(key, None)

    def close(self) -> None:
        """Nothing else is to be taken."""
        self._unknown += map(self.name, self._left)
        self._left.clear()

    def end(self) -> None:
        """Of the body itself: raise all that is wrong with it, and what was left when it and the
        objects in it were closed."""
        if self._unknown:
            self.refuse(unknown_fields(self._unknown))
        if self._problems:
            raise all_of([*self._problems.values()])

    def wrong(self, key: str, value: object, expected: str) -> Refusal:
        name = self.name(key)
        return bad_request(f"{name} is {_shown(value)}; expected {expected}", param=name)

    def _typed(self, key: str, kind: type, expected: str, default: Any) -> Any:
        value = self._left.pop(key, None)
        if value is None:
            return default
        if not isinstance(value, kind):
            self.refuse(self.wrong(key, value, expected))
            return default
        return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
