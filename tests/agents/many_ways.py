"""A workflow that does what its task says, for runs whose agents have processes of their own."""

import asyncio
import atexit
import gc
import logging
import os
import sys
import time
from pathlib import Path

import openai

from astuner import Workflow, WorkflowOutput
from astuner.llm import open_language_model
from tests.agents.adder import AdderWorkflow


class Own:
    def __str__(self) -> str:
        return "an object of its own"


class NotToBeRead(Exception):
    """Can be pickled, but not read again."""

    def __init__(self, one, other) -> None:
        super().__init__("one argument")


class BlockedWorkflow(AdderWorkflow):
    """Holds up its process for longer than any run, in the second step."""

    async def execute(self, workflow_task, model_tuner):
        if workflow_task.step == 2 and workflow_task.attempt == 0:
            Path("blocked").touch()
            time.sleep(600)
        return await super().execute(workflow_task, model_tuner)


class ManyWaysWorkflow(Workflow):
    name: str = "many ways"

    async def execute(self, workflow_task, model_tuner):
        done = await getattr(self, workflow_task.task.main_query)(model_tuner)
        return WorkflowOutput(
            reward=float(workflow_task.attempt), metadata={"pid": os.getpid()} | done
        )

    async def own(self, model_tuner):
        atexit.register(Path(f"left_in_order_{os.getpid()}").touch)
        said = await ask(model_tuner)
        looks = {"after": gc.get_threshold()[0], "passes_over": gc.get_freeze_count()}
        return {"held": Own(), "said": said, "looks_for_cycles": looks}

    async def speak(self, model_tuner):
        sys.stdout.write("printed by an agent\n")
        sys.stderr.write("complained by an agent\n")
        extra = {"reason": NotToBeRead(1, 2)}
        logging.getLogger("astuner.shop").warning("warned by an agent", extra=extra)
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

    async def consult(self, model_tuner):
        said = await ask(model_tuner)
        model = open_language_model(model_tuner.config.astuner.llm, "m", max_new_tokens=8)
        return {"said": said, "consulted": await model.ask("Is it?")}

    async def cancel(self, model_tuner):
        own = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not own]
        await asyncio.sleep(0.2)  # the others of its group have begun
        for task in others:
            task.cancel()
        return {"said": await ask(model_tuner)}

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


if "astuner.backbone.local.agents.process" in sys.modules and "NOT_IN_PROCESSES" in os.environ:
    raise RuntimeError("this module works in the command's process only")
