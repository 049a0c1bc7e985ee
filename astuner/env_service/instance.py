"""What an episode needs of an environment, whoever serves it. Types only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from astuner.types import Task, Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentStep:
    """What came of one action."""

    messages: Sequence[Mapping[str, Any]]
    """What the agent sees, as chat messages {"role", "content"}."""
    reward: float | None
    """Of this step alone; None where the server gives none."""
    terminated: bool
    truncated: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)


class Instance(Protocol):
    """One instance, made for one episode. Every method raises EnvServiceError where the server or
    the environment failed, and nothing else."""

    instance_id: str
    messages: Sequence[Mapping[str, Any]]
    """What the agent sees first."""
    tools: Sequence[Tool]
    info: Mapping[str, Any]

    async def step(self, action: Mapping[str, Any]) -> EnvironmentStep:
        """Act once. `action` is an assistant's message: {"role", "content", "tool_calls"?}.

        Never acts twice, whatever the network does.
        """
        ...

    async def evaluate(self, *, sparse: bool = False) -> float:
        """What the episode is worth so far."""
        ...

    async def release(self) -> None:
        """Let go of it; twice is harmless."""
        ...


class Environments(Protocol):
    """Where the instances of one task source come from. Used by many episodes at once."""

    name: str
    """In messages, for example "environment appworld at http://127.0.0.1:8080"."""

    async def create(self, task: Task, *, episode_id: str, seed: int) -> Instance:
        """Make the instance in which `task` is tried. Waits while the server is full: the caller
        bounds that. Raises EnvServiceError where it cannot be had."""
        ...

    async def close(self) -> None:
        """Close connections at the end of the run."""
        ...
