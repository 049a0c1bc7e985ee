"""What every judge looks like: the class that `task_judge.judge_protocol` names.

Owns no judging. The rollout code makes the judge, calls it, and checks the number it gives.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import Any

from astuner.types import WorkflowOutput, WorkflowTask


class BaseJudge(ABC):
    """Gives an episode its reward when the workflow left `WorkflowOutput.reward` at None.

    Many episodes are judged at the same time, by one instance or by one instance each: keep no
    state of an episode on `self`. A judge that waits for something (a model, a service) writes
    `async def compute_reward`, so that the other episodes go on meanwhile.
    """

    def __init__(self, config: Any) -> None:
        """`config` is the whole resolved configuration: `config.astuner.task_judge…`."""
        self.config = config

    @abstractmethod
    def compute_reward(
        self, workflow_task: WorkflowTask, workflow_output: WorkflowOutput
    ) -> tuple[float, bool] | Awaitable[tuple[float, bool]]:
        """Return `(raw_reward, is_success)`, or an awaitable of it.

        Raises JudgeError when no verdict is possible: the episode then counts as failed, which
        is not the same as a reward of 0.
        """
