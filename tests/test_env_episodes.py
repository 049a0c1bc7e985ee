"""Whole episodes on this project's own environment server: real HTTP, real processes."""

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

import astuner.env_service.exchange as exchange_module
from astuner.env_service.client import EnvServiceEnvironments
from astuner.env_service.server.serve import serve_environments
from astuner.env_service.server.world import World
from astuner.errors import TaskReadError
from astuner.rollout.environment_around import EnvironmentAround
from astuner.task_judge.env_service_as_judge import EnvServiceJudge
from astuner.types import WorkflowOutput
from tests.env_servers import settings as server_settings
from tests.episodes import run_episode
from tests.fakes import ScriptedEngine
from tests.lossy_proxy import lossy_proxy
from tests.test_env_client import TASK, section
from tests.test_rollout import attempt, settings, workflow_that

COUNTING = f"{Path(__file__).with_name('played_worlds.py')}->Counting"
TOKEN = "t0ken"


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch):
    monkeypatch.setattr(exchange_module, "_FIRST_PAUSE_SECONDS", 0.01)


@contextlib.asynccontextmanager
async def served(**changes):
    """The address, with the token in it, and the proxy before the server."""
    world = World(name="counting", target=COUNTING, options=changes.pop("world", {}))
    async with (
        serve_environments([world], server_settings(token=TOKEN, **changes)) as address,
        lossy_proxy(address) as (url, proxy),
    ):
        yield url.replace("//", f"//astuner:{TOKEN}@"), proxy


def rules_for(url, body, *, engine=None, max_steps=30, **changes):
    workflow = body if isinstance(body, type) else workflow_that(body)
    rules = settings(workflow, judge=EnvServiceJudge(), engine=engine, timeout_seconds=30.0)
    environments = EnvServiceEnvironments.from_settings(section(url, **changes))
    around = EnvironmentAround({"": environments}, max_steps=max_steps, seed=1)
    return replace(rules, episode=replace(rules.episode, surroundings=(around,)))


def play(body, *, task=TASK, server=None, before=None, **changes):
    """The episode, and how often each path was asked for."""

    async def main():
        async with served(**(server or {})) as (url, proxy):
            if before is not None:
                before(proxy)
            episode = await run_episode(attempt(task=task), rules_for(url, body, **changes))
            return episode, proxy.asked

    return asyncio.run(main())


def say(env, text):
    return env.step(action={"content": text, "role": "assistant"})


async def plays_well(task, tuner):
    seen = [say(task.gym_env, text) for text in ("one", "done")]
    return WorkflowOutput(metadata={"seen": [step.observation for step in seen]})


def test_an_episode_on_our_own_server():
    episode, asked = play(plays_well)
    assert (episode.verdict.reward, episode.verdict.is_success) == (1.5, True)
    assert episode.metadata["seen"] == ["1 said, 0 calls", "2 said, 0 calls"]
    assert episode.task.main_query == "Play a_1 on no map."
    assert [m["role"] for m in episode.task.init_messages] == ["system", "user"]
    assert (asked["/create"], asked["/step"], asked["/release"]) == (1, 2, 1)


def test_what_the_environment_tells_beside_is_the_workflows():
    async def body(task, tuner):
        env = task.gym_env
        call = {"id": "c", "type": "function", "function": {"name": "say", "arguments": "{}"}}
        step = env.step({"role": "assistant", "content": "x", "tool_calls": [call]})
        facts = {"tools": list(env.tools), "info": dict(env.info), "step": dict(step.info)}
        return WorkflowOutput(reward=0.0, metadata={**facts, "seen": step.observation})

    metadata = play(body)[0].metadata
    assert metadata["tools"][0]["function"]["name"] == "say"
    assert list(metadata["info"]) == ["seed"]
    assert metadata["step"]["said"] == 1
    assert metadata["seen"] == "1 said, 1 calls"


def test_options_reach_the_environment():
    episode, _ = play(plays_well, options={"map": "the moon"})
    assert episode.task.main_query == "Play a_1 on the moon."


