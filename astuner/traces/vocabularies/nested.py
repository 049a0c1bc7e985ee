"""Attributes whose names hold the indices of lists, as the lists that they were."""

from collections.abc import Mapping
from typing import Any


def nested(attributes: Mapping[str, Any], prefix: str) -> Any:
    """What `prefix.0.role`, `prefix.0.content` … were made of; None where there is none.

    Objects whose keys are all numbers become lists, in their order.
    """
    root: dict[str, Any] = {}
    for key, value in attributes.items():
        if key.startswith(prefix) and key[len(prefix) : len(prefix) + 1] == ".":
            _put(root, key[len(prefix) + 1 :].split("."), value)
    return _lists(root) if root else None


def _put(place: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        inner = place.get(name)
        if not isinstance(inner, dict):
            inner = place[name] = {}
        place = inner
    if not isinstance(place.get(path[-1]), dict):
        place[path[-1]] = value


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    made = {name: _lists(inner) for name, inner in value.items()}
    if all(name.isdecimal() for name in made):
        return [made[name] for name in sorted(made, key=int)]
    return made
