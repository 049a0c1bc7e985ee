"""Sees to it that the targets to train are those of agents that exist.

A tag with a typing error would train nothing, for hours. Which tags there are is known once
episodes have run, so the first batch decides, and already a few of its episodes when nothing in
them can be trained.
"""

from collections.abc import Collection

from astuner.errors import ConfigError
from astuner.trajectory.recorder import Agent

TargetNote = tuple[tuple[str, ...] | None, tuple[Agent, ...]]
"""The targets that an episode was to train, None for all, and the agents that it had."""
_ENOUGH_EPISODES = 8
"""Without any agent to train, to stop before the batch is over. Some games leave a role out."""


class TargetWatch:
    """Compares targets with the agents of the first batch. Owned by the pool's settings."""

    def __init__(self) -> None:
        self._missing: set[str] = set()
        self._seen: set[str] = set()
        self._num_episodes = 0
        self._is_over = False

    def note(self, targets: Collection[str] | None, agents: Collection[Agent]) -> None:
        """Take note of an episode that did not fail.

        Raises ConfigError when there are no targets, or no agent of the first few had one.
        """
        if targets is None or self._is_over:
            return
        check_not_empty(targets, "the workflow", agents)
        self._seen |= {tag for _, tag in agents}
        self._missing = (self._missing | set(targets)) - self._seen
        self._num_episodes += bool(agents)
        is_none_seen = not self._seen & set(targets)
        if is_none_seen and self._num_episodes == _ENOUGH_EPISODES:
            raise ConfigError(self._message(targets))

    def finish_batch(self) -> None:
        """Raises ConfigError when no episode of the first batch had one of the targets."""
        if self._seen and not self._is_over:
            self._is_over = True
            if self._missing:
                raise ConfigError(self._message(self._missing))

    def _message(self, targets: Collection[str]) -> str:
        return (
            f"trainable_targets: no agent has the tag {' or '.join(map(repr, sorted(targets)))}; "
            f"the tags seen are {', '.join(sorted(self._seen))}. Correct "
            "rollout.trainable_targets, or the workflow's own trainable_targets"
        )


class TargetNotes(TargetWatch):
    """In a process that runs only some of a batch's episodes: takes notes for who sees them all."""

    def __init__(self) -> None:
        super().__init__()
        self._notes: list[TargetNote] = []

    def note(self, targets: Collection[str] | None, agents: Collection[Agent]) -> None:
        self._notes.append((None if targets is None else tuple(targets), tuple(agents)))

    def take(self) -> list[TargetNote]:
        """Those since the last call."""
        notes, self._notes = self._notes, []
        return notes


def check_not_empty(
    targets: Collection[str] | None, where: str, agents: Collection[Agent] = ()
) -> None:
    """Raises ConfigError for targets of which there are none."""
    if targets is not None and not targets:
        tags = ", ".join(sorted({tag for _, tag in agents}))
        seen = f" (the tags seen are {tags})" if tags else ""
        raise ConfigError(
            f"{where}: trainable_targets is empty, so nothing would be trained; name the tags to "
            f"train{seen}, or leave it at None to train every agent"
        )
