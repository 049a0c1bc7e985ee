"""The same as `CombinedJudge` where a part compares the attempts at a task."""

from collections.abc import Mapping, Sequence
from typing import Any

from astuner.task_judge.asking_parts import all_of, judged_together, prepare_parts
from astuner.task_judge.base_judge import GroupJudge
from astuner.task_judge.combined_parts import Combination, JudgePart
from astuner.types import Judgement, WorkflowOutput, WorkflowTask


class CombinedGroupJudge(GroupJudge):
    """Its parts may be of either kind. A part that fails, fails the group."""

    def __init__(self, config: Any, *, parts: Mapping[str, JudgePart]) -> None:
        super().__init__(config)
        self._combination = Combination.of(config, parts)
        self.rubric = self._combination.rubric

    async def prepare(self) -> None:
        """Have every part ready."""
        await prepare_parts(self._combination.parts)

    async def compute_rewards(
        self, workflow_tasks: Sequence[WorkflowTask], workflow_outputs: Sequence[WorkflowOutput]
    ) -> list[Judgement]:
        parts = self._combination.parts
        judged = await all_of(
            {
                name: judged_together(name, part.judge, workflow_tasks, workflow_outputs)
                for name, part in parts.items()
            }
        )
        return [
            self._combination.combine({name: judged[name][index] for name in parts})
            for index in range(len(workflow_tasks))
        ]
