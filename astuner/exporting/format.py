"""What an export is, and what a format of one has to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from astuner.errors import AstunerError
from astuner.types import Message, Tool


class ExportRefused(AstunerError):
    """What was written does not compute what was trained; nothing of it is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerUp:
    """Another likely token in the place of a greedy one."""

    id: int
    margin: float
    """Nats by which the greedy token is more likely; near 0, rounding decides between the two, and
    may have decided otherwise in another pass of the same model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportProbe:
    """A conversation, and what the tuned model makes of it: what an export must make of it too."""

    name: str
    """What it tries, as in "two turns"."""
    messages: Sequence[Message]
    tools: Sequence[Tool]
    """Offered to the model; empty for most."""
    prompt_text: str
    """By the chat template, with the opening of the reply."""
    prompt_ids: Sequence[int]
    greedy_ids: Sequence[int]
    """The reply without its end, each the most likely token."""
    logprobs: Sequence[float]
    """Natural log, of each of the greedy ids, at temperature 1."""
    runners_up: Sequence[Sequence[RunnerUp]]
    """In the place of each of the greedy ids, and of the end behind them where it is known: the few
    next likely, the nearest first."""
    end_id: int | None
    """The end token that is the most likely behind them; None where the reply was cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReading:
    """What another model, or another runtime, makes of the conversation of a probe."""

    prompt_ids: Sequence[int]
    """That it makes of the messages by its own template and tokenizer."""
    greedy_ids: Sequence[int]
    """The most likely tokens, without the end. Where the runtime is given the probe's own ids, the
    most likely in each of their places; only those up to the first other one are compared."""
    logprobs: Sequence[float]
    """Of the probe's greedy ids, natural log; up to the first other one where a runtime tells of no
    more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSource:
    """A checkpoint, loaded, with what it does."""

    folder: Path
    model: Any
    """The tuned model as it is trained: a transformers model, with its adapter where it has one.
    None as soon as an export is written, so that its memory is free where that is loaded."""
    tokenizer: Any
    """Its chat template gives by itself the prompts that the run made with
    rollout.chat_template_kwargs."""
    dtype: str
    """The model computes in it, such as "bfloat16"."""
    device: str
    """Where it computes, and what is written is computed too."""
    stop_ids: Sequence[int]
    """All tokens that end a reply, in order."""
    base: str | None
    """Folder or hub name of the model that was tuned; None where nothing tells."""
    base_at_hand: str | None
    """Where it can be loaded from; None where it is gone."""
    probes: Sequence[ExportProbe]
    base_readings: Sequence[ProbeReading] | None
    """What an adapter's base makes of them; None of a whole model's, which is read later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportAgreement:
    """How far an export is from what was trained."""

    runtime: str
    """Name and version of the program that loaded it."""
    num_probes: int
    num_tokens: int
    num_equal_tokens: int
    """Of the greedy ids, up to the first that differs in each probe; of a quantized export, in all
    places of the trained replies."""
    num_ties: int
    """Probes whose first difference is between two tokens that rounding cannot tell apart."""
    mean_gap: float
    """Nats a token, absolute, between log-probabilities of the trained greedy ids."""
    max_gap: float
    first_difference: str | None
    """Where and how the first probe parts that is no tie; None where all are equal."""
    perplexity_ratio: float | None = None
    """Of the trained replies, by the export over by the trained model; 1 is equal. None where only
    rounding parts the two."""


class ExportFormat(Protocol):
    """Writes one kind of export into a new folder, and loads it again."""

    @property
    def name(self) -> str:
        """As `--to` names it."""
        ...

    @property
    def is_quantized(self) -> bool:
        """Whether it is further from what was trained than rounding, and says how far."""
        ...

    def num_bytes(self, source: ExportSource) -> int:
        """About what `write` writes."""
        ...

    def write(self, source: ExportSource, folder: Path) -> None:
        """Fill the empty `folder`; may change the weights of `source.model`, which nobody needs
        behind it. Raises ExportRefused or ConfigError for what it cannot hold."""
        ...

    def check(self, source: ExportSource, folder: Path) -> ExportAgreement:
        """Load it in its own runtime and compare. Raises ExportRefused where they part by more
        than rounding, ConfigError where the runtime is not installed."""
        ...

    def usage(self, source: ExportSource, folder: Path) -> str:
        """How to use it, as Markdown for the model card; `folder` is where it will lie, as the
        user named it."""
        ...
