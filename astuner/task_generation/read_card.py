"""What the card of a set says of how it came out."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from astuner.errors import UnreadableError
from astuner.llm import LlmUsage
from astuner.task_generation.generated_set import CARD_FILE
from astuner.task_generation.outcome import GateYield, GenerationOutcome


class _CardOfGate(BaseModel):
    model_config = ConfigDict(extra="ignore")

    gate: str
    num_seen: int
    num_rejected: int
    usage: LlmUsage


class _CardOfDocument(BaseModel):
    model_config = ConfigDict(extra="ignore")

    num_drafts: int
    num_tasks: int


class _OutcomeCard(BaseModel):
    model_config = ConfigDict(extra="ignore")

    num_wanted: int
    num_training: int
    num_validation: int
    num_test: int = 0
    """Cards of earlier releases tell of none."""
    num_drafts: int
    num_failed: int
    by_gate: list[_CardOfGate]
    by_document: dict[str, _CardOfDocument]
    usage: LlmUsage
    cost: float | None
    ended_by: str | None


def read_outcome(folder: Path) -> GenerationOutcome:
    """Raises UnreadableError for a card that was changed by hand."""
    path = folder / CARD_FILE
    try:
        card = _OutcomeCard.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UnreadableError(
            f"{path}: it is no card of a generated set: {error}; delete it, and the set is "
            "written anew from its ledger"
        ) from error
    return GenerationOutcome(
        folder=folder,
        num_wanted=card.num_wanted,
        num_training=card.num_training,
        num_validation=card.num_validation,
        num_test=card.num_test,
        num_drafts=card.num_drafts,
        num_failed=card.num_failed,
        by_gate=[
            GateYield(
                gate=gate.gate,
                num_seen=gate.num_seen,
                num_rejected=gate.num_rejected,
                usage=gate.usage,
            )
            for gate in card.by_gate
        ],
        by_document={
            name: (document.num_drafts, document.num_tasks)
            for name, document in card.by_document.items()
        },
        usage=card.usage,
        cost=card.cost,
        ended_by=card.ended_by,
    )
