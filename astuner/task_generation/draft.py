"""What is asked of the model that writes tasks, and what it answered."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from astuner.task_generation.documents.document import DocumentChunk
from astuner.types import Task

Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "test")
Difficulty = Literal["easy", "medium", "hard"]
DIFFICULTIES: tuple[Difficulty, ...] = ("easy", "medium", "hard")


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftStyle:
    """A kind of question."""

    name: str
    instructions: str
    """Told to the model that writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftTurn:
    """One draft to be asked for. All that it depends on stands here, so it can be asked again."""

    number: int
    """In the order of the plan, from 0."""
    side: Side
    """Where its task goes."""
    chunk: DocumentChunk | None
    """None: from examples alone."""
    examples: tuple[Task, ...]
    """Seeds of the same side that the model is shown; empty: none."""
    style: DraftStyle
    difficulty: Difficulty
    language: str | None
    """Name of the language to write in; None: that of the chunk, or of the examples."""
    round: int
    """How often the chunk, or the seeds, had their turn before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDraft:
    """What the model wrote."""

    question: str
    answer: str
    evidence: str
    """Quoted from the chunk; empty where there is none."""
    style: str
    """As the model says; else the name of what was asked for."""
    difficulty: Difficulty
    """As it was meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftCandidate:
    """A draft on its way through the gates."""

    turn: DraftTurn
    draft: TaskDraft
    notes: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that gates found out, such as the agreement; they go into the task's metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRejection:
    """Why a draft does not become a task."""

    gate: str
    """Name of the gate."""
    reason: str
    """One sentence about this draft."""


class TaskDrafter(Protocol):
    """Asks the model that writes tasks."""

    async def draft(self, turn: DraftTurn) -> TaskDraft | GateRejection:
        """What it wrote; a rejection by the gate `form` where no draft can be read from it.

        Raises the errors of `LanguageModel.ask`, but for an answer that does not fit.
        """
        ...
