"""What became of each attempt at each task: all that statistics need of episodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from astuner.evaluation.facts import EvaluationFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOutcome:
    """Of one episode. A failed one has no reward and counts as nothing else."""

    episode_id: str
    attempt: int
    reward: float | None
    """None: it failed."""
    is_success: bool | None
    """None: it failed."""
    failure: str | None
    """Kind of the failure; None: it was judged."""
    num_sampled_tokens: int
    num_prompt_tokens: int
    """Of all its calls."""
    num_calls: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutcomes:
    """Of all attempts at one task."""

    task_id: str
    digest: str
    """Of the whole task, so that another one of the same id is told apart."""
    tags: Mapping[str, str]
    """Its source, and every field of its metadata whose value is short and plain, as text."""
    attempts: Sequence[AttemptOutcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedModel:
    """One evaluation, read from its run directory."""

    name: str
    """For tables."""
    run_dir: str
    facts: EvaluationFacts
    tasks: Sequence[TaskOutcomes]
