"""The judge that is made of judges, each with a weight; some may be gates."""

from collections.abc import Mapping
from typing import Any

from astuner.errors import ConfigError
from astuner.task_judge.asking_parts import all_of, judged_alone, prepare_parts
from astuner.task_judge.base_judge import BaseJudge
from astuner.task_judge.combined_parts import Combination, JudgePart
from astuner.types import Judgement, WorkflowOutput, WorkflowTask


class CombinedJudge(BaseJudge):
    """The mean of `task_judge.combined.parts` by their weights, never above 0 where a gate
    is shut; each part's reward stands in the verdict. A part that fails, fails the episode."""

    def __init__(self, config: Any, *, parts: Mapping[str, JudgePart]) -> None:
        """Raises ConfigError for a part that compares: CombinedGroupJudge takes those."""
        super().__init__(config)
        self._combination = Combination.of(config, parts)
        self.rubric = self._combination.rubric
        self._alone: dict[str, BaseJudge] = {}
        for name, part in parts.items():
            if not isinstance(part.judge, BaseJudge):
                raise ConfigError(
                    f"task_judge.combined.parts.{name}: {type(part.judge).__name__} compares the "
                    "attempts at a task; set task_judge.judge_protocol to astuner.task_judge."
                    "combined_group_judge->CombinedGroupJudge"
                )
            self._alone[name] = part.judge

    async def prepare(self) -> None:
        """Have every part ready."""
        await prepare_parts(self._combination.parts)

    async def compute_reward(
        self, workflow_task: WorkflowTask, workflow_output: WorkflowOutput
    ) -> Judgement:
        judged = await all_of(
            {
                name: judged_alone(name, judge, workflow_task, workflow_output)
                for name, judge in self._alone.items()
            }
        )
        return self._combination.combine(judged)
