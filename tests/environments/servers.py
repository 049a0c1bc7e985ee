"""Real servers in processes of their own, and an agent that plays in what they serve."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

from astuner.inference.messages import assistant_message
from astuner.inference.request import ChatRequest
from astuner.rollout.episode import EpisodeSettings, run_attempt
from astuner.trajectory.attempt import Attempt
from astuner.types import WorkflowOutput, WorkflowTask
from astuner.workflow import Workflow
from tests.chats import make_chat
from tests.fakes import ScriptedEngine


@contextlib.contextmanager
def server_process(module: str, *arguments: str) -> Iterator[str]:
    """The URL of a server that says its port on a line."""
    command = [sys.executable, "-m", f"tests.environments.{module}", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


class InstanceAround:
    """The instance of an episode, for its workflow to find."""

    name = "the environment"

    def __init__(self, environments):
        self._environments = environments

    @contextlib.asynccontextmanager
    async def around(self, stage):
        task = stage.workflow_task
        instance = await self._environments.create(task.task, episode_id=task.episode_id, seed=0)
        try:
            yield replace(stage, workflow_task=replace(task, gym_env=instance))
        finally:
            await instance.release()


class Player(Workflow):
    """Says what its model says, until the episode is over; calls where it has tools."""

    name: str = "player"

    async def execute(self, workflow_task, model_tuner):
        instance = workflow_task.gym_env
        messages = list(instance.messages)
        while True:
            request = ChatRequest(messages=messages, tools=list(instance.tools))
            reply = await model_tuner._chat.complete(request)
            said = assistant_message(reply.text, tool_calls=reply.tool_calls)
            step = await instance.step(said)
            messages += [said, *step.messages]
            if step.terminated:
                break
        return WorkflowOutput(reward=await instance.evaluate(), metadata={"messages": messages})


def play(environments, task, script) -> Attempt:
    """One attempt of an agent whose model answers by the script."""

    def chat_of(recorder, _task):
        return make_chat(ScriptedEngine(script), recorder=recorder)

    settings = EpisodeSettings(
        make_workflow=Player,
        make_chat=chat_of,
        config=SimpleNamespace(),
        timeout_seconds=60.0,
        surroundings=(InstanceAround(environments),),
    )
    workflow_task = WorkflowTask(task=task, episode_id="e1", step=1, attempt=0, is_validation=False)

    async def played() -> Attempt:
        try:
            return await run_attempt(workflow_task, settings)
        finally:
            await environments.close()

    return asyncio.run(played())
