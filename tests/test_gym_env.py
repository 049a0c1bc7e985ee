"""What a workflow gets of its environment, in whole episodes: real HTTP, a scripted engine."""

import asyncio
import contextlib
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from astuner.env_service.client import EnvServiceEnvironments
from astuner.errors import EnvServiceError
from astuner.rollout.environment_around import EnvironmentAround
from astuner.task_judge.env_service_as_judge import EnvServiceJudge
from astuner.types import Task, WorkflowOutput
from astuner.workflow import Workflow
from tests.episodes import run_episode
from tests.old_env_server import acts_and_breaks, always, breaks, data, old_env_server, refused
from tests.test_env_client import TASK, section
from tests.test_rollout import attempt, settings, workflow_that


@pytest.fixture
def server():
    with old_env_server() as server:
        yield server


def rules_for(server, workflow, *, judge=None, source="", max_steps=30, timeout_seconds=5.0):
    rules = settings(workflow, judge=judge or EnvServiceJudge(), timeout_seconds=timeout_seconds)
    environments = EnvServiceEnvironments.from_settings(section(server.url))
    around = EnvironmentAround({source: environments}, max_steps=max_steps, seed=1)
    return replace(rules, episode=replace(rules.episode, surroundings=(around,)))


def play(server, body, *, task=TASK, **limits):
    """The episode of a workflow; `body` is its execute, or a class of workflows."""
    workflow = body if isinstance(body, type) else workflow_that(body)
    rules = rules_for(server, workflow, **limits)
    return asyncio.run(run_episode(attempt(task=task), rules))


def say(env, text):
    return env.step(action={"content": text, "role": "assistant"})


async def plays_well(task, tuner):
    _, _, is_over, _ = say(task.gym_env, "a step")
    assert not is_over
    say(task.gym_env, "done")
    return WorkflowOutput()


def test_an_episode_is_worth_what_its_environment_says(server):
    episode = play(server, plays_well)
    assert (episode.verdict.reward, episode.verdict.is_success) == (1.5, True)
    assert episode.metadata["environment"] == {
        "num_steps": 2,
        "reward_sum": 1.0,
        "terminated": True,
        "truncated": False,
        "evaluation": 1.0,
    }
    assert server.worlds == {} and server.acted == []


def test_less_than_a_success_is_worth_half(server):
    async def body(task, tuner):
        return WorkflowOutput()

    verdict = play(server, body).verdict
    assert (verdict.reward, verdict.is_success) == (0.125, False)


def test_a_step_gives_text_a_reward_whether_it_was_the_last_and_more(server):
    given = []

    async def body(task, tuner):
        given.append(say(task.gym_env, "one"))
        return WorkflowOutput(reward=0.0)

    play(server, body)
    (step,) = given
    observation, reward, is_over, info = step
    assert (observation, reward, is_over) == ("1 actions, 3 characters", 0.0, False)
    assert info["messages"] == [{"role": "user", "content": observation}]
    assert (info["terminated"], info["truncated"]) == (False, False)


def test_the_record_shows_the_question_that_the_environment_asked(server):
    seen = []

    async def body(task, tuner):
        seen.append((task.task.main_query, len(task.task.init_messages)))
        task.task.init_messages.clear()
        return WorkflowOutput(reward=0.0)

    episode = play(server, body)
    assert seen == [("Play a_1.", 2)]
    assert episode.task.main_query == "Play a_1."
    assert [m["role"] for m in episode.task.init_messages] == ["system", "user"]


def test_a_question_of_the_reader_stays(server):
    async def body(task, tuner):
        return WorkflowOutput(reward=0.0)

    episode = play(server, body, task=TASK.model_copy(update={"main_query": "Mine?"}))
    assert episode.task.main_query == "Mine?"
    assert episode.task.init_messages[1]["content"] == "Play a_1."


def test_the_record_of_an_episode_that_failed_shows_it_too(server):
    async def body(task, tuner):
        raise KeyError("mine")

    episode = play(server, body)
    assert episode.failure.kind == "WorkflowError"
    assert episode.task.main_query == "Play a_1."


