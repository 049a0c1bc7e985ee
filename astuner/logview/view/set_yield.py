"""What a generated set came to: drafts by the gate that took them, tasks by what they are."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from astuner.logview.reading.metrics import count_in
from astuner.logview.view.words import share

if TYPE_CHECKING:
    from astuner.logview.reading.set_line import SetLine

_ORDER = (
    *("form", "evidence", "self_contained", "personal_data", "judge_fit"),
    *("answerable", "closed_book", "duplicates", "pass_rate"),
)
"""In which gates are asked, where no card tells another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLine:
    gate: str
    num_seen: int
    """Drafts that came to it, past all gates before."""
    num_rejected: int
    num_tokens: int | None
    """Of the questions that it asked, and of their answers; None where that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentLine:
    document: str
    """Empty: made from seeds alone."""
    num_drafts: int
    num_tasks: int
    sides: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedTasks:
    """Pass rates that are near each other."""

    low: float
    high: float
    """Both are of a task."""
    num_tasks: int

    @property
    def says(self) -> str:
        low, high = share(self.low), share(self.high)
        return low if low == high else f"{low} to {high}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetYield:
    num_drafts: int
    """That were decided on: tasks and rejections."""
    num_tasks: int
    num_training: int
    num_validation: int
    num_test: int
    gates: Sequence[GateLine]
    """In the order in which they are asked."""
    documents: Sequence[DocumentLine]
    """Those with most drafts first."""
    styles: Sequence[tuple[str, int]]
    """Name, tasks; the commonest first."""
    difficulties: Sequence[tuple[str, int]]
    rates: Sequence[RatedTasks]
    """Empty where no pass rate is known."""


def set_yield(
    tasks: "Sequence[SetLine]",
    rejected: "Sequence[SetLine]",
    *,
    card: Mapping[str, Any],
) -> SetYield:
    sides = Counter(task.side for task in tasks)
    return SetYield(
        num_drafts=len(tasks) + len(rejected),
        num_tasks=len(tasks),
        num_training=sides["train"],
        num_validation=sides["validation"],
        num_test=sides["test"],
        gates=_gates(len(tasks), rejected, card),
        documents=_documents(tasks, rejected),
        styles=Counter(task.style for task in tasks if task.style).most_common(),
        difficulties=_difficulties(tasks),
        rates=_rates(tasks),
    )


def _gates(
    num_tasks: int, rejected: "Iterable[SetLine]", card: Mapping[str, Any]
) -> list[GateLine]:
    counts = Counter(line.gate for line in rejected if line.gate is not None)
    told = _told_gates(card)
    order = [*told, *(gate for gate in _ORDER if gate not in told)]
    known = [gate for gate in order if gate in counts or gate in told]
    lines = []
    left = num_tasks + sum(counts.values())
    for gate in [*known, *sorted(counts.keys() - set(known))]:
        lines.append(
            GateLine(
                gate=gate,
                num_seen=left,
                num_rejected=counts[gate],
                num_tokens=told.get(gate),
            )
        )
        left -= counts[gate]
    return lines


def _told_gates(card: Mapping[str, Any]) -> Mapping[str, int | None]:
    """The gates in the order in which the card has them, with the tokens that each took."""
    told = card.get("by_gate")
    gates = {}
    for entry in told if isinstance(told, list) else []:
        if isinstance(entry, Mapping) and isinstance(name := entry.get("gate"), str):
            gates[name] = _tokens(entry.get("usage"))
    return gates


def _tokens(usage: Any) -> int | None:
    if not isinstance(usage, Mapping):
        return None
    parts = [count_in(usage.get(name)) for name in ("num_input_tokens", "num_output_tokens")]
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _documents(tasks: "Sequence[SetLine]", rejected: "Sequence[SetLine]") -> list[DocumentLine]:
    kept = Counter(task.document for task in tasks)
    drafts = kept + Counter(line.document for line in rejected)
    sides = {(line.document, line.side) for line in (*tasks, *rejected) if line.side}
    by_document: dict[str, list[str]] = {}
    for document, side in sorted(sides):
        by_document.setdefault(document, []).append(side)
    return [
        DocumentLine(
            document=document,
            num_drafts=drafts[document],
            num_tasks=kept[document],
            sides=tuple(by_document.get(document, ())),
        )
        for document in sorted(drafts, key=lambda name: (-drafts[name], name))
    ]


def _difficulties(tasks: "Sequence[SetLine]") -> list[tuple[str, int]]:
    counts = Counter(task.difficulty for task in tasks if task.difficulty)
    known = [name for name in ("easy", "medium", "hard") if name in counts]
    return [(name, counts[name]) for name in (*known, *sorted(counts.keys() - set(known)))]


def _rates(tasks: "Sequence[SetLine]") -> list[RatedTasks]:
    """By tenths, each told by the rates that are in it."""
    counts = Counter(task.pass_rate for task in tasks if task.pass_rate is not None)
    tenths: dict[int, list[float]] = {}
    for rate in sorted(counts):
        tenths.setdefault(min(int(rate * 10), 9), []).append(rate)
    return [
        RatedTasks(low=rates[0], high=rates[-1], num_tasks=sum(counts[rate] for rate in rates))
        for rates in tenths.values()
    ]
