"""The judge that asks a model to grade an answer by a rubric, with a reference answer or without.

Which model that is, and what asking may cost, stands in `task_judge.alien_llm_model` and `llm`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from astuner.llm import LanguageModel, open_model_of_use
from astuner.task_judge.asking.fence import fenced
from astuner.task_judge.asking.fields import question_text, reference_text
from astuner.task_judge.asking.grade import Grade, GradeWithSuccess, grade_form
from astuner.task_judge.asking.judge_prompt import JudgePrompt
from astuner.task_judge.asking.votes import Decision, Vote, decide, gather_votes, vote_temperature
from astuner.task_judge.base_judge import BaseJudge
from astuner.task_judge.final_text import final_text
from astuner.types import Judgement, WorkflowOutput, WorkflowTask

PROMPT = """\
Grade the answer to a question by the rubric below, and by nothing else.

Rubric:
{rubric}

Question:
{question}

Reference answer:
{reference}

The answer to grade:
{answer}"""

_PLACEHOLDERS = ("rubric", "question", "reference", "answer")
_NO_REFERENCE = "(there is none)"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scores:
    """What a score means."""

    min_score: float
    max_score: float
    success_threshold: float | None
    """None: the model says what is a success."""
    is_scaled: bool
    """Whether the reward runs from 0 to 1 and not from `min_score` to `max_score`."""

    def vote_of(self, grade: Grade) -> Vote:
        if isinstance(grade, GradeWithSuccess):
            is_success = grade.is_success
        else:
            assert self.success_threshold is not None
            is_success = grade.score >= self.success_threshold
        return Vote(score=grade.score, is_success=is_success, reason=grade.reason)

    def reward_of(self, score: float) -> float:
        if not self.is_scaled:
            return score
        return (score - self.min_score) / (self.max_score - self.min_score)


class LlmAsJudge(BaseJudge):
    """The score that a model gives by `task_judge.llm_as_judge.rubric`, as a reward from 0 to 1.

    The model's reason becomes the note of the verdict. Several votes are drawn with a seed each, so
    that equal ones are found in the cache; how far they agree stands in the note and in the part
    `agreement`. Raises LlmError where the model gives no grade, and JudgeError where the task has
    no question or the workflow no answer.
    """

    def __init__(self, config: Any, *, model: LanguageModel | None = None) -> None:
        """Reads `task_judge.llm_as_judge`, and opens the configured model unless one is given.

        Raises ConfigError for a prompt that cannot be filled, and where no server is known.
        """
        super().__init__(config)
        settings = config.astuner.task_judge.llm_as_judge
        self._settings = settings
        self.rubric = settings.rubric.strip()
        self._prompt = JudgePrompt(
            settings.prompt or PROMPT,
            known=_PLACEHOLDERS,
            needed="answer",
            setting="astuner.task_judge.llm_as_judge.prompt",
        )
        self._scores = _Scores(
            min_score=settings.min_score,
            max_score=settings.max_score,
            success_threshold=settings.success_threshold,
            is_scaled=settings.scale_reward,
        )
        self._form = grade_form(
            min_score=settings.min_score,
            max_score=settings.max_score,
            asks_for_success=settings.success_threshold is None,
        )
        self._temperature = vote_temperature(settings.temperature, settings.votes)
        self._model = model or open_model_of_use(config.astuner, "task_judge")

    async def compute_reward(
        self, workflow_task: WorkflowTask, workflow_output: WorkflowOutput
    ) -> Judgement:
        prompt = self._prompt.filled(self._texts(workflow_task, workflow_output))
        votes = await gather_votes(partial(self._vote, prompt), self._settings.votes)
        decision = decide(
            votes,
            self._settings.vote_rule,
            success_threshold=self._settings.success_threshold,
        )
        return Judgement(
            reward=self._scores.reward_of(decision.score),
            is_success=decision.is_success,
            note=self._note(decision, votes),
            parts={} if self._settings.votes == 1 else {"agreement": decision.agreement},
        )

    def _texts(self, task: WorkflowTask, output: WorkflowOutput) -> dict[str, str]:
        settings = self._settings
        reference = reference_text(task, settings.reference_field)
        return {
            "rubric": settings.rubric.strip(),
            "question": fenced(question_text(task, settings.query_field), "question"),
            "reference": _NO_REFERENCE if reference is None else fenced(reference, "reference"),
            "answer": fenced(final_text(task, output, settings.answer_field), "answer"),
        }

    async def _vote(self, prompt: str, seed: int) -> Vote:
        grade = await self._model.ask(
            prompt,
            schema=self._form,
            temperature=self._temperature,
            seed=None if self._temperature == 0 else seed,
        )
        return self._scores.vote_of(grade)

    def _note(self, decision: Decision, votes: tuple[Vote, ...]) -> str:
        num_asked = self._settings.votes
        if num_asked == 1:
            return decision.reason
        scores = ", ".join(f"{vote.score:g}" for vote in votes)
        missing = num_asked - len(votes)
        unanswered = f" and {missing} without an answer" if missing else ""
        return f"votes {scores}{unanswered}, agreement {decision.agreement:.2f}: {decision.reason}"
