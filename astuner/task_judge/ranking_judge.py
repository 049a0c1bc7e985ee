"""The judge that has a model compare the answers of one group, for tasks without a reference.

Source of the idea: RULER of ART, which scores the trajectories of a group relative to each other.
"""

from collections.abc import Sequence
from random import Random
from typing import Any

from astuner.errors import JudgeError
from astuner.llm import LanguageModel
from astuner.task_judge.base_judge import GroupJudge
from astuner.task_judge.rubrics.grading_settings import GradingSettings
from astuner.task_judge.rubrics.orders import seed_of
from astuner.task_judge.rubrics.ranking import ComparedTexts, rank
from astuner.types import Judgement, WorkflowOutput, WorkflowTask


class RankingJudge(GroupJudge):
    """Scores from 0 to 1 that say how much better one answer of the group is than another.

    The answers are shown together, in `ranking.orders` orders that the task and the step determine,
    and the scores of all orders are averaged. Equal answers are shown once and get equal rewards. A
    success is a reward from `success_threshold` on. The part `consistency`, where there were two
    answers and two orders, says how far the orders agreed, from -1 to 1; it is that of the group.

    A lone answer, as in a validation or where all others failed, is scored in the same way with
    nothing beside it: its reward compares with no other, and a group of one trains nothing. Raises
    an EpisodeError, so that the group counts as failed, where an answer is missing, the model
    leaves one out, or the group is too long for one question.
    """

    def __init__(self, config: Any, *, model: LanguageModel | None = None) -> None:
        """Reads `task_judge.ranking` and, where there are rubrics to compare by, as RubricsJudge.

        `model` stands in for the one that they name, and stays the caller's. Raises ConfigError
        where rubrics cannot be read, or no server is known.
        """
        super().__init__(config)
        judge = config.astuner.task_judge
        self._settings = GradingSettings.read(config.astuner)
        self.rubric = self._settings.rubrics and self._settings.rubrics.words
        self._model = model or self._settings.open_model(config.astuner)
        self._num_orders, self._max_chars = judge.ranking.orders, judge.ranking.max_chars
        self._min_new_tokens = judge.alien_llm_response_length

    async def compute_rewards(
        self, workflow_tasks: Sequence[WorkflowTask], workflow_outputs: Sequence[WorkflowOutput]
    ) -> list[Judgement]:
        settings, task = self._settings, workflow_tasks[0]
        pairs = zip(workflow_tasks, workflow_outputs, strict=True)
        answers = [settings.answer(*pair) for pair in pairs]
        distinct = sorted(set(answers))
        compared = ComparedTexts(
            question=settings.question(task),
            answers=tuple(distinct),
            reference=settings.reference(task),
            rubrics=settings.rubrics,
            instructions=settings.instructions,
        )
        self._check_length(compared, task)
        ranking = await rank(
            self._model,
            compared,
            num_orders=self._num_orders,
            random=Random(seed_of(task.task_id, task.step, task.is_validation)),
            min_new_tokens=self._min_new_tokens,
        )
        agreed = ranking.consistency
        parts = {} if agreed is None else {"consistency": agreed}
        by_answer = dict(
            zip(distinct, zip(ranking.values, ranking.notes, strict=True), strict=True)
        )
        return [
            Judgement(
                reward=value,
                is_success=value >= settings.success_threshold,
                note=note,
                parts=parts,
            )
            for value, note in map(by_answer.__getitem__, answers)
        ]

    def _check_length(self, compared: ComparedTexts, task: WorkflowTask) -> None:
        num_chars = len(compared.prompt(tuple(range(len(compared.answers)))))
        if num_chars > self._max_chars:
            raise JudgeError(
                f"cannot judge the group of task {task.task_id}: its {len(compared.answers)} "
                f"answers make a question of {num_chars:,} characters; "
                f"astuner.task_judge.ranking.max_chars = {self._max_chars:,}; raise it where the "
                "judge's model reads as much, or lower rollout.num_repeat"
            )
