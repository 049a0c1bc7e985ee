"""What the processes of a clustered run tell each other: plain data that can be pickled."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from astuner.backbone.cluster.rows import RowKey
from astuner.backbone.validation import Validation
from astuner.errors import AstunerError
from astuner.trajectory.samples import AdvantageRun, mean_advantage

Metrics = Mapping[str, float | None]
SAVING = "saving"
"""The phase in which an engine writes its state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSample:
    """A sample to train on."""

    key: RowKey
    advantages: tuple[AdvantageRun, ...]
    """Of the row's trained tokens, in order."""
    weight: float
    """Share of the sample in its unit: 1, or one part of its episode's sequences."""

    @property
    def advantage(self) -> float:
        """The mean over its trained tokens."""
        return mean_advantage(self.advantages)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """What a step trains on."""

    samples: tuple[PlannedSample, ...]
    num_missing: int
    """Groups that are to be rolled out further before the step trains; then it is planned again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Tokens and what the policy thinks of them at the time of saving."""

    ids: tuple[int, ...]
    """[T]"""
    first: int
    """Index of the first token that has a log-probability here."""
    logprobs: tuple[float, ...]
    """[T - first] natural log at `temperature`."""
    temperature: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """A checkpoint of the engine's own, with what proves an export of it."""

    step: int
    weights: str
    """Folder of the weights in Hugging Face format."""
    probes: tuple[Probe, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What the run is busy with."""

    name: str
    step: int | None
    silent_seconds: float
    """Since it began, or since the last sign of life."""
    done: int = 0
    total: int | None = None
    """Episodes, in phases that have them."""


@dataclass(slots=True, kw_only=True)
class News:
    """What happened since the news were read last."""

    phase: Phase
    begun: list[tuple[str, int | None]] = field(default_factory=list)
    """Names and steps of the phases that began."""
    episodes: list[tuple[int, bool, bytes]] = field(default_factory=list)
    """Step, whether of a validation, and the record as a JSON line."""
    steps: list[dict[str, float | None]] = field(default_factory=list)
    """Metrics of finished steps."""
    trained: list[tuple[int, tuple[bytes, ...]]] = field(default_factory=list)
    """Of finished steps, with what was trained in each as JSON lines."""
    failures: dict[int, str] = field(default_factory=dict)
    """The commonest failure of each planned step that has any, by step."""
    validations: list[Validation] = field(default_factory=list)
    saved: list[SavedState] = field(default_factory=list)
    failure: AstunerError | None = None
    """Why the run has to end."""
