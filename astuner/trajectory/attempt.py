"""An attempt as data: one run of the workflow on a task, not yet judged.

What a judge needs to give its verdict, and what a verdict is later held against, stands here and
nowhere else: an attempt that was read back from disk is judged like one that has just ended.
"""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from astuner.trajectory.merge import Sequence
from astuner.trajectory.recorder import Agent, Call
from astuner.trajectory.refused import RefusedCall
from astuner.types import Task, WorkflowOutput, WorkflowTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an attempt came to nothing, or an episode has no reward."""

    kind: str
    """Name of the error class, for example WorkflowError."""
    message: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> Self:
        return cls(
            kind=type(error).__name__,
            message=str(error),
            traceback="".join(traceback.format_exception(error)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One run of a workflow. It ended with an output, a failure or madness."""

    episode_id: str
    task: Task
    step: int
    attempt: int
    """Its index in the group; counts from 0."""
    is_validation: bool
    calls: tuple[Call, ...]
    sequences: tuple[Sequence, ...]
    agents: Mapping[Agent, bool]
    """Every agent that was given a model or made a call, and whether it is trained."""
    output: WorkflowOutput | None
    """What the workflow returned; None where it did not."""
    failure: Failure | None
    overflowed: frozenset[Agent]
    """Agents that ran out of room."""
    madness: str | None
    """The check that a reply failed, with its reason. It decides, whatever else came of it."""
    seconds: float
    """Wall time from start to end; of an episode, with its judging."""
    refused_calls: Mapping[RefusedCall, int] = field(default_factory=dict)
    """Calls that the gateway refused or answered with nothing, and how often: the first kinds."""
    num_refused_calls: int = 0
    """Of all kinds."""
    num_empty_replies: int = 0
    """Among these, those that were answered without room for a single token."""
    encoded_calls: bytes | None = field(default=None, repr=False, compare=False)
    """Calls and sequences as `record.calls_to_record` has them, as the inside of a JSON object,
    where another process ran the attempt and has made that already."""

    def __post_init__(self) -> None:
        if self.output is not None and self.failure is not None:
            raise ValueError("an attempt that failed has no output")
        if self.output is None and self.failure is None and self.madness is None:
            raise ValueError("an attempt ends with an output, a failure or madness")

    @property
    def workflow_task(self) -> WorkflowTask:
        """As a judge gets it, who may change its row; the environment it ran in is gone."""
        return WorkflowTask(
            task=self.task.model_copy(deep=True),
            episode_id=self.episode_id,
            step=self.step,
            attempt=self.attempt,
            is_validation=self.is_validation,
        )

    @property
    def metadata(self) -> dict[str, Any]:
        """What the workflow returned as metadata; empty where it returned nothing."""
        return {} if self.output is None else self.output.metadata

    @property
    def context_overflow(self) -> bool:
        return bool(self.overflowed)

    @property
    def num_sampled_tokens(self) -> int:
        """By the agents that are trained."""
        return sum(call.num_sampled_tokens for call in self.calls if call.is_trained)

    @property
    def engine_seconds(self) -> float:
        """Wall time spent in model calls, summed over calls."""
        return sum(call.seconds for call in self.calls)
