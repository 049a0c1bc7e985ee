"""An adder and a judge that do in a worker what user code may do, each in one attempt."""

import contextlib
import os
import signal
import sys
import time

from astuner import WorkflowOutput
from astuner.task_judge.base_judge import BaseJudge
from astuner.task_judge.math.equality import shared_comparer
from tests.agents.adder_and_checker import AdderAndCheckerWorkflow

EXITING_WORKFLOW, EXITING_JUDGE, HANGING_JUDGE, LOSING_JUDGE = (f"{task} 0" for task in range(4))
"""Task and attempt of a training step."""


def which(workflow_task):
    if workflow_task.is_validation:
        return None
    return f"{workflow_task.task.task_id} {workflow_task.attempt}"


class RoughWorkflow(AdderAndCheckerWorkflow):
    name: str = "rough"

    async def execute(self, workflow_task, model_tuner):
        if which(workflow_task) == EXITING_WORKFLOW:
            sys.exit("the workflow exits")
        with contextlib.suppress(RuntimeError):  # that one attempt of the adder raises
            await super().execute(workflow_task, model_tuner)
        return WorkflowOutput()


class RoughJudge(BaseJudge):
    """Asks the comparer of the math judge each time."""

    def compute_reward(self, workflow_task, workflow_output):
        if which(workflow_task) == EXITING_JUDGE:
            sys.exit("the judge exits")
        if which(workflow_task) == HANGING_JUDGE:
            time.sleep(3600)
        return self._compared(workflow_task)

    async def _compared(self, workflow_task):
        comparer = shared_comparer()
        if which(workflow_task) == LOSING_JUDGE:
            assert await comparer.is_equal("2x", "x+x", timeout_seconds=60)
            for process_id in comparer.idle_process_ids:
                os.kill(process_id, signal.SIGKILL)
        is_equal = await comparer.is_equal("3x", "x+x+x", timeout_seconds=60)
        return float(workflow_task.attempt % 2), is_equal
