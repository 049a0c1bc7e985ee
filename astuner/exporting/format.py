"""What an export is, and what a format of one has to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from astuner.errors import AstunerError
from astuner.types import Message


class ExportRefused(AstunerError):
    """What was written does not compute what was trained; nothing of it is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportProbe:
    """A conversation, and what the tuned model makes of it: what an export must make of it too."""

    messages: Sequence[Message]
    prompt_text: str
    """By the chat template, with the opening of the reply."""
    prompt_ids: Sequence[int]
    greedy_ids: Sequence[int]
    """The reply without its end, each the most likely token."""
    logprobs: Sequence[float]
    """Natural log, of each of the greedy ids, at temperature 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSource:
    """A checkpoint, loaded, with what it does."""

    folder: Path
    model: Any
    """The tuned model as it is trained: a transformers model, with its adapter where it has one."""
    tokenizer: Any
    base: str | None
    """Folder or hub name of the model that was tuned; None where nothing tells."""
    probes: Sequence[ExportProbe]
    base_probes: Sequence[ExportProbe] | None
    """The same conversations, by the base; None where it is not at hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportAgreement:
    """How far an export is from what was trained."""

    runtime: str
    """Name and version of the program that loaded it."""
    num_probes: int
    num_tokens: int
    num_equal_tokens: int
    """Of the greedy ids, up to the first that differs in each probe."""
    mean_gap: float
    """Nats a token, absolute, between log-probabilities of the trained greedy ids."""
    max_gap: float
    first_difference: str | None
    """Where and how the first probe parts; None where all are equal."""


class ExportFormat(Protocol):
    """Writes one kind of export into a new folder, and loads it again."""

    name: str
    """As `--to` names it."""

    def write(self, source: ExportSource, folder: Path) -> None:
        """Fill the empty `folder`. Raises ExportRefused or ConfigError for what it cannot hold."""
        ...

    def check(self, source: ExportSource, folder: Path) -> ExportAgreement:
        """Load it in its own runtime and compare. Raises ExportRefused where they part by more
        than rounding, ConfigError where the runtime is not installed."""
        ...
