"""User code that keeps everything else of its process from running."""

import contextlib
import re
import time

from astuner import WorkflowOutput
from tests.agents.adder_and_checker import AdderAndCheckerWorkflow


class SpinningWorkflow(AdderAndCheckerWorkflow):
    """Does so in two attempts of the first step, and comes back to Python all the time."""

    name: str = "spinning"

    async def execute(self, workflow_task, model_tuner):
        if (workflow_task.step, workflow_task.attempt) == (1, 0):
            while True:
                time.sleep(0.01)
        with contextlib.suppress(RuntimeError):  # that one attempt of the adder raises
            await super().execute(workflow_task, model_tuner)
        return WorkflowOutput()


def backtracks(workflow_task, workflow_output):
    """Holds the interpreter lock in the second step."""
    if workflow_task.step == 2:
        re.match(r"(a+)+$", "a" * 40 + "b")
    return float(workflow_task.attempt % 2), True


async def sleeps(workflow_task, model_tuner):
    """Never comes back to Python."""
    time.sleep(600)
