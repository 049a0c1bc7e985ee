"""A real server of the Open Reward Standard, played by an agent whose model follows a script."""

import asyncio
import json

import pytest

from astuner.env_service.ors import OrsEnvironments
from astuner.errors import EnvServiceError
from astuner.task_reader.ors import OrsReader
from tests.environments.servers import play, server_process
from tests.test_ors import SETTINGS, calling

pytestmark = pytest.mark.environments

pytest.importorskip("ors")


@pytest.fixture(scope="module")
def sums():
    with server_process("ors_server") as url:
        yield {**SETTINGS, "url": url, "validation_split": "hard"}


def submitting(answer):
    call = {"name": "submit", "arguments": {"answer": answer}}
    return f"<tool_call>{json.dumps(call)}</tool_call>"


def test_an_agent_plays_an_episode_to_its_end(sums):
    reader = OrsReader.from_settings(sums, [])
    task = reader.get_training_tasks()[2]
    assert len(reader.get_validation_tasks()) == 4

    attempt = play(
        OrsEnvironments.from_settings(sums),
        task,
        lambda prompt: submitting(5 if "wrong" in prompt else 4),
    )
    assert attempt.failure is None
    assert attempt.output.reward == 1.0
    messages = attempt.output.metadata["messages"]
    assert messages[0]["content"] == "What is 2 + 3?"
    assert [m["content"] for m in messages if m["role"] == "tool"] == ["\u2028 wrong", "right"]


def test_what_the_server_refuses_is_told_and_what_breaks_fails(sums):
    async def body():
        environments = OrsEnvironments.from_settings(sums)
        task = OrsReader.from_settings(sums, []).get_training_tasks()[2]
        instance = await environments.create(task, episode_id="e1", seed=0)
        try:
            wrong = await instance.step(calling(("submit", {"answer": "x"}), ("nothing", {})))
            assert all("error" in message["content"] for message in wrong.messages)
            with pytest.raises(EnvServiceError, match="the world broke"):
                await instance.step(calling(("submit", {"answer": -1})))
            return (await instance.step(calling(("submit", {"answer": 5})))).terminated
        finally:
            await instance.release()
            await environments.close()

    assert asyncio.run(body())


def test_a_task_that_is_not_there_is_named(sums):
    async def body():
        environments = OrsEnvironments.from_settings(sums)
        task = OrsReader.from_settings(sums, []).get_training_tasks()[0]
        lost = task.model_copy(update={"metadata": {"split": "train", "index": 99}})
        try:
            await environments.create(lost, episode_id="e1", seed=0)
        finally:
            await environments.close()

    with pytest.raises(EnvServiceError, match=r"task 99 of split 'train'.*Invalid index"):
        asyncio.run(body())
