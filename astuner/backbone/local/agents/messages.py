"""What the command and a process of agents tell each other: plain data that can be pickled."""

from dataclasses import dataclass, field

from astuner.backbone.worker_run import WorkerRun
from astuner.engine.protocol import Sampling
from astuner.errors import AstunerError
from astuner.llm import LlmUsage
from astuner.rollout.targets import TargetNote
from astuner.trajectory.attempt import Attempt
from astuner.types import Completion, WorkflowTask

POLICY, REFERENCE = "policy", "reference"
"""The engines that a process of agents may ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve:
    """To a process: from now on the model answers."""

    model: str
    """Its folder or name on the hub, for the tokenizer."""


@dataclass(frozen=True, slots=True)
class Begin:
    """To a process: run this attempt."""

    plan: WorkflowTask


@dataclass(frozen=True, slots=True)
class Cancel:
    """To a process: end this attempt; it still tells of its end."""

    episode_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """To a process: what an observed call has sampled since it was told last."""

    call: int
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAnswer:
    """To a process: what became of a call."""

    call: int
    completion: Completion | AstunerError


@dataclass(frozen=True, slots=True)
class End:
    """To a process: no further attempt comes; leave in order."""


@dataclass(frozen=True, slots=True)
class Ready:
    """From a process: it takes attempts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskEngine:
    """From a process: an agent calls its model."""

    call: int
    """Counts the calls of the process."""
    engine: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    caller: str
    index: int
    is_observed: bool


@dataclass(frozen=True, slots=True)
class Enough:
    """From a process: an observed call wants no more tokens."""

    call: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """From a process: nobody waits for this call any more."""

    call: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """From a process: an attempt has ended."""

    episode_id: str
    result: Attempt | AstunerError | None
    """An error ends the run; None: it was cancelled, by the command or by code of agents."""
    targets: tuple[TargetNote, ...] = ()
    usage: LlmUsage = field(default_factory=LlmUsage)
    """What the process asked other models since it told of it last."""


@dataclass(frozen=True, slots=True)
class Broken:
    """From a process: it cannot go on, nor can the run."""

    error: AstunerError


ToProcess = WorkerRun | Serve | Begin | Cancel | Sampled | EngineAnswer | End
FromProcess = Ready | AskEngine | Enough | GiveUp | Ended | Broken
