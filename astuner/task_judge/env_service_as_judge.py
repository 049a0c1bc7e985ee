"""The judge for tasks of an environment, which says itself what an episode was worth.

Reads what was noted when the episode ended, so that no server is asked, and a record can be judged
again.
"""

from typing import Any

from astuner.errors import JudgeError
from astuner.task_judge.base_judge import BaseJudge
from astuner.types import WorkflowOutput, WorkflowTask


class EnvServiceJudge(BaseJudge):
    """With the environment's evaluation r: a success if r >= 1, and a reward of 0.5 r, for a
    success 1 more."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)

    def compute_reward(
        self, workflow_task: WorkflowTask, workflow_output: WorkflowOutput
    ) -> tuple[float, bool]:
        evaluation = _evaluation(workflow_task, workflow_output)
        is_success = evaluation >= 1.0
        return (1.0 if is_success else 0.0) + 0.5 * evaluation, is_success


def _evaluation(task: WorkflowTask, output: WorkflowOutput) -> float:
    noted = output.metadata.get("environment")
    found = noted.get("evaluation") if isinstance(noted, dict) else None
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise JudgeError(
            f"cannot judge task {task.task_id}: no environment evaluated the episode; found "
            f"metadata['environment'] = {noted!r:.80}; use this judge with a task_reader.type "
            "that has environments, such as env_service"
        )
    return float(found)
