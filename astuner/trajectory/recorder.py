"""The calls of one episode, exactly as the engine saw and answered them.

Owns the order of calls and the state that ends an episode early. Does not render, sample or judge.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from astuner.errors import EpisodeError
from astuner.types import Completion

Message = dict[str, Any]
"""A normalised chat message, see `astuner.inference.messages`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One model request of an episode and its answer."""

    agent_name: str
    target_tag: str
    messages: tuple[Message, ...]
    """What the agent sent, normalised."""
    tools: tuple[dict[str, Any], ...]
    """Function schemas offered to the model."""
    prompt_ids: tuple[int, ...]
    """Exactly what the engine was given; empty when a remote server rendered the prompt."""
    completion: Completion
    reply: Message
    """What the agent got back, normalised."""
    temperature: float
    extends: int | None
    """Index of the earlier call whose tokens this prompt continues; None starts a new sequence."""
    break_reason: str | None
    """Why the prompt could not continue the agent's last call; None when it did or was first."""
    started_seconds: float
    """Since the episode's start."""
    seconds: float
    """Wall time spent waiting for the engine."""
    format_check: Literal["validated", "repaired", "invalid"] | None = None
    """Whether the reply has the format that was demanded; None where none was."""

    @property
    def ids(self) -> tuple[int, ...]:
        """Prompt and completion, as one run of tokens."""
        return self.prompt_ids + self.completion.ids


@dataclass(slots=True)
class Recorder:
    """Grows with the calls of one episode. Owned by the episode; written by its chat."""

    calls: list[Call] = field(default_factory=list)
    context_overflow: bool = False
    """True once a call had no room left in the context. Workflows read it to stop."""
    madness: str | None = None
    """The check that a reply failed, with its reason."""
    ended: str | None = None
    """Why no further call is answered."""

    def check_open(self) -> None:
        """Raise EpisodeError when the episode has ended: its agent must not go on."""
        if self.ended is not None:
            raise EpisodeError(f"model call refused: the episode has ended ({self.ended})")

    def add(self, call: Call) -> None:
        self.check_open()
        self.calls.append(call)