def test_a_lost_answer_is_asked_for_again_and_nothing_acts_twice():
    paths = ("/healthz", "/create", "/step", "/evaluate", "/release")

    def lose(proxy):
        proxy.to_lose.update(dict.fromkeys(paths, 2))

    episode, asked = play(plays_well, before=lose)
    assert episode.verdict.reward == 1.5
    assert episode.metadata["seen"] == ["1 said, 0 calls", "2 said, 0 calls"]
    assert [asked[path] for path in paths] == [3, 3, 4, 3, 3]


def test_answers_that_are_lost_again_and_again_fail_the_episode():
    def lose(proxy):
        proxy.to_lose["/step"] = 99

    episode, asked = play(plays_well, before=lose)
    assert episode.failure.kind == "EnvServiceError"
    assert "the connection broke before the answer came" in episode.failure.message
    assert asked["/step"] == 4 and asked["/release"] == 1


def test_an_environment_that_dies_is_a_failed_episode_and_no_reward_of_zero():
    async def body(task, tuner):
        with contextlib.suppress(Exception):
            say(task.gym_env, "die")
        return WorkflowOutput(reward=0.0)

    episode, _ = play(body)
    assert episode.verdict is None and episode.failure.kind == "EnvServiceError"
    assert "its process was killed by SIGKILL" in episode.failure.message


def test_an_environment_that_raises_at_its_begin_fails_the_episode():
    episode, _ = play(plays_well, task=TASK.model_copy(update={"task_id": "raises"}))
    assert episode.failure.kind == "EnvServiceError"
    assert "RuntimeError: this world is broken" in episode.failure.message
    assert "Traceback" not in episode.failure.message


def test_a_cut_by_the_environment_is_no_end_of_it():
    async def body(task, tuner):
        step = say(task.gym_env, "cut")
        return WorkflowOutput(metadata={"is_over": step.is_over})

    episode, _ = play(body)
    assert episode.metadata["is_over"] is True
    noted = episode.metadata["environment"]
    assert (noted["terminated"], noted["truncated"]) == (False, True)


def test_an_episode_waits_for_a_free_instance():
    async def main():
        async with served(capacity=1) as (url, proxy):
            rules = rules_for(url, plays_well)
            runs = (run_episode(attempt(task=TASK), rules) for _ in range(3))
            return await asyncio.gather(*runs), proxy.asked["/create"]

    episodes, num_creations = asyncio.run(main())
    assert [episode.verdict.reward for episode in episodes] == [1.5] * 3
    assert num_creations > 3


def test_a_server_hears_of_an_instance_while_its_agent_thinks():
    async def main():
        async with served(ttl_seconds=1.5) as (url, proxy):

            async def thinks(task, tuner):
                async with asyncio.timeout(60):
                    while proxy.asked["/heartbeat"] < 2:
                        await asyncio.sleep(0.05)
                return WorkflowOutput(reward=1.0)

            episode = await run_episode(attempt(task=TASK), rules_for(url, thinks))
            return episode, proxy.asked["/step"]

    episode, num_steps = asyncio.run(main())
    assert episode.failure is None and num_steps == 0


def test_a_group_begins_in_the_same_world_and_each_step_in_another():
    async def body(task, tuner):
        return WorkflowOutput(reward=0.0, metadata={"seed": task.gym_env.info["seed"]})

    async def main():
        async with served() as (url, _):
            rules = rules_for(url, body)
            pool = rules.pool(max_parallel=4, max_failed_fraction=0.0)
            seeds = {}
            for step, is_validation in ((1, False), (2, False), (1, True), (2, True)):
                groups = await pool.run(
                    [TASK, TASK.model_copy(update={"task_id": "a_2"})],
                    num_repeat=2,
                    step=step,
                    is_validation=is_validation,
                    on_episode=lambda _: None,
                )
                for group in groups:
                    (seed,) = {episode.metadata["seed"] for episode in group.episodes}
                    seeds[step, is_validation, group.task.task_id] = seed
            return seeds

    seeds = asyncio.run(main())
    training = {seed for (_, is_validation, _), seed in seeds.items() if not is_validation}
    assert len(training) == 4
    assert seeds[1, True, "a_1"] == seeds[2, True, "a_1"] != seeds[1, True, "a_2"]


