"""What a generation tells: while it is under way, and at its end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from astuner.llm import LlmUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class GateYield:
    """What one gate did, in the order of the gates."""

    gate: str
    num_seen: int
    num_rejected: int
    usage: LlmUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationProgress:
    """So far, earlier starts included."""

    num_wanted: int
    num_accepted: int
    num_rejected: int
    num_failed: int
    usage: LlmUsage
    cost: float | None
    is_measuring: bool
    """Pass rates, by rollouts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOutcome:
    """A set, whole or as far as it came."""

    folder: Path
    num_wanted: int
    num_training: int
    num_validation: int
    num_test: int
    num_drafts: int
    num_failed: int
    by_gate: Sequence[GateYield]
    by_document: Mapping[str, tuple[int, int]]
    """Name of a document -> drafts that were made from it, tasks that are left."""
    usage: LlmUsage
    cost: float | None
    ended_by: str | None
    """Why there are fewer tasks than wanted, in words, with the gate that took most; None: there
    are as many."""

    @property
    def num_tasks(self) -> int:
        return self.num_training + self.num_validation + self.num_test
