"""What the wire formats share: the call that a body asks for, its fields, and events.

A wire format is a set of pure functions: body in, `Ask` out; replies in, body or events out. It
knows no key, no episode and no connection.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from astuner.gateway.refusal import JSON, Refusal, bad_request, unsupported
from astuner.inference.request import ChatReply, ChatRequest
from astuner.inference.watch import Delta

MAX_CHOICES = 128
MAX_STOPS = 16
MAX_TOP_LOGPROBS = 20
_LARGEST = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What one body asks for."""

    requests: tuple[ChatRequest, ...]
    """One for each choice of the answer; they name no agent yet."""
    model: str
    """Named by the client; there is only one, so any name will do."""
    is_stream: bool
    temperature: float | None = None
    """None: not said."""
    top_p: float | None = None
    top_k: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """What only the wire format itself reads again when it writes the answer."""

    @property
    def answer_format(self) -> bool:
        return self.requests[0].answer_format is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What names an answer."""

    id: str
    """Letters and digits; the same for every reader of one answer."""
    created: int
    """Seconds since 1970."""


class EventWriter(Protocol):
    """Writes the events of one answer, in this order."""

    def start(self) -> list[bytes]: ...

    def delta(self, choice: int, delta: Delta) -> list[bytes]: ...

    def end(self, replies: Sequence[ChatReply]) -> list[bytes]:
        """The deltas told before hold all text and reasoning of the replies."""
        ...

    def fail(self, refusal: Refusal) -> list[bytes]:
        """In place of `end`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WireFormat:
    """One way of asking for a completion."""

    path: str
    read: Callable[[JSON], Ask]
    """Raises Refusal for a body that cannot be answered."""
    write: Callable[[Ask, Head, Sequence[ChatReply]], JSON]
    events: Callable[[Ask, Head], EventWriter]
    error: Callable[[Refusal], JSON]


def to_json(value: object) -> bytes:
    """Escaped to ASCII: some clients take U+2028 and its like for the end of an event's line."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def data_event(value: object, *, name: str | None = None) -> bytes:
    """One server-sent event."""
    prefix = f"event: {name}\ndata: ".encode() if name else b"data: "
    return b"".join((prefix, to_json(value), b"\n\n"))


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
        if len(stops) > MAX_STOPS:
            raise self.wrong(key, value, f"at most {MAX_STOPS} texts")
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


def function_tool(function: JSON, *, path: str) -> JSON:
    """A function in the form that chat templates know, its keys in the client's order.

    `strict` is taken and dropped: arguments are as the model writes them, never constrained.
    """
    fields = Fields(function, path=path)
    if not fields.text("name"):
        raise bad_request(f"{fields.name('name')} is missing", param=fields.name("name"))
    fields.text("description")
    has_parameters = fields.mapping("parameters") is not None
    fields.flag("strict")
    fields.close()
    kept = {k: v for k, v in function.items() if k != "strict" and v is not None}
    if not has_parameters:
        kept["parameters"] = {"type": "object", "properties": {}}
    return {"type": "function", "function": kept}


def arguments_text(arguments: Mapping[str, Any]) -> str:
    return json.dumps(arguments, ensure_ascii=False)
