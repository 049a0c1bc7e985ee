"""Whatever a workflow returned, as what JSON can hold: nothing that it put there stops a record."""

from collections.abc import Mapping
from traceback import format_exception_only
from typing import Any

from astuner.errors import Quit

_MAX_DEPTH = 100
"""Containers inside of each other; far fewer than the interpreter can follow."""


def plain(value: Any, around: tuple[Any, ...] = ()) -> Any:
    """A copy in which what is no JSON is text, and what has no text says what it was.

    `around` are the containers that hold the value.
    """
    try:
        return _plain(value, around)
    except Quit:
        raise
    except BaseException as error:  # noqa: BLE001  # code of the user's own classes, exits too
        return _without_text(value, error)


def _plain(value: Any, around: tuple[Any, ...]) -> Any:
    if isinstance(value, (Mapping, list, tuple)):
        name = type(value).__name__
        if any(value is container for container in around):
            return _not_recorded(f"a {name} that holds itself")
        if len(around) == _MAX_DEPTH:
            return _not_recorded(f"a {name} inside of {_MAX_DEPTH} others")
        inside = (*around, value)
        if isinstance(value, Mapping):
            return {_key(key): plain(entry, inside) for key, entry in value.items()}
        return [plain(entry, inside) for entry in value]
    if isinstance(value, int):
        int.__repr__(value)  # refused where it has more digits than Python writes
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    return value if isinstance(value, str) or value is None else str(value)


def _key(key: Any) -> str:
    try:
        return str(key)
    except Quit:
        raise
    except BaseException as error:  # noqa: BLE001  # as above
        return _without_text(key, error)


def _without_text(value: Any, error: BaseException) -> str:
    found = "".join(format_exception_only(error)).strip()
    return _not_recorded(f"{type(value).__name__}: {found}")


def _not_recorded(what: str) -> str:
    return f"<not recorded: {what}>"