def test_a_task_of_another_source_has_no_environment(server):
    async def body(task, tuner):
        return WorkflowOutput(reward=float(task.gym_env is None))

    other = Task(main_query="2+3?", task_id="t", source="sums")
    assert play(server, body, task=other).verdict.reward == 1.0
    assert server.asked == []


def test_an_environment_of_a_mixture_knows_its_task_by_its_own_id(server):
    rules = rules_for(server, workflow_that(plays_well), source="counts")
    mixed = TASK.model_copy(update={"task_id": "counts/a_1", "source": "counts"})
    episode = asyncio.run(run_episode(attempt(task=mixed), rules))
    assert episode.verdict.reward == 1.5
    assert (episode.task.task_id, episode.task.main_query) == ("counts/a_1", "Play a_1.")


# Ways to call it


class InAThread(Workflow):
    name: str = "in a thread"

    def execute(self, workflow_task, model_tuner):
        say(workflow_task.gym_env, "done")
        assert workflow_task.gym_env.evaluate("any", params={"sparse": False}) == 1.0
        return WorkflowOutput()


async def in_tasks_of_its_own(task, tuner):
    async def act(text):
        return say(task.gym_env, text)

    await asyncio.gather(act("one"), act("two"))
    await asyncio.create_task(act("done"))
    return WorkflowOutput()


async def by_await(task, tuner):
    await task.gym_env.async_step("done")
    assert await task.gym_env.async_evaluate() == 1.0
    return WorkflowOutput()


async def by_await_in_a_loop_of_its_own(task, tuner):
    async def act():
        await task.gym_env.async_step("done")
        worth = await task.gym_env.async_evaluate()
        await task.gym_env.async_release()
        return worth

    return WorkflowOutput(reward=0.5 + await asyncio.to_thread(asyncio.run, act()))


async def in_a_thread_of_its_own(task, tuner):
    await asyncio.to_thread(say, task.gym_env, "done")
    return WorkflowOutput()


@pytest.mark.parametrize(
    "body",
    [
        InAThread,
        in_tasks_of_its_own,
        by_await,
        by_await_in_a_loop_of_its_own,
        in_a_thread_of_its_own,
    ],
)
def test_an_environment_is_used_from_where_a_workflow_likes(server, body):
    assert play(server, body).verdict.reward == 1.5


def test_a_plain_call_where_it_would_block_all_says_what_to_await(server):
    async def body(task, tuner):
        told = asyncio.get_running_loop().create_future()

        def call():
            try:
                say(task.gym_env, "done")
            except EnvServiceError as error:
                told.set_result(str(error))

        asyncio.get_running_loop().call_soon(call)
        return WorkflowOutput(reward=0.0, metadata={"told": await told})

    assert "Await async_step" in play(server, body).metadata["told"]
    assert server.routes().count("step") == 0


def test_actions_have_the_forms_that_agents_give(server):
    block = {"type": "text", "text": "blocks"}
    call = {"type": "tool_use", "id": "c1", "name": "move", "input": {"to": "up"}}

    async def body(task, tuner):
        env = task.gym_env
        env.step("text")
        env.step({"role": "assistant", "content": [block, {"type": "thinking", "thinking": "?"}]})
        env.step(SimpleNamespace(role="assistant", content=[call]))
        env.step({"role": "assistant", "content": None, "tool_calls": [{"id": "c2"}]})
        return WorkflowOutput(reward=0.0)

    assert play(server, body).failure is None
    actions = [asked["messages"] for route, asked in server.asked if route == "step"]
    assert [action["content"] for action in actions] == ["text", "blocks", "", ""]
    assert actions[2]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "move", "arguments": '{"to": "up"}'}}
    ]
    assert actions[3]["tool_calls"] == [{"id": "c2"}]


@pytest.mark.parametrize("action", [None, 3, {"role": "assistant", "content": 3}, object()])
def test_an_action_that_is_none_is_the_fault_of_the_workflow(server, action):
    async def body(task, tuner):
        task.gym_env.step(action)

    failure = play(server, body).failure
    assert failure.kind == "WorkflowError" and "gym_env.step: the " in failure.message
    assert server.routes().count("step") == 0


