"""A line of a generated set: a task, or a draft that became none, with what lists need of it."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from astuner.logview.reading.indexed_lines import LinePlace
from astuner.logview.reading.lines import shown
from astuner.logview.reading.metrics import count_in


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLine:
    """Names that are missing are empty."""

    file: str
    place: LinePlace
    key: str
    """By which addresses name it: the id of a task, the turn of a draft."""
    turn: int | None
    """Of the plan; None where it is not known."""
    side: str
    """train or validation."""
    document: str
    chunk: int | None
    style: str
    difficulty: str
    gate: str | None
    """That rejected it; None: it is a task."""
    pass_rate: float | None
    """Between 0 and 1; None where it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """What the ledger says of a draft, or of something else."""

    place: LinePlace
    turn: int | None
    state: str
    """passed, rejected or failed; empty: it is of no draft."""
    line: SetLine | None
    """Of one that passed the gates which look at it alone, or was rejected."""

    @classmethod
    def of_line(cls, line: SetLine) -> Self:
        """The entry that has this line."""
        state = "passed" if line.gate is None else "rejected"
        return cls(place=line.place, turn=line.turn, state=state, line=line)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetChunkLine:
    place: LinePlace
    document: str
    number: int


def task_line(task: Mapping[str, Any], place: LinePlace, *, file: str, side: str) -> SetLine:
    """Raises ValueError for what is no task."""
    if not isinstance(task.get("main_query"), str):
        raise ValueError(f"it has no main_query; found {_keys(task)}")
    metadata = task.get("metadata")
    facts: Mapping[str, Any] = metadata if isinstance(metadata, Mapping) else {}
    task_id = task.get("task_id")
    return SetLine(
        file=file,
        place=place,
        key=f"@{place.offset}" if task_id is None else shown(str(task_id)),
        turn=count_in(facts.get("turn")),
        side=side,
        document=_name(facts.get("document")),
        chunk=count_in(facts.get("chunk")),
        style=_name(facts.get("style")),
        difficulty=_name(facts.get("difficulty")),
        gate=None,
        pass_rate=rate_of(facts.get("pass_rate")),
    )


def rejected_line(draft: Mapping[str, Any], place: LinePlace, *, file: str) -> SetLine:
    """Raises ValueError for what is no rejection."""
    if not isinstance(draft.get("gate"), str):
        raise ValueError(f"it names no gate; found {_keys(draft)}")
    turn = count_in(draft.get("turn"))
    return SetLine(
        file=file,
        place=place,
        key=f"@{place.offset}" if turn is None else str(turn),
        turn=turn,
        side=_name(draft.get("side")),
        document=_name(draft.get("document")),
        chunk=count_in(draft.get("chunk")),
        style=_name(draft.get("style")),
        difficulty=_name(draft.get("difficulty")),
        gate=_name(draft["gate"]),
        pass_rate=rate_of(draft.get("pass_rate")),
    )


def ledger_entry(row: Mapping[str, Any], place: LinePlace, *, file: str) -> LedgerEntry:
    """A ledger does not tell sides and places: they stand in the plan."""
    turn = count_in(row.get("turn"))
    state = _name(row.get("state")) if row.get("kind") == "draft" and turn is not None else ""
    if state not in ("passed", "rejected"):
        return LedgerEntry(place=place, turn=turn, state=state, line=None)
    told = row.get("draft")
    draft: Mapping[str, Any] = told if isinstance(told, Mapping) else {}
    line = SetLine(
        file=file,
        place=place,
        key=str(turn),
        turn=turn,
        side="",
        document="",
        chunk=None,
        style=_name(draft.get("style")),
        difficulty=_name(draft.get("difficulty")),
        gate=_name(row.get("gate")) if state == "rejected" else None,
        pass_rate=None,
    )
    return LedgerEntry.of_line(line)


def chunk_line(chunk: Mapping[str, Any], place: LinePlace) -> SetChunkLine:
    """Raises ValueError for what is no chunk."""
    number = count_in(chunk.get("number"))
    if number is None or not isinstance(chunk.get("text"), str):
        raise ValueError(f"it has no number and text; found {_keys(chunk)}")
    return SetChunkLine(place=place, document=_name(chunk.get("document")), number=number)


def rate_of(value: Any) -> float | None:
    """A pass rate: a number from 0 to 1, or how many were solved of how many that were judged."""
    if isinstance(value, Mapping):
        solved, judged = count_in(value.get("num_solved")), count_in(value.get("num_judged"))
        value = solved / judged if solved is not None and judged else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and 0 <= value <= 1 else None


def _name(value: Any) -> str:
    """Kept once, since many lines have the same."""
    return "" if value is None else sys.intern(shown(str(value)))


def _keys(found: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, sorted(found)[:8])) or "nothing"
