"""Runs the groups of many tasks at once, with a bound on the episodes in flight.

Owns the bound and the limit on failures. A group's episodes start together, groups in order, and
the next group starts while earlier ones still run, so the engine stays full.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from astuner.errors import BackboneError
from astuner.rollout.episode import EpisodeSettings, run_episode
from astuner.rollout.watchdog import loop_watchdog
from astuner.trajectory.episode import Episode, Group
from astuner.types import Task, WorkflowTask

OnEpisode = Callable[[Episode], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """How many episodes run at once and how many may fail."""

    max_parallel: int
    max_failed_fraction: float
    """Of a batch's episodes, in [0, 1]."""


class RolloutPool:
    """Rolls out batches of tasks."""

    def __init__(
        self,
        episode: EpisodeSettings,
        settings: PoolSettings,
        *,
        expect_callers: Callable[[int], None] | None = None,
    ) -> None:
        """`expect_callers` is told how many episodes are in flight, whenever that changes."""
        self._episode = episode
        self._settings = settings
        self._expect_callers = expect_callers or (lambda _: None)

    async def run(
        self,
        tasks: Sequence[Task],
        *,
        num_repeat: int,
        step: int,
        is_validation: bool,
        on_episode: OnEpisode,
        first_index: int = 0,
    ) -> list[Group]:
        """Roll out `num_repeat` episodes of each task; one group per task, in order.

        `first_index` counts the tasks of the step before these, for the names of the episodes.
        `on_episode` is called as each one ends. Raises BackboneError as soon as more episodes than
        allowed have failed, naming the commonest reason, and ConfigError for a target to train that
        no agent has.
        """
        plans = [
            _plan(
                task, first_index + index, step=step, attempt=attempt, is_validation=is_validation
            )
            for index, task in enumerate(tasks)
            for attempt in range(num_repeat)
        ]
        slots = asyncio.Semaphore(self._settings.max_parallel)
        failures = FailureLimit(len(plans), self._settings.max_failed_fraction)
        num_unfinished = len(plans)

        async def run_one(plan: WorkflowTask) -> Episode:
            nonlocal num_unfinished
            async with slots:
                episode = await run_episode(plan, self._episode)
            num_unfinished -= 1
            self._expect_callers(min(num_unfinished, self._settings.max_parallel))
            on_episode(episode)
            failures.count(episode)
            return episode

        # A part of the deadline, so that the others that it held up still have time.
        with loop_watchdog(self._episode.timeout_seconds / 4):
            self._expect_callers(min(num_unfinished, self._settings.max_parallel))
            try:
                episodes = await _gather([run_one(plan) for plan in plans])
            finally:
                self._expect_callers(0)
        self._episode.target_watch.finish_batch()
        return [
            Group(task=task, episodes=tuple(episodes[i * num_repeat : (i + 1) * num_repeat]))
            for i, task in enumerate(tasks)
        ]


def _plan(task: Task, index: int, *, step: int, attempt: int, is_validation: bool) -> WorkflowTask:
    kind = "validation" if is_validation else "step"
    return WorkflowTask(
        task=task,
        episode_id=f"{kind}{step}-{index}-{attempt}",
        step=step,
        attempt=attempt,
        is_validation=is_validation,
    )


async def _gather(work: Sequence) -> list[Episode]:
    """Await all; the first error cancels the others and is raised as itself."""
    running = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*running)
    except BaseException:
        for one in running:
            one.cancel()
        await asyncio.wait(running, timeout=10)
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
    """The most frequent reason among failed episodes; None when none failed."""
    reasons = Counter(f"{e.failure.kind}: {e.failure.message}" for e in episodes if e.failure)
    if not reasons:
        return None
    reason, times = reasons.most_common(1)[0]
    return f"the commonest reason ({times} times): {reason}"
