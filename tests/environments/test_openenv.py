"""A real OpenEnv server, played by an agent whose model follows a script."""

import asyncio

import pytest

from astuner.env_service.openenv import OpenEnvEnvironments
from astuner.errors import EnvServiceError
from astuner.task_reader.openenv import OpenEnvReader
from tests.environments.servers import play, server_process
from tests.test_openenv import SETTINGS, say

pytestmark = pytest.mark.environments

pytest.importorskip("openenv")


@pytest.fixture(scope="module")
def numbers():
    with server_process("openenv_server", "numbers") as url:
        yield {**SETTINGS, "url": url, "num_tasks": 10}


@pytest.fixture(scope="module")
def tools():
    with server_process("openenv_server", "tools") as url:
        yield {**SETTINGS, "url": url}


def first_task(settings):
    return OpenEnvReader.from_settings(settings, []).get_training_tasks()[6]


def halving(prompt):
    """Guesses between what is known, by the hints that stand in the prompt."""
    lowest, highest, turns = 1, 10, prompt.split("assistant\n")[1:-1]
    for turn in turns:
        guess = (lowest + highest) // 2
        if "higher" in turn:
            lowest = guess + 1
        if "lower" in turn:
            highest = guess - 1
    return str((lowest + highest) // 2)


def test_an_agent_plays_an_episode_to_its_end(numbers):
    attempt = play(OpenEnvEnvironments.from_settings(numbers), first_task(numbers), halving)
    assert attempt.failure is None
    assert attempt.output.reward == 1.0
    contents = [message["content"] for message in attempt.output.metadata["messages"]]
    assert contents[0] == "Guess a number from 1 to 10."
    assert contents[1:] == ["5", "higher", "8", "lower", "6", "higher", "7", "right"]


def test_an_agent_acts_by_the_tools_of_an_environment(tools):
    script = [
        '<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call>',
        '<tool_call>{"name": "submit", "arguments": {"answer": 5}}</tool_call>',
    ]
    settings = {**tools, "num_tasks": 7}
    attempt = play(OpenEnvEnvironments.from_settings(settings), first_task(settings), script)
    assert attempt.failure is None
    assert attempt.output.reward == 1.0
    answers = [m["content"] for m in attempt.output.metadata["messages"] if m["role"] == "tool"]
    assert answers == ["5", "thank you"]


def test_what_the_server_refuses_is_told_and_what_breaks_fails(numbers):
    async def body():
        environments = OpenEnvEnvironments.from_settings(numbers)
        instance = await environments.create(first_task(numbers), episode_id="e1", seed=0)
        try:
            step = await instance.step(say(""))
            assert "at least 1 character" in step.messages[0]["content"]
            with pytest.raises(EnvServiceError, match="the world broke"):
                await instance.step(say("crash"))
            return (await instance.step(say("7"))).terminated
        finally:
            await instance.release()

    assert asyncio.run(body())


def test_episodes_beyond_the_capacity_of_the_server_wait(numbers):
    async def body():
        environments = OpenEnvEnvironments.from_settings(numbers)
        task = first_task(numbers)

        async def played(number):
            instance = await environments.create(task, episode_id=f"e{number}", seed=0)
            try:
                return (await instance.step(say("7"))).reward
            finally:
                await instance.release()

        return await asyncio.gather(*(played(number) for number in range(6)))

    assert asyncio.run(body()) == [1.0] * 6
