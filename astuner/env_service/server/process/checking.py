"""What an environment returned, held against what it should: text, numbers and JSON come out.

Whatever else it was becomes a `WrongAnswer` that says what was found.
"""

import contextlib
import json
import math
from collections.abc import Mapping
from typing import Any

_MAX_SHOWN = 200
_MAX_DEPTH = 20
_MAX_INFO_BYTES = 1_000_000


class WrongAnswer(Exception):
    """An environment returned what cannot be given to an agent."""


class Checking:
    """Of one instance."""

    def __init__(self, *, max_characters: int) -> None:
        self._max_characters = max_characters

    def parts(self, method: str, result: object, names: tuple[str, ...]) -> tuple[Any, ...]:
        if isinstance(result, tuple) and len(result) == len(names):
            return result
        size = f" with {len(result)} parts" if isinstance(result, tuple) else ""
        raise WrongAnswer(
            f"{method} returned {_a_kind(result)}{size}; return the tuple ({', '.join(names)})"
        )

    def messages(self, method: str, observation: object) -> list[dict[str, Any]]:
        """Text is said by the user; what is too long is cut, and says so."""
        if isinstance(observation, str):
            observation = [{"role": "user", "content": observation}]
        if not isinstance(observation, list | tuple):
            raise WrongAnswer(
                f"{method} returned an observation that is {_a_kind(observation)}; return text, or "
                'messages as [{"role": "user", "content": "…"}]'
            )
        left, messages = self._max_characters, []
        for message in observation:
            checked = self._message(method, message, max_characters=left)
            left = max(0, left - len(checked["content"]))
            messages.append(checked)
        return messages

    def _message(self, method: str, message: object, *, max_characters: int) -> dict[str, Any]:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise WrongAnswer(
                f"{method} returned an observation with a message that is {_shown(message)}; each "
                'is {"role": "user", "content": "…"}'
            )
        content = message.get("content")
        if not isinstance(content, str):
            raise WrongAnswer(
                f"{method} returned a message whose content is {_a_kind(content)}; return text"
            )
        try:
            content.encode()
        except UnicodeEncodeError as error:
            raise WrongAnswer(
                f"{method} returned text that is no Unicode at character {error.start} "
                f"({content[error.start]!r}), as of bytes that are no UTF-8; decode them with "
                'errors="replace"'
            ) from error
        others = {str(key): _plain(value) for key, value in message.items() if key != "content"}
        return {**others, "content": _cut(content, max_characters)}

    def number(self, method: str, name: str, value: object) -> float:
        found = own_value(value)
        if isinstance(found, int | float):
            with contextlib.suppress(OverflowError):  # an integer that no float holds
                if math.isfinite(number := float(found)):
                    return number
        raise WrongAnswer(f"{method}: {name} is {_shown(value)}; return a finite number")

    def truth(self, method: str, name: str, value: object) -> bool:
        found = own_value(value)
        if isinstance(found, bool):
            return found
        raise WrongAnswer(f"{method}: {name} is {_shown(value)}; return True or False")

    def info(self, method: str, info: object) -> dict[str, Any]:
        if not isinstance(info, Mapping):
            raise WrongAnswer(f"{method}: info is {_shown(info)}; return a dictionary")
        plain = _plain(info)
        num_bytes = len(json.dumps(plain))
        if num_bytes > _MAX_INFO_BYTES:
            raise WrongAnswer(
                f"{method}: info takes {num_bytes:,} bytes as JSON, more than {_MAX_INFO_BYTES:,}; "
                "leave out what no agent and no judge reads"
            )
        return plain

    def tools(self, tools: object) -> list[dict[str, Any]]:
        if not isinstance(tools, list | tuple) or not all(isinstance(t, Mapping) for t in tools):
            raise WrongAnswer(
                f"tools are {_shown(tools)}; they are a list of "
                '{"type": "function", "function": {"name", "description", "parameters"}}'
            )
        return _plain(tools)


def own_value(value: Any) -> Any:
    """What an array of one value holds, of numpy, torch or their like; else the value."""
    item = getattr(value, "item", None)
    if not callable(item):
        return value
    try:
        return item()
    except (TypeError, ValueError, RuntimeError):  # of more than one value
        return value


def _cut(text: str, max_characters: int) -> str:
    if len(text) <= max_characters:
        return text
    return (
        f"{text[:max_characters]}\n[cut here: this observation has {len(text):,} characters, of "
        f"which {max_characters:,} are shown]"
    )


def _plain(value: Any, depth: int = 0) -> Any:
    """As JSON can say it; what it has no word for is told as text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if depth < _MAX_DEPTH:
        if isinstance(value, Mapping):
            return {str(key): _plain(held, depth + 1) for key, held in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [_plain(held, depth + 1) for held in value]
        if callable(to_list := getattr(value, "tolist", None)):  # arrays and numbers of numpy
            return _plain(to_list(), depth + 1)
    return _shown(value)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  # code of the environment
        return _a_kind(value)
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _a_kind(value: object) -> str:
    return "None" if value is None else f"a value of the type {type(value).__name__}"
