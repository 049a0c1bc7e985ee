"""A candidate as the task that a run is given."""

from typing import Any

from astuner.task_generation.draft import DraftCandidate
from astuner.types import Task


def task_of(candidate: DraftCandidate) -> Task:
    """The task, with what `generated_set` says of its metadata and all that gates noted."""
    turn, draft = candidate.turn, candidate.draft
    source: dict[str, Any] = {}
    if turn.chunk is not None:
        source = {
            "evidence": draft.evidence,
            "document": turn.chunk.document,
            "chunk": turn.chunk.number,
        }
    place = f"{turn.chunk.document}/{turn.chunk.number}" if turn.chunk else "seeds"
    return Task(
        task_id=f"{place}/{turn.number}",
        main_query=draft.question,
        metadata={
            **candidate.notes,
            "answer": draft.answer,
            **source,
            "style": draft.style,
            "difficulty": draft.difficulty,
            "turn": turn.number,
        },
    )
