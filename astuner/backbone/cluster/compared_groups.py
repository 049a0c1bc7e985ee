"""Attempts that wait to be compared with the others of their group, wherever those run.

Owns when a group is whole, that each attempt counts once, and how many groups are compared at a
time. What a verdict leads to is the hub's.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from astuner.trajectory.attempt import Attempt

GroupKey = tuple[int, bool, str]
"""The step of a group, whether it is of a validation, and its name."""
Answers = Mapping[int, bytes]
"""What comes of the compared attempts of a group, by attempt: its episode, as one JSON line."""


@dataclass(slots=True)
class _AwaitedGroup:
    """A group of which attempts still run, or are compared."""

    ended: set[int] = field(default_factory=set)
    to_compare: dict[int, Attempt] = field(default_factory=dict)
    is_whole: asyncio.Event = field(default_factory=asyncio.Event)
    comparing: asyncio.Task[Answers] | None = None
    """Once it is whole. Belongs to no caller, so that none takes it along when it is cancelled."""

    async def answer_for(self, attempt: int) -> bytes:
        await self.is_whole.wait()
        assert self.comparing is not None
        return (await asyncio.shield(self.comparing))[attempt]


class ComparedGroups:
    """The groups of which attempts still run. Runs in one event loop."""

    def __init__(
        self,
        compare: Callable[[str, Sequence[Attempt]], Awaitable[Answers]],
        *,
        max_parallel: int,
    ) -> None:
        """`compare` gets the name of a group and the attempts that wait in it, once it is whole,
        for `max_parallel` groups at a time. What it raises is raised to all who wait."""
        self._compare = compare
        self._comparing = asyncio.Semaphore(max_parallel)
        self._awaited: defaultdict[GroupKey, _AwaitedGroup] = defaultdict(_AwaitedGroup)

    async def awaited(self, key: GroupKey, attempt: Attempt) -> bytes | None:
        """What comes of an attempt that waits here already; None where it does not."""
        group = self._awaited.get(key)
        if group is None or attempt.attempt not in group.to_compare:
            return None
        return await group.answer_for(attempt.attempt)

    async def compare(self, key: GroupKey, attempt: Attempt, *, size: int) -> bytes:
        """What comes of an attempt that ended, as one of `size` in its group."""
        group = self._awaited[key]
        group.to_compare[attempt.attempt] = attempt
        self.end(key, attempt, size=size)
        return await group.answer_for(attempt.attempt)

    def end(self, key: GroupKey, attempt: Attempt, *, size: int) -> None:
        """Count an attempt that ended; the last of `size` has those compared that wait for it."""
        group = self._awaited[key]
        group.ended.add(attempt.attempt)
        if len(group.ended) < size or group.is_whole.is_set():
            return
        if not group.to_compare:
            del self._awaited[key]
            return
        group.comparing = asyncio.ensure_future(self._answers(key, group))
        group.is_whole.set()

    async def _answers(self, key: GroupKey, group: _AwaitedGroup) -> Answers:
        try:
            async with self._comparing:
                return await self._compare(key[-1], list(group.to_compare.values()))
        finally:
            del self._awaited[key]
