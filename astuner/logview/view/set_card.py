"""How a generated set was made, as its card tells: named values, and what could not be read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from astuner.logview.view.folding import on_one_line
from astuner.logview.view.said import readable
from astuner.logview.view.verdict import ShownFact

MAX_FACTS = 100
_MAX_SIGNS = 400
_SHOWN_ELSEWHERE = (
    *("by_gate", "by_document", "unread_documents", "ended_by", "num_wanted"),
    *("num_training", "num_validation", "num_test"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadLine:
    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownCard:
    facts: Sequence[ShownFact]
    """Of a section by dotted names."""
    num_hidden: int
    """Facts that are left out, since there are very many."""
    unread: Sequence[UnreadLine]
    """Documents that gave no text."""
    num_wanted: int | None
    """Tasks; None where it does not tell."""
    ended_by: str | None
    """Why there are fewer, in words."""


def read_set_card(card: Mapping[str, Any]) -> ShownCard:
    told = {name: value for name, value in card.items() if name not in _SHOWN_ELSEWHERE}
    facts = list(_facts(told, ""))
    wanted, ended_by = card.get("num_wanted"), card.get("ended_by")
    return ShownCard(
        facts=facts[:MAX_FACTS],
        num_hidden=max(0, len(facts) - MAX_FACTS),
        unread=list(_unread(card.get("unread_documents"))),
        num_wanted=wanted if isinstance(wanted, int) and not isinstance(wanted, bool) else None,
        ended_by=ended_by if isinstance(ended_by, str) and ended_by else None,
    )


def _facts(section: Mapping[str, Any], prefix: str) -> Iterator[ShownFact]:
    for key, value in section.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _facts(value, f"{name}.")
        elif value is not None and value != []:
            yield ShownFact(name=name.replace("_", " "), text=on_one_line(_said(value), _MAX_SIGNS))


def _said(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(one, str | int | float) for one in value):
        return ", ".join(map(str, value))
    return readable(value)


def _unread(told: Any) -> Iterator[UnreadLine]:
    for one in told if isinstance(told, list) else []:
        if isinstance(one, Mapping):
            yield UnreadLine(name=str(one.get("name", "")), reason=str(one.get("reason", "")))