def test_two_episodes_act_at_the_same_time(server):
    """Each waits in its step until the other has begun one."""
    arrived = []

    def meets(act):
        arrived.append(True)
        deadline = time.monotonic() + 60
        while len(arrived) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        return act() if len(arrived) == 2 else None

    server.faults["step"] += [meets, meets]
    rules = rules_for(server, workflow_that(plays_well))

    async def both():
        return await asyncio.gather(*(run_episode(attempt(task=TASK), rules) for _ in range(2)))

    assert [episode.verdict.reward for episode in asyncio.run(both())] == [1.5, 1.5]


def test_a_step_that_takes_long_holds_up_nobody(server):
    """The pool ends what blocks its loop for a quarter of an episode's time."""

    def slow(act):
        time.sleep(1.0)
        return act()

    server.faults["step"].append(slow)
    rules = rules_for(server, workflow_that(plays_well), timeout_seconds=3.0)

    async def main():
        (group,) = await rules.pool(max_parallel=1, max_failed_fraction=0.0).run(
            [TASK], num_repeat=1, step=1, is_validation=False, on_episode=lambda _: None
        )
        return group.episodes[0]

    assert asyncio.run(main()).verdict.reward == 1.5


# Ends


def test_an_episode_is_cut_after_its_last_step(server):
    given = []

    async def body(task, tuner):
        while True:
            given.append(say(task.gym_env, "on"))
            if given[-1].is_over:
                return WorkflowOutput()

    episode = play(server, body, max_steps=3)
    assert len(given) == 3
    assert given[-1].info["truncated_by"] == "max_steps"
    assert (given[-1].info["terminated"], given[-1].info["truncated"]) == (False, True)
    assert "truncated_by" not in given[0].info
    noted = episode.metadata["environment"]
    assert (noted["num_steps"], noted["truncated"], noted["terminated"]) == (3, True, False)


def test_an_end_of_the_environment_at_the_last_step_is_no_cut(server):
    async def body(task, tuner):
        step = say(task.gym_env, "done")
        return WorkflowOutput(metadata={"info": step.info})

    info = play(server, body, max_steps=1).metadata["info"]
    assert (info["terminated"], info["truncated"]) == (True, False)
    assert "truncated_by" not in info


@pytest.mark.parametrize(
    ("text", "reason"),
    [("done", "the environment ended the episode"), ("on", "rollout.multi_turn.max_steps is 1")],
)
def test_a_step_behind_the_last_one_is_refused(server, text, reason):
    async def body(task, tuner):
        say(task.gym_env, text)
        say(task.gym_env, "once more")

    failure = play(server, body, max_steps=1).failure
    assert failure.kind == "EnvServiceError"
    assert f"a step behind the last one: {reason}, after 1 steps" in failure.message
    assert server.routes().count("step") == 1


# Failures


@pytest.mark.parametrize("fault", [breaks, acts_and_breaks, always(refused("worker died"))])
def test_an_environment_that_fails_fails_the_episode_whatever_the_workflow_makes_of_it(
    server, fault
):
    server.faults["step"].append(fault)

    async def body(task, tuner):
        for _ in range(3):
            try:
                say(task.gym_env, "done")
            except EnvServiceError:
                continue
        return WorkflowOutput(reward=0.0)

    episode = play(server, body)
    assert episode.verdict is None
    assert episode.failure.kind == "EnvServiceError"
    assert "step 1 failed" in episode.failure.message
    assert server.routes().count("step") == 1
    assert server.worlds == {}


@pytest.mark.parametrize("fault", [breaks, always(data("much")), always(refused("no"))])
def test_an_evaluation_that_fails_is_no_reward_of_zero(server, fault):
    server.faults["evaluate"].append(fault)
    episode = play(server, plays_well)
    assert episode.verdict is None and episode.failure.kind == "EnvServiceError"
    assert "the episode could not be evaluated" in episode.failure.message
    assert server.worlds == {}


