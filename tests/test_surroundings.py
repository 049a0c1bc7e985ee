"""What stands around an episode: entered before the workflow, left after it whatever happens."""

import asyncio
import contextlib
import logging
from dataclasses import replace

import pytest

from astuner.errors import ConfigError, EnvServiceError
from astuner.types import WorkflowOutput
from tests.episodes import run_episode
from tests.test_rollout import attempt, settings, workflow_that


class World:
    """An environment that the workflow finds at its task, and a diary of what became of it."""

    def __init__(self, name="the world", *, diary=None, enter=None, leave=None):
        self.name = name
        self.diary = [] if diary is None else diary
        self._enter, self._leave = enter, leave

    @contextlib.asynccontextmanager
    async def around(self, stage):
        if self._enter is not None:
            await self._enter()
        self.diary.append(f"enter {self.name}")
        try:
            task = replace(stage.workflow_task, gym_env=self)
            yield replace(stage, workflow_task=task)
        finally:
            self.diary.append(f"leave {self.name}")
            if self._leave is not None:
                await self._leave()


def play(body, *worlds, timeout_seconds=5.0):
    rules = settings(workflow_that(body), timeout_seconds=timeout_seconds)
    rules = replace(rules, episode=replace(rules.episode, surroundings=worlds))
    return asyncio.run(run_episode(attempt(), rules))


async def succeeds(task, tuner):
    return WorkflowOutput(reward=1.0)


def test_a_workflow_runs_inside_of_what_it_needs():
    world = World()

    async def body(task, tuner):
        task.gym_env.diary.append("act")
        return WorkflowOutput(reward=1.0)

    assert play(body, world).verdict.reward == 1.0
    assert world.diary == ["enter the world", "act", "leave the world"]


def test_surroundings_are_left_in_reverse():
    diary = []
    play(succeeds, World("outer", diary=diary), World("inner", diary=diary))
    assert diary == ["enter outer", "enter inner", "leave inner", "leave outer"]


async def _raises(task, tuner):
    raise KeyError("missing")


async def _hangs(task, tuner):
    await asyncio.sleep(60)


async def _ignores_its_cancellation(task, tuner):
    for _ in range(2):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.2)
    return WorkflowOutput(reward=1.0)


@pytest.mark.parametrize("body", [_raises, _hangs, _ignores_its_cancellation])
def test_surroundings_are_left_whatever_the_workflow_does(body):
    world = World()
    episode = play(body, world, timeout_seconds=0.1)
    assert episode.failure.kind == "WorkflowError"
    assert world.diary == ["enter the world", "leave the world"]


async def _refuses():
    raise ConnectionError("nobody listens there")


async def _waits():
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("enter", "message"),
    [
        (_refuses, "the world could not be entered: ConnectionError: nobody listens there"),
        (_waits, "the world was not there within the 0.1 s of the episode"),
    ],
)
def test_a_surrounding_that_cannot_be_entered_is_a_failure_of_its_own_kind(enter, message):
    outer = World("outer")
    ran = []

    async def body(task, tuner):
        ran.append(task)
        return WorkflowOutput(reward=1.0)

    episode = play(body, outer, World(enter=enter), timeout_seconds=0.1)
    assert episode.verdict is None and episode.failure.kind == "SurroundingError"
    assert message in episode.failure.message
    assert ran == [] and outer.diary == ["enter outer", "leave outer"]


def test_a_surrounding_may_fail_with_an_error_of_its_own():
    async def enter():
        raise EnvServiceError("no instance is free")

    assert play(succeeds, World(enter=enter)).failure.kind == "EnvServiceError"


def test_what_no_further_episode_would_be_spared_ends_the_run():
    async def enter():
        raise ConfigError("env_url is not set")

    with pytest.raises(ConfigError, match="env_url"):
        play(succeeds, World(enter=enter))


def test_entering_counts_towards_the_deadline_of_the_episode():
    """What is left for the workflow is less than it takes."""

    async def enter():
        await asyncio.sleep(0.3)

    async def body(task, tuner):
        await asyncio.sleep(0.5)
        return WorkflowOutput(reward=1.0)

    episode = play(body, World(enter=enter), timeout_seconds=0.6)
    assert "did not finish in 0.6 s" in episode.failure.message


def test_a_surrounding_that_cannot_be_left_leaves_the_reward_alone(caplog):
    async def leave():
        raise RuntimeError("the instance is gone")

    diary = []
    with caplog.at_level(logging.WARNING):
        episode = play(succeeds, World("outer", diary=diary), World(diary=diary, leave=leave))
    assert episode.verdict.reward == 1.0
    assert "the world could not be left: RuntimeError: the instance is gone" in caplog.text
    assert diary[-1] == "leave outer"


def test_a_run_that_is_cancelled_leaves_its_surroundings():
    world = World()

    async def go():
        rules = settings(workflow_that(_hangs))
        rules = replace(rules, episode=replace(rules.episode, surroundings=(world,)))
        running = asyncio.ensure_future(run_episode(attempt(), rules))
        while not world.diary:
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(go())
    assert world.diary == ["enter the world", "leave the world"]
