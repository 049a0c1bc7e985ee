"""`Environment`: a world that agents act in, as a small class in Gymnasium's terms.

The base class is a convenience: any class with these methods is served.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from astuner.env_service.action import Action
from astuner.types import Tool

Observation = str | Sequence[Mapping[str, Any]]
"""Text, or chat messages {"role", "content"} where it matters who says it."""


class Environment(ABC):
    """One instance, for one episode; after `close` it is not used again.

    Made as `cls(**options)` with the options of the server, in a process of its own and ahead of
    its episode: it may block, compute and crash. Whatever it raises ends it. Methods are called one
    at a time, in the main thread. After Gymnasium's `Env`.
    """

    tools: ClassVar[Sequence[Tool]] = ()
    """What an agent may call, in OpenAI's format; an action then has `tool_calls`. May be set by
    `reset` on the instance, where tasks have tools of their own."""
    action_preference: ClassVar[Literal["code", "box", "text"]] = "text"
    """What of a model's message is the action, where a run does not say: the first block of code,
    what the last \\boxed{} holds, or all of it."""
    is_fork_safe: ClassVar[bool] = True
    """Whether the module may be imported once for all instances, which are forked from there. False
    where its import starts threads or opens what cannot be shared; then each one imports it."""

    @classmethod  # noqa: B027  # most have nothing to prepare
    def prepare(cls, **options: Any) -> None:
        """Do once what takes long and all instances can share, such as imports.

        Instances are forked from the process behind it, so it starts no thread.
        """

    @classmethod
    def task_ids(cls, split: str, **options: Any) -> Sequence[str]:
        """The tasks of a split, such as "train"; `options` are those of the server.

        Raises ValueError for a split that is not there.
        """
        raise ValueError(f"{cls.__name__} has no list of tasks, so none of the split {split!r}")

    @abstractmethod
    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin the task `options["task_id"]`: what the agent sees first, and what else is known.

        The same task and seed give the same episode. Called once, first. Raises LookupError, and no
        class derived from it, for a task that is not there.
        """

    @abstractmethod
    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Act: observation, reward of this step, terminated, truncated, info.

        `terminated` ends the episode by the rules of the world, `truncated` by a limit. Not called
        after either. An action that means nothing is answered by an observation that says so.
        """

    def evaluate(self, *, sparse: bool = False) -> float | None:
        """What the episode is worth so far, by convention in [0, 1]; `sparse`: only 0 or 1.

        None: the rewards of its steps are all that is known, and the server gives their sum.
        """
        del sparse
        return None

    def close(self) -> None:  # noqa: B027  # most hold nothing
        """Let go of what it holds. Not called where the process was killed."""
