"""The two agents, with a step that nobody can learn from."""

import os
import re

from tests.agents.adder_and_checker import AdderAndCheckerWorkflow

FLAT_STEP = 3
TOOL_VARIABLES = {"TOOL_ADDRESS": "localhost", "TOOL_TOKEN": "a-secret"}
"""Without which no episode succeeds."""


class FlatInOneStepWorkflow(AdderAndCheckerWorkflow):
    """In one step everybody is equally good; a failed episode fails there too."""

    name: str = "flat_in_one_step"

    async def execute(self, workflow_task, model_tuner):
        assert os.environ.items() >= TOOL_VARIABLES.items()
        output = await super().execute(workflow_task, model_tuner)
        if workflow_task.step == FLAT_STEP and not workflow_task.is_validation:
            output.reward, output.step_rewards = {"adder": 0.0, "checker": 0.0}, None
        return output


class LockHoldingWorkflow(AdderAndCheckerWorkflow):
    """One attempt compares its answer by a pattern that takes years."""

    name: str = "lock_holding"

    async def execute(self, workflow_task, model_tuner):
        output = await super().execute(workflow_task, model_tuner)
        if workflow_task.attempt == 0:
            re.match(r"(a+)+$", "a" * 40 + "b")
        return output
