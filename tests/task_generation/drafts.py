"""Drafts for tests, in one line."""

from astuner.task_generation.documents.document import DocumentChunk
from astuner.task_generation.draft import DraftCandidate, DraftStyle, DraftTurn, TaskDraft

FACT = DraftStyle(name="fact", instructions="Ask for one fact.")


def make_candidate(
    question: str,
    answer: str = "",
    *,
    evidence: str = "",
    text: str | None = None,
    number: int = 0,
) -> DraftCandidate:
    """`text` is that of its chunk; None: it was made from examples."""
    chunk = None if text is None else DocumentChunk(document="guide.md", number=0, text=text)
    turn = DraftTurn(
        number=number,
        side="train",
        chunk=chunk,
        examples=(),
        style=FACT,
        difficulty="easy",
        language=None,
        round=0,
    )
    draft = TaskDraft(
        question=question, answer=answer, evidence=evidence, style="fact", difficulty="easy"
    )
    return DraftCandidate(turn=turn, draft=draft)
