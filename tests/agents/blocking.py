"""Workflows and a judge that keep everything else of their process from running."""

import re
import time

from astuner import WorkflowOutput


async def spins(workflow_task, model_tuner):
    while True:
        time.sleep(0.01)


async def sleeps(workflow_task, model_tuner):
    time.sleep(600)


async def unrewarded(workflow_task, model_tuner):
    return WorkflowOutput(metadata={})


def backtracks(workflow_task, workflow_output):
    return float(bool(re.match(r"(a+)+$", "a" * 40 + "b"))), True
