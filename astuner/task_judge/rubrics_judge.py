"""The judge that has a model grade each answer by rubrics, and weighs the scores.

For tasks whose answers no rule can compare. The rubrics are written by hand or drafted before.
"""

from typing import Any

from astuner.errors import ConfigError
from astuner.llm import LanguageModel
from astuner.task_judge.base_judge import BaseJudge
from astuner.task_judge.rubrics.grading import grade
from astuner.task_judge.rubrics.grading_settings import GradingSettings
from astuner.types import Judgement, WorkflowOutput, WorkflowTask


class RubricsJudge(BaseJudge):
    """The weighted mean of the scores, from `min_score` to `max_score`.

    A model is asked once for each answer, at temperature 0, and scores it by each rubric. A part of
    the reward, from 0 to 1, is each rubric's score in its range; the note says why. Raises an
    EpisodeError where the model gives no scores that fit, or the answer is missing.
    """

    def __init__(self, config: Any, *, model: LanguageModel | None = None) -> None:
        """Reads `task_judge.rubrics`, or for drafted rubrics `task_judge.rubrics_auto_grader`.

        `model` stands in for the one that they name, and stays the caller's. Raises ConfigError
        where rubrics cannot be read, or no server is known.
        """
        super().__init__(config)
        judge = config.astuner.task_judge
        self._settings = GradingSettings.read(config.astuner)
        self.rubric = self._settings.rubrics and self._settings.rubrics.words
        self._model = model or self._settings.open_model(config.astuner)
        self._min_new_tokens = judge.alien_llm_response_length
        if self._settings.rubrics is None and judge.judge_type == "customized_protocol":
            raise ConfigError(
                "RubricsJudge has no rubrics: astuner.task_judge.rubrics.file and inline are not "
                "set; name a file of rubrics, or write them below inline"
            )

    async def compute_reward(
        self, workflow_task: WorkflowTask, workflow_output: WorkflowOutput
    ) -> Judgement:
        settings = self._settings
        assert settings.rubrics is not None, "drafted before the first episode"
        given = await grade(
            self._model,
            settings.rubrics,
            question=settings.question(workflow_task),
            answer=settings.answer(workflow_task, workflow_output),
            reference=settings.reference(workflow_task),
            instructions=settings.instructions,
            min_new_tokens=self._min_new_tokens,
        )
        span = settings.max_score - settings.min_score
        reward = settings.min_score + span * given.value
        return Judgement(
            reward=reward,
            is_success=reward >= settings.success_threshold,
            note=given.note,
            parts=given.parts,
        )
