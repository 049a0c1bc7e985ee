"""A workflow that does what its task says, for runs whose agents have processes of their own."""

import logging
import os
import sys
import time

import openai

from astuner import Workflow, WorkflowOutput


class Own:
    def __str__(self) -> str:
        return "an object of its own"


class ManyWaysWorkflow(Workflow):
    name: str = "many ways"

    async def execute(self, workflow_task, model_tuner):
        done = await getattr(self, workflow_task.task.main_query)(model_tuner)
        return WorkflowOutput(
            reward=float(workflow_task.attempt), metadata={"pid": os.getpid()} | done
        )

    async def own(self, model_tuner):
        return {"held": Own(), "said": await ask(model_tuner)}

    async def speak(self, model_tuner):
        sys.stdout.write("printed by an agent\n")
        sys.stderr.write("complained by an agent\n")
        logging.getLogger("astuner.shop").warning("warned by an agent")
        return {"said": await ask(model_tuner)}

    async def stop(self, model_tuner):
        return {"said": await ask(model_tuner, stop=["e", "5"])}

    async def stream(self, model_tuner):
        client = model_tuner.as_raw_openai_sdk_client()
        pieces = await client.chat.completions.create(messages=MESSAGES, model="m", stream=True)
        told = [piece.choices[0].delta.content or "" async for piece in pieces if piece.choices]
        return {"pieces": told}

    async def refuse(self, model_tuner):
        try:
            await ask(model_tuner, logit_bias={"5": 1})
        except openai.APIError as error:
            return {"refused": str(error)}

    async def play(self, model_tuner):
        said = await ask(model_tuner)
        client = model_tuner.as_raw_openai_sdk_client("frozen", "opponent", "reference")
        return {"said": said, "opponent": await _ask(client)}

    async def fail(self, model_tuner):
        raise ValueError("the shop is closed")

    async def exit(self, model_tuner):
        await ask(model_tuner)
        if os.fork() == 0:  # what it leaves behind has its files open
            time.sleep(15)
        os._exit(3)


MESSAGES = [{"role": "user", "content": "What is 2 plus 3?"}]


async def ask(tuner, **more):
    return await _ask(tuner.as_raw_openai_sdk_client(), **more)


async def _ask(client, **more):
    answer = await client.chat.completions.create(messages=MESSAGES, model="m", **more)
    return answer.choices[0].message.content


if "agents.process" in str(sys.modules["__main__"].__spec__) and "NOT_IN_PROCESSES" in os.environ:
    raise RuntimeError("this module works in the command's process only")
