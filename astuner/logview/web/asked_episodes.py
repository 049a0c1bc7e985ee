"""Which episodes the address of a page asks for, and how an address asks for them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self, get_args

from starlette.datastructures import QueryParams

from astuner.logview.reading.query import EpisodeQuery, Order, Outcome


def asked_query(params: QueryParams) -> EpisodeQuery:
    """What cannot be read counts as not asked for."""
    found = {name: read(params[name]) for name, read in _READERS.items() if params.get(name)}
    if "kind" in found:
        found["is_validation"] = found.pop("kind")
    return EpisodeQuery(**{name: value for name, value in found.items() if value is not None})


def query_address(query: EpisodeQuery) -> dict[str, Any]:
    """The parts of an address that `asked_query` makes the same query of."""
    values = {field.name: getattr(query, field.name) for field in fields(query)}
    asked: dict[str, Any] = {}
    for name, value in values.items():
        if value is None or (name == "order" and value == "step"):
            continue
        if name == "is_validation":
            asked["kind"] = "validation" if value else "train"
        else:
            asked[name] = "yes" if value is True else "no" if value is False else value
    return asked


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedEpisodes:
    """Which episodes a reader looks at: what they are, and what is said in them."""

    query: EpisodeQuery
    text: str
    """Empty where none is searched for."""

    @classmethod
    def of(cls, params: QueryParams) -> Self:
        return cls(query=asked_query(params), text=params.get("q", "").strip())

    @property
    def address(self) -> dict[str, Any]:
        """The parts of an address that ask for the same."""
        return query_address(self.query) | ({"q": self.text} if self.text else {})

    @property
    def asks_for_some(self) -> bool:
        """Whether any episode is left out."""
        return bool(set(self.address) - {"order"})


def _count(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _truth(text: str) -> bool | None:
    return {"yes": True, "no": False}.get(text)


def _one_of(allowed: tuple[str, ...]) -> Callable[[str], str | None]:
    return lambda text: text if text in allowed else None


_READERS: Mapping[str, Callable[[str], Any]] = {
    "step": _count,
    "kind": lambda text: {"validation": True, "train": False}.get(text),
    "task_id": str,
    "min_reward": _number,
    "max_reward": _number,
    "outcome": _one_of(get_args(Outcome)),
    "agent": str,
    "tool": str,
    "madness": _truth,
    "min_tokens": _count,
    "max_tokens": _count,
    "problem": _truth,
    "order": _one_of(get_args(Order)),
}
