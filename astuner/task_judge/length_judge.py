"""The judge of how long a reply is, mostly as a part of a CombinedJudge."""

from typing import Any

from astuner.errors import ConfigError
from astuner.task_judge.base_judge import BaseJudge
from astuner.task_judge.final_text import final_text
from astuner.types import Judgement, WorkflowOutput, WorkflowTask


class LengthJudge(BaseJudge):
    """1.0 up to `task_judge.length.target` characters or words, falling evenly to 0.0 at `max`."""

    def __init__(self, config: Any) -> None:
        """Raises ConfigError unless max is above target."""
        super().__init__(config)
        section = config.astuner.task_judge.length
        self._unit, self._target, self._max = section.unit, section.target, section.max
        if self._max <= self._target:
            raise ConfigError(
                f"task_judge.length: max is {self._max} and target {self._target}; set max above "
                "target"
            )

    def compute_reward(
        self, workflow_task: WorkflowTask, workflow_output: WorkflowOutput
    ) -> Judgement:
        text = final_text(workflow_task, workflow_output)
        found = len(text) if self._unit == "characters" else len(text.split())
        share = (self._max - found) / (self._max - self._target)
        reward = min(1.0, max(0.0, share))
        return Judgement(
            reward=reward, is_success=found <= self._target, note=f"{found} {self._unit}."
        )