def test_a_react_agent_of_an_earlier_release_plays_by_renames_only():
    """The loop of its AppWorld tutorial: a plain step in `async def execute`."""
    pytest.importorskip("agentscope")
    from agentscope.agent import ReActAgent
    from agentscope.formatter import DashScopeChatFormatter
    from agentscope.memory import InMemoryMemory
    from agentscope.message import Msg

    from astuner import Workflow

    class ExampleWorkflow(Workflow):
        name: str = "example"

        async def execute(self, workflow_task, model_tuner):
            first, *messages = workflow_task.task.init_messages
            agent = ReActAgent(
                name="Qwen",
                sys_prompt=first["content"],
                model=model_tuner,
                formatter=DashScopeChatFormatter(),
                memory=InMemoryMemory(),
                toolkit=None,
                print_hint_msg=False,
            )
            agent.set_console_output_enabled(False)
            env = workflow_task.gym_env
            msgs = [Msg("user", m["content"], role="user") for m in messages]
            for _ in range(model_tuner.config.astuner.rollout.multi_turn.max_steps):
                reply = await agent(msgs)
                obs, _, terminate, _ = env.step(
                    action={"content": reply.content, "role": "assistant"}
                )
                msgs = Msg(name="env", content=obs, role="user")
                if terminate or model_tuner.get_context_tracker().context_overflow:
                    break
            return WorkflowOutput(reward=None, metadata={})

    engine = ScriptedEngine(["first I look", "now I am done"])

    async def main():
        async with served() as (url, _):
            rules = rules_for(url, ExampleWorkflow, engine=engine)
            config = load_defaults()
            rules = replace(rules, episode=replace(rules.episode, config=config))
            return await run_episode(attempt(task=TASK), rules)

    episode = asyncio.run(main())
    assert episode.failure is None, episode.failure.traceback
    assert episode.verdict.reward == 1.5
    assert episode.metadata["environment"]["num_steps"] == 2
    assert "1 said, 0 calls" in str(episode.calls[1])
    assert len(episode.sequences) == 1


def load_defaults():
    from astuner.config.load import load_mapping

    rollout = {"agentscope_workflow": "a.b->C"}
    return load_mapping({"astuner": {"model": {"path": "m"}, "rollout": rollout}}, name="t").config


def test_the_environment_that_the_page_shows_is_played(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "environments.md").read_text()
    (code,) = [c for c in page.split("```python\n") if "(Environment)" in c]
    (tmp_path / "world.py").write_text(code.partition("```")[0])
    world = World(name="counting", target=f"{tmp_path / 'world.py'}->GuessTheNumber")

    async def searches(task, tuner):
        lowest, highest, is_over = 1, 100, False
        while not is_over:
            guess = (lowest + highest) // 2
            said, _, is_over, _ = say(task.gym_env, str(guess))
            lowest, highest = (guess, highest) if said == "Higher." else (lowest, guess)
        return WorkflowOutput()

    async def main():
        async with serve_environments([world], server_settings()) as url:
            return await run_episode(attempt(task=TASK), rules_for(url, searches))

    episode = asyncio.run(main())
    assert episode.task.main_query == "I think of a number from 1 to 100."
    assert episode.verdict.is_success, episode.failure


def test_tasks_are_those_that_our_own_server_lists():
    from astuner.task_reader.env_service import EnvServiceReader

    async def main():
        async with served() as (url, _):
            of = EnvServiceReader.from_settings(section(url, validation_split="dev"))
            training = await asyncio.to_thread(of.get_training_tasks)
            return training + await asyncio.to_thread(of.get_validation_tasks)

    assert [task.task_id for task in asyncio.run(main())] == ["a_1", "a_2", "c_1"]


def test_a_name_that_our_own_server_does_not_know_is_told_what_to_set():
    from astuner.task_reader.env_service import EnvServiceReader

    async def main():
        async with served() as (url, _):
            of = EnvServiceReader.from_settings(section(url, env_type="world.py->Own"))
            await asyncio.to_thread(of.get_training_tasks)

    with pytest.raises(TaskReadError, match="has counting; set env_type to the name of one"):
        asyncio.run(main())
