"""An episode as data: what was asked, what happened, what it was worth, or why it failed."""

from dataclasses import dataclass
from typing import Any

from astuner.trajectory.merge import Sequence
from astuner.trajectory.recorder import Call
from astuner.types import Task, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an episode has no reward."""

    kind: str
    """Name of the error class, for example WorkflowError."""
    message: str
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One attempt at a task. Either `verdict` or `failure` is set, never both."""

    episode_id: str
    task: Task
    step: int
    attempt: int
    is_validation: bool
    calls: tuple[Call, ...]
    sequences: tuple[Sequence, ...]
    verdict: Verdict | None
    failure: Failure | None
    metadata: dict[str, Any]
    """What the workflow returned as metadata; empty when it failed before."""
    context_overflow: bool
    madness: str | None
    seconds: float
    """Wall time from start to verdict."""

    def __post_init__(self) -> None:
        if (self.verdict is None) == (self.failure is None):
            raise ValueError("an episode has either a verdict or a failure")

    @property
    def num_sampled_tokens(self) -> int:
        return sum(len(call.completion.ids) for call in self.calls)

    @property
    def engine_seconds(self) -> float:
        """Wall time spent in model calls, summed over calls."""
        return sum(call.seconds for call in self.calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The episodes of one task in one step."""

    task: Task
    episodes: tuple[Episode, ...]

    @property
    def judged(self) -> tuple[Episode, ...]:
        """Episodes with a verdict; the failed ones are left out."""
        return tuple(episode for episode in self.episodes if episode.verdict is not None)
