"""What stands around an episode: entered before the workflow, left after it whatever happens."""

import asyncio
import contextlib
import logging
from contextvars import ContextVar
from dataclasses import replace
from functools import partial

import pytest

import astuner.rollout.bounded as bounded_module
import astuner.rollout.episode as episode_module
import astuner.rollout.surroundings as module
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


class Adding(World):
    """Adds to the output of the workflow, by its `add`."""

    def __init__(self, name, add, **options):
        super().__init__(name, **options)
        self._add = add

    @contextlib.asynccontextmanager
    async def around(self, stage):
        async with super().around(stage) as whole:
            yield replace(whole, on_output=(*whole.on_output, self._add))


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


@pytest.fixture
def hurry(monkeypatch):
    """Little patience with what neither comes nor goes."""
    monkeypatch.setattr(bounded_module, "_CANCEL_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(module, "_LEAVE_SECONDS", 0.1)


class Gives:
    """Whatever the test wants to be around an episode."""

    name = "the world"

    def __init__(self, around):
        self.around = around


def _no_context(stage):
    raise KeyError("no such environment")


@contextlib.asynccontextmanager
async def _no_stage(stage):
    yield None


@pytest.mark.parametrize(
    ("around", "message"),
    [
        (_no_context, "the world could not be entered: KeyError: 'no such environment'"),
        (lambda stage: None, "the world could not be entered: AttributeError"),
        (_no_stage, "the world gave NoneType when it was entered; it must give the stage"),
    ],
)
def test_a_surrounding_that_is_none_fails_the_episode(around, message):
    outer = World("outer")
    episode = play(succeeds, outer, Gives(around))
    assert episode.failure.kind == "SurroundingError" and message in episode.failure.message
    assert outer.diary == ["enter outer", "leave outer"]


def test_what_gave_no_stage_is_left_all_the_same():
    diary = []

    @contextlib.asynccontextmanager
    async def around(stage):
        try:
            yield "an instance"
        finally:
            diary.append("left")

    assert "gave str" in play(succeeds, Gives(around)).failure.message
    assert diary == ["left"]


async def _cancels():
    raise asyncio.CancelledError


def test_a_surrounding_that_raises_a_cancellation_while_it_is_entered_fails_the_episode():
    outer = World("outer")
    episode = play(succeeds, outer, World(enter=_cancels))
    assert "user code raised asyncio.CancelledError" in episode.failure.message
    assert outer.diary == ["enter outer", "leave outer"]


def test_a_surrounding_that_raises_a_cancellation_while_it_is_left_leaves_the_reward_alone(caplog):
    outer = World("outer")
    episode = play(succeeds, outer, World(leave=_cancels))
    assert episode.verdict.reward == 1.0 and outer.diary[-1] == "leave outer"
    assert "user code raised asyncio.CancelledError" in caplog.text


async def _swallows_cancellations(may_end):
    while not may_end.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await may_end.wait()


@pytest.mark.usefixtures("hurry")
def test_a_surrounding_that_will_not_be_cancelled_while_it_is_entered_is_not_waited_for():
    may_end = asyncio.Event()
    outer, world = World("outer"), World(enter=partial(_swallows_cancellations, may_end))

    async def go():
        rules = settings(workflow_that(succeeds), timeout_seconds=0.1)
        rules = replace(rules, episode=replace(rules.episode, surroundings=(outer, world)))
        episode = await run_episode(attempt(), rules)
        assert world.diary == [] and outer.diary == ["enter outer", "leave outer"]
        may_end.set()
        async with asyncio.timeout(60):  # what comes late is left at once
            while world.diary != ["enter the world", "leave the world"]:
                await asyncio.sleep(0.01)
        return episode

    episode = asyncio.run(go())
    assert episode.failure.kind == "SurroundingError"
    assert "was not there within the 0.1 s" in episode.failure.message


@pytest.mark.usefixtures("hurry")
def test_a_surrounding_that_will_not_be_cancelled_while_it_is_left_is_not_waited_for(caplog):
    may_end = asyncio.Event()
    outer, world = World("outer"), World(leave=partial(_swallows_cancellations, may_end))

    async def go():
        rules = settings(workflow_that(succeeds))
        rules = replace(rules, episode=replace(rules.episode, surroundings=(outer, world)))
        episode = await run_episode(attempt(), rules)
        may_end.set()
        return episode

    episode = asyncio.run(go())
    assert episode.verdict.reward == 1.0 and outer.diary[-1] == "leave outer"
    assert "the world could not be left within 0.1 s" in caplog.text


def test_a_surrounding_that_is_late_may_still_clean_up():
    diary = []

    @contextlib.asynccontextmanager
    async def around(stage):
        try:
            await asyncio.sleep(60)
            yield stage
        finally:
            await asyncio.sleep(0)
            diary.append("cleaned up")

    episode = play(succeeds, World("outer", diary=diary), Gives(around), timeout_seconds=0.1)
    assert "was not there within" in episode.failure.message
    assert diary == ["enter outer", "cleaned up", "leave outer"]


def test_both_ends_of_a_surrounding_are_in_one_task():
    """A scope, such as that of a timeout, and a context variable bind them."""
    variable = ContextVar("variable", default="outside")
    found = []

    @contextlib.asynccontextmanager
    async def around(stage):
        token = variable.set("inside")
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            helper = group.create_task(asyncio.sleep(60))
            try:
                yield stage
            finally:
                helper.cancel()
                found.append(variable.get())
        variable.reset(token)

    assert play(succeeds, Gives(around)).verdict.reward == 1.0
    assert found == ["inside"]


def test_a_surrounding_sees_what_ended_the_episode():
    seen = []

    @contextlib.asynccontextmanager
    async def around(stage):
        try:
            yield stage
        except Exception as error:
            seen.append(str(error))
            raise

    episode = play(_raises, Gives(around))
    assert seen == [episode.failure.message] and "KeyError" in seen[0]


def test_what_breaks_in_a_surrounding_meanwhile_does_not_end_the_run(caplog):
    async def break_down():
        raise ConnectionError("the instance is gone")

    @contextlib.asynccontextmanager
    async def around(stage):
        async with asyncio.TaskGroup() as group:
            group.create_task(break_down())
            yield stage

    async def body(task, tuner):
        await asyncio.sleep(0.01)
        return WorkflowOutput(reward=1.0)

    assert play(body, Gives(around)).verdict.reward == 1.0
    assert "the world could not be left: ExceptionGroup" in caplog.text


def test_what_is_entered_when_the_run_is_cancelled_is_left_too():
    """Also where it does not care: nobody would leave it later."""
    is_entering = asyncio.Event()

    async def enter():
        is_entering.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    world = World(enter=enter)

    async def go():
        rules = settings(workflow_that(_hangs))
        rules = replace(rules, episode=replace(rules.episode, surroundings=(world,)))
        running = asyncio.ensure_future(run_episode(attempt(), rules))
        await is_entering.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        async with asyncio.timeout(60):
            while world.diary != ["enter the world", "leave the world"]:
                await asyncio.sleep(0.01)

    asyncio.run(go())


def test_surroundings_add_to_the_output_while_they_stand_and_in_order():
    diary = []

    def adds(name):
        async def add(output):
            diary.append(f"{name} adds")
            names = [*output.metadata.get("names", ()), name]
            return output.model_copy(update={"metadata": {"names": names}})

        return Adding(name, add, diary=diary)

    assert play(succeeds, adds("outer"), adds("inner")).metadata == {"names": ["outer", "inner"]}
    assert diary[2:] == ["outer adds", "inner adds", "leave inner", "leave outer"]


async def _cannot_add(output):
    raise OSError("the disk of the world is full")


async def _adds_for_ever(output):
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (_cannot_add, "failed at its end: OSError: the disk of the world is full"),
        (_adds_for_ever, "did not end it in 0.3 s"),
    ],
)
def test_an_output_that_cannot_be_added_to_is_a_failed_episode(monkeypatch, add, message):
    monkeypatch.setattr(episode_module, "_LEAST_ENDING_SECONDS", 0.3)
    world = Adding("the world", add)
    episode = play(succeeds, world, timeout_seconds=0.2)
    assert episode.verdict is None and episode.failure.kind == "SurroundingError"
    assert message in episode.failure.message
    assert world.diary == ["enter the world", "leave the world"]


def test_what_is_no_output_is_added_to_by_nobody():
    async def body(task, tuner):
        return "done"

    episode = play(body, Adding("the world", _cannot_add))
    assert "returned str; execute must return a WorkflowOutput" in episode.failure.message
