"""What is asked of a generation: the parts that do the work, and how many tasks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from astuner.task_generation.documents.document import DocumentChunk, UnreadDocument
from astuner.task_generation.draft import DraftStyle, TaskDrafter
from astuner.task_generation.gates.gate import DraftGate, DuplicateFilter
from astuner.task_generation.pass_rate import PassRateMeter
from astuner.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParts:
    """What a set is made from and by."""

    chunks: Sequence[DocumentChunk]
    """Of all documents, by document and number."""
    unread: Sequence[UnreadDocument]
    seeds: Sequence[Task]
    styles: Sequence[DraftStyle]
    """In turns."""
    drafter: TaskDrafter
    gates: Sequence[DraftGate]
    """In the order in which they are asked."""
    redact: Callable[[str], str]
    """A text of a draft that is no task, or about it, as it may be written down."""
    duplicates: DuplicateFilter
    meter: PassRateMeter | None
    """None: pass rates are not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """How many, from which order, and where it ends. As the settings of the same names."""

    task_num: int
    validation_fraction: float
    test_fraction: float
    max_drafts_per_task: float
    max_failed_fraction: float
    num_workers: int
    num_examples: int
    seed: int
    language: str | None
    is_repeatable: bool
    """Whether the model answers an equal question equally: then no question is asked twice."""
    pass_rate_above: float
    pass_rate_below: float
    max_calls: int | None
    max_tokens: int | None
    max_cost: float | None
    input_token_price: float | None
    """Of one token; None is not known."""
    output_token_price: float | None
