"""Runs the groups of many tasks at once, with a bound on the episodes in flight.

Owns the bound, the limit on failures, and when a group is complete. A group's attempts start
together, groups in order, and the next group starts while earlier ones still run, so the engine
stays full. An attempt is judged beside those that still run.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field

from astuner.errors import BackboneError
from astuner.rollout.episode import EpisodeSettings, run_attempt
from astuner.rollout.judging import Judging
from astuner.rollout.judging_by_source import JudgingBySource
from astuner.rollout.watchdog import loop_watchdog
from astuner.trajectory.attempt import Attempt
from astuner.trajectory.episode import Episode, Group
from astuner.types import Task, WorkflowTask

OnEpisode = Callable[[Episode], None]
RunAttempt = Callable[[WorkflowTask, EpisodeSettings], Awaitable[Attempt]]
"""Runs a workflow to its end, here or elsewhere; failures become data."""

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """How many episodes run at once and how many may fail."""

    max_parallel: int
    """Attempts that run at a time, and so many more that are judged meanwhile."""
    max_failed_fraction: float
    """Of a batch's episodes, in [0, 1]."""
    max_computing_seconds: float | None = None
    """How long a workflow may keep the event loop busy by computing; None: like by anything."""
    leave_seconds: float = 10.0
    """How long cancelled episodes may take to end."""


@dataclass(slots=True)
class _OpenGroup:
    """A group on its way: who has ended, and who still waits to be compared."""

    num_running: int
    episodes: list[Episode] = field(default_factory=list)
    to_compare: list[Attempt] = field(default_factory=list)

    def closed(self, task: Task) -> Group:
        return Group(task=task, episodes=tuple(sorted(self.episodes, key=lambda e: e.attempt)))


class RolloutPool:
    """Rolls out batches of tasks."""

    def __init__(
        self,
        episode: EpisodeSettings,
        judging: Judging | JudgingBySource,
        settings: PoolSettings,
        *,
        find_port: Callable[[], int | None] = lambda: None,
        is_ending: Callable[[], bool] = lambda: False,
        expect_callers: Callable[[int], None] | None = None,
        run_attempt: RunAttempt = run_attempt,
    ) -> None:
        """`find_port` tells where this loop serves the model over HTTP, once it does;
        `is_ending` whether a signal asked for the end, so that what blocks is left no time;
        `expect_callers` is told how many attempts are in flight, whenever that changes."""
        self._episode = episode
        self._judging = judging
        self._settings = settings
        self._find_port, self._is_ending = find_port, is_ending
        self._expect_callers = expect_callers or (lambda _: None)
        self._run_attempt = run_attempt

    async def run(
        self,
        tasks: Sequence[Task],
        *,
        num_repeat: int,
        step: int,
        is_validation: bool,
        on_episode: OnEpisode,
        first_index: int = 0,
        left_out: Collection[tuple[int, int]] = (),
    ) -> list[Group]:
        """Roll out `num_repeat` episodes of each task; one group per task, in order.

        `first_index` counts the tasks of the step before these, for the names of the episodes.
        `left_out` are pairs of a task's index among these and an attempt that is not wanted.
        `on_episode` is called as each one is judged. Raises BackboneError as soon as more episodes
        than allowed have failed, naming the commonest reason, ConfigError for a target to train
        that no agent has, and JudgeError where the judge cannot be made ready.
        """
        await self._judging.prepare()
        wanted = [
            [attempt for attempt in range(num_repeat) if (index, attempt) not in left_out]
            for index in range(len(tasks))
        ]
        groups = [_OpenGroup(len(attempts)) for attempts in wanted]
        plans = [
            (
                groups[index],
                _plan(task, first_index + index, step, attempt, is_validation=is_validation),
            )
            for index, task in enumerate(tasks)
            for attempt in wanted[index]
        ]
        running, judging = (asyncio.Semaphore(self._settings.max_parallel) for _ in range(2))
        failures = FailureLimit(len(plans), self._settings.max_failed_fraction)
        num_unfinished = len(plans)

        async def run_one(group: _OpenGroup, plan: WorkflowTask) -> None:
            nonlocal num_unfinished
            async with running:
                attempt = await self._run_attempt(plan, self._episode)
            num_unfinished -= 1
            self._expect_callers(min(num_unfinished, self._settings.max_parallel))
            async with judging:
                judged = await self._judge(group, attempt)
                for episode in judged:  # all of a group that is compared, before any ends the run
                    on_episode(episode)
                for episode in judged:
                    failures.count(episode)

        # A part of the deadline, so that the others that it held up still have time.
        with loop_watchdog(
            self._episode.timeout_seconds / 4,
            max_computing_seconds=self._settings.max_computing_seconds,
            find_port=self._find_port,
            is_ending=self._is_ending,
        ):
            self._expect_callers(min(num_unfinished, self._settings.max_parallel))
            try:
                await _gather(
                    [run_one(*plan) for plan in plans], leave_seconds=self._settings.leave_seconds
                )
            finally:
                self._expect_callers(0)
        self._episode.target_watch.finish_batch()
        return [group.closed(task) for task, group in zip(tasks, groups, strict=True)]

    async def _judge(self, group: _OpenGroup, attempt: Attempt) -> list[Episode]:
        """The episodes that have their verdict now: this one, or with the last of a group those
        that are compared."""
        alone = await self._judging.judge_alone(attempt)
        if alone is None:
            group.to_compare.append(attempt)
        group.num_running -= 1
        judged = [] if alone is None else [alone]
        if group.num_running == 0:
            judged += await self._judging.compare(group.to_compare)
        group.episodes += judged
        return judged


def _plan(task: Task, index: int, step: int, attempt: int, *, is_validation: bool) -> WorkflowTask:
    kind = "validation" if is_validation else "step"
    return WorkflowTask(
        task=task,
        episode_id=f"{kind}{step}-{index}-{attempt}",
        step=step,
        attempt=attempt,
        is_validation=is_validation,
    )


async def _gather(work: Sequence, *, leave_seconds: float) -> None:
    """Await all; the first error cancels the others and is raised as itself."""
    running = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*running)
    except BaseException:
        for one in running:
            one.cancel()
        await asyncio.wait(running, timeout=leave_seconds)
        raise


class FailureLimit:
    """Counts failed episodes of one batch. `count` raises BackboneError once they are too many."""

    def __init__(self, num_episodes: int, max_failed_fraction: float) -> None:
        self._num_episodes = num_episodes
        self._max_failed = num_episodes * max_failed_fraction
        self._failed: list[Episode] = []

    def count(self, episode: Episode) -> None:
        if episode.failure is None:
            return
        self._failed.append(episode)
        if len(self._failed) > self._max_failed:
            raise BackboneError(
                f"{len(self._failed)} of {self._num_episodes} episodes failed, more than "
                f"rollout.max_failed_fraction allows; {commonest_failure(self._failed)}"
            )


def commonest_failure(episodes: Sequence[Episode]) -> str | None:
    """The most frequent reason among failed episodes; None when none failed.

    Reasons that differ in numbers only, such as the tries that were made, are one.
    """
    reasons = [f"{e.failure.kind}: {e.failure.message}" for e in episodes if e.failure]
    if not reasons:
        return None
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for reason in reasons:
        alike[_NUMBER.sub("0", reason)].append(reason)
    commonest = max(alike.values(), key=len)
    return f"the commonest reason ({len(commonest)} times): {commonest[0]}"