@pytest.mark.parametrize("fault", [breaks, always(data("much")), always(refused("no"))])
def test_a_workflow_that_swallows_a_failed_evaluation_gives_no_reward_either(server, fault):
    server.faults["evaluate"].append(fault)

    async def body(task, tuner):
        with contextlib.suppress(EnvServiceError):
            return WorkflowOutput(reward=task.gym_env.evaluate())
        return WorkflowOutput(reward=0.0)

    episode = play(server, body)
    assert episode.verdict is None and episode.failure.kind == "EnvServiceError"
    assert "the episode could not be evaluated" in episode.failure.message


def test_a_workflow_with_a_reward_is_not_evaluated(server):
    async def body(task, tuner):
        say(task.gym_env, "on")
        return WorkflowOutput(reward=0.25)

    episode = play(server, body)
    assert episode.verdict.reward == 0.25 and episode.verdict.source == "workflow"
    assert "evaluation" not in episode.metadata["environment"]
    assert "evaluate" not in server.routes()


def test_a_workflow_that_released_its_environment_says_what_it_is_worth(server):
    async def body(task, tuner):
        say(task.gym_env, "done")
        task.gym_env.release()
        return WorkflowOutput(reward=None if task.attempt else 1.0)

    assert play(server, body).verdict.reward == 1.0
    rules = rules_for(server, workflow_that(body))
    episode = asyncio.run(run_episode(attempt(task=TASK, attempt=1), rules))
    assert "the instance was released; step and evaluate before" in episode.failure.message
    assert server.routes().count("release") == 2


async def _raises(task, tuner):
    raise KeyError("mine")


async def _hangs(task, tuner):
    await asyncio.sleep(60)


async def _exits(task, tuner):
    raise SystemExit(1)


@pytest.mark.parametrize("body", [_raises, _hangs, _exits])
def test_an_instance_is_released_whatever_the_workflow_does(server, body):
    episode = play(server, body, timeout_seconds=0.5)
    assert episode.failure.kind == "WorkflowError"
    assert len(server.released) == 1 and server.worlds == {}


def test_the_deadline_of_an_episode_ends_a_plain_call(server):
    ends = []

    def hangs(act):
        time.sleep(1.0)

    server.faults["step"].append(hangs)

    async def body(task, tuner):
        try:
            say(task.gym_env, "done")
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    episode = play(server, body, timeout_seconds=0.3)
    assert "did not finish in 0.3 s" in episode.failure.message
    assert ends == ["cancelled"] and server.worlds == {}


def test_a_run_that_is_cancelled_releases_its_instances(server):
    rules = rules_for(server, workflow_that(_hangs))

    async def main():
        running = asyncio.create_task(run_episode(attempt(task=TASK), rules))
        async with asyncio.timeout(60):
            while not server.worlds:
                await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    assert server.worlds == {}


def test_a_run_that_is_cancelled_while_an_instance_is_made_releases_it(server):
    """The event loop ends right behind it, which cancels all that is left there once more."""
    made = threading.Event()

    def slow(act):
        sent = act()
        made.set()
        time.sleep(0.3)
        return sent

    server.faults["create"].append(slow)
    rules = rules_for(server, workflow_that(_hangs))

    async def main():
        running = asyncio.create_task(run_episode(attempt(task=TASK), rules))
        await asyncio.to_thread(made.wait, 5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    assert server.worlds == {}


def test_no_instance_is_a_failure_of_the_environment(server):
    server.faults["create"].append(always(refused("all are busy")))
    episode = play(server, plays_well)
    assert episode.failure.kind == "EnvServiceError"
    assert "no instance could be made" in episode.failure.message


# The judge


@pytest.mark.parametrize("metadata", [{}, {"environment": {}}, {"environment": None}])
def test_the_judge_says_that_no_environment_was_there(metadata):
    async def body(task, tuner):
        return WorkflowOutput(metadata=metadata)

    rules = settings(workflow_that(body), judge=EnvServiceJudge())
    failure = asyncio.run(run_episode(attempt(), rules)).failure
    assert failure.kind == "JudgeError"
    assert "no environment evaluated the episode" in failure.message
