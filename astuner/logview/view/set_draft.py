"""A question with its answer and where that stands, as a task or as a draft that became none."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from astuner.logview.view.said import readable
from astuner.logview.view.verdict import ShownFact

_SAID_APART = frozenset(
    (
        *("question", "main_query", "task_id", "answer", "evidence", "evidence_span", "reason"),
        *("gate", "side", "document", "chunk", "style", "difficulty", "pass_rate", "metadata"),
        *("kind", "identity", "state", "draft", "notes", "usage"),
    )
)
_TURN = re.compile(r"\bturn (\d{1,15})\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownDraft:
    """Texts that are not there are empty."""

    question: str
    answer: str
    evidence: str
    span: Any
    """Where in its chunk that begins and ends, as far as it tells."""
    reason: str
    """Why a gate rejected it."""
    facts: Sequence[ShownFact]
    """All else that is known of it, such as what gates noted."""


def read_draft(content: Mapping[str, Any]) -> ShownDraft:
    """Of a line of the files of tasks, of that of rejections, or of the ledger."""
    known = dict(content)
    for part in ("metadata", "notes", "draft"):
        inner = content.get(part)
        known |= inner if isinstance(inner, dict) else {}
    return ShownDraft(
        question=_text(known.get("main_query", known.get("question"))),
        answer=_text(known.get("answer")),
        evidence=_text(known.get("evidence")),
        span=known.get("evidence_span"),
        reason=_text(known.get("reason")),
        facts=[
            ShownFact(name=name.replace("_", " "), text=readable(value))
            for name, value in known.items()
            if name not in _SAID_APART and value not in (None, "", [], {})
        ],
    )


def turn_in(reason: str) -> int | None:
    """The draft that a rejection names, as in "it asks in the same words as turn 12, …"."""
    # Only the first: behind it stands that draft's question, which may hold anything.
    match = _TURN.search(reason)
    return int(match[1]) if match else None


def _text(value: Any) -> str:
    return "" if value is None else readable(value)
