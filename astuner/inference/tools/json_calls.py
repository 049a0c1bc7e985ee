"""JSON in a reply: one value out of the text, and the call that it stands for."""

import json
from dataclasses import dataclass
from typing import Any

from astuner.inference.tools.protocol import ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What was read out of a text, and where it ended."""

    value: Any
    end: int
    """Index of the first character behind it."""


def after_space(text: str, at: int) -> int:
    """Index of the first character from `at` on that is no whitespace."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def decode(text: str, at: int) -> Decoded:
    """Read one JSON value. Raises ValueError if there is none that can be written again."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, after_space(text, at))
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("the JSON is nested too deep") from None
    except UnicodeEncodeError:
        raise ValueError("the JSON holds half of a surrogate pair") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg})") from error
    except ValueError as error:
        raise ValueError(f"the JSON holds a number out of range ({error})") from error
    return Decoded(value=value, end=end)


def decode_all(text: str) -> Any:
    """The value that the whole text is. Raises ValueError if it is not one that `decode` reads."""
    decoded = decode(text, 0)
    if text[decoded.end :].strip():
        raise ValueError("text after the JSON")
    return decoded.value


def encode(value: object) -> str:
    """A JSON value in one line, with characters as they are."""
    return json.dumps(value, ensure_ascii=False)


def as_call(value: object, *argument_keys: str) -> ToolCall:
    """The call that a decoded value describes, its arguments under the first key that is there.

    Raises ValueError unless it is an object with a name and arguments.
    """
    if not isinstance(value, dict):
        raise ValueError("the JSON is not an object")
    name = value.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError("no 'name'")
    key = next((key for key in argument_keys if key in value), None)
    if key is None:
        raise ValueError(f"no {argument_keys[0]!r}")
    call_id = value.get("id")
    return ToolCall(
        name=name,
        arguments=as_arguments(value[key]),
        id=call_id if isinstance(call_id, str) else None,
    )


def as_arguments(value: object) -> dict[str, Any]:
    """The object itself, or the one that a JSON string holds. Raises ValueError for others."""
    if isinstance(value, str):
        value = decode_all(value)
    if not isinstance(value, dict):
        raise ValueError("the arguments are not an object")
    return value
