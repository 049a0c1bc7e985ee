"""What became of each attempt at each task: all that statistics need of episodes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

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
    """By the model that is evaluated; so the other counts."""
    num_prompt_tokens: int
    """Of all its calls, each with the whole conversation before it."""
    num_calls: int
    seconds: float
    format_errors: Sequence[str] = ()
    """What was wrong with the form of its replies, such as "cut off"; empty where nothing was."""

    def __post_init__(self) -> None:
        is_sound = (
            isinstance(self.episode_id, str)
            and type(self.attempt) is int
            and isinstance(self.is_success, bool | None)
            and (self.reward is None or math.isfinite(self.reward))
            and math.isfinite(self.seconds)
        )
        if not is_sound:
            raise TypeError("a value is of another kind than records have")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutcomes:
    """Of all attempts at one task."""

    task_id: str
    digest: str
    """Of the whole task, so that another one of the same id is told apart."""
    tags: Mapping[str, str]
    """Its source, and every field of its metadata whose value is short and plain, as text."""
    attempts: Sequence[AttemptOutcome]

    @property
    def judged(self) -> tuple[AttemptOutcome, ...]:
        """Attempts that did not fail."""
        return tuple(attempt for attempt in self.attempts if attempt.reward is not None)

    @property
    def num_successes(self) -> int:
        return sum(attempt.is_success is True for attempt in self.attempts)

    @property
    def success_share(self) -> float:
        """Of the judged attempts, of which there must be one."""
        return self.num_successes / len(self.judged)

    @property
    def mean_reward(self) -> float:
        """Over the judged attempts, of which there must be one."""
        return fmean(attempt.reward for attempt in self.attempts if attempt.reward is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedModel:
    """One evaluation, read from its run directory."""

    name: str
    """For tables."""
    run_dir: str
    facts: EvaluationFacts
    tasks: Sequence[TaskOutcomes]
    step: int | None = None
    """Behind which step of a training run it was validated; None for an evaluation."""
