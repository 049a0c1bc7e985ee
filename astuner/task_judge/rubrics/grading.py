"""One answer graded by rubrics: one question to a model, a score and a reason for each."""

from collections.abc import Mapping
from dataclasses import dataclass

from astuner.llm import LanguageModel
from astuner.task_judge.rubrics.numbered_scores import scores_form
from astuner.task_judge.rubrics.prompts import grading_prompt
from astuner.task_judge.rubrics.rubric import RubricSet

_TOKENS_OF_A_SCORE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RubricGrade:
    """What a model gave one answer, a value for each rubric in their order."""

    rubrics: RubricSet
    scores: tuple[float, ...]
    """In the ranges of the rubrics."""
    reasons: tuple[str, ...]

    @property
    def shares(self) -> tuple[float, ...]:
        """The scores with 0 for the lowest of their range and 1 for the highest."""
        pairs = zip(self.rubrics.rubrics, self.scores, strict=True)
        return tuple(rubric.share_of(score) for rubric, score in pairs)

    @property
    def value(self) -> float:
        """The weighted mean of the shares, from 0 to 1."""
        return self.rubrics.weighted(self.shares)

    @property
    def parts(self) -> Mapping[str, float]:
        names = (rubric.name for rubric in self.rubrics.rubrics)
        return dict(zip(names, self.shares, strict=True))

    @property
    def note(self) -> str:
        """A line for each rubric: its score and why."""
        rows = zip(self.rubrics.rubrics, self.scores, self.reasons, strict=True)
        return "\n".join(
            f"{rubric.name} {score:g}/{rubric.max_score:g}: {reason.strip()}"
            for rubric, score, reason in rows
        )


async def grade(
    model: LanguageModel,
    rubrics: RubricSet,
    *,
    question: str,
    answer: str,
    reference: str | None,
    instructions: str | None = None,
    min_new_tokens: int = 0,
) -> RubricGrade:
    """Ask `model`, at temperature 0. Its answer may have 64 tokens for each rubric, and no fewer
    than `min_new_tokens`.

    Raises LlmError where the model gives no scores that fit.
    """
    prompt = grading_prompt(
        rubrics,
        question=question,
        answer=answer,
        reference=reference,
        instructions=instructions,
    )
    ranges = [(rubric.min_score, rubric.max_score) for rubric in rubrics.rubrics]
    said = await model.ask(
        prompt,
        schema=scores_form(ranges),
        max_new_tokens=answer_room(len(ranges), min_new_tokens),
    )
    scores = said.in_order()
    return RubricGrade(
        rubrics=rubrics,
        scores=tuple(score.score for score in scores),
        reasons=tuple(score.reason for score in scores),
    )


def answer_room(num_scores: int, min_new_tokens: int) -> int:
    """Tokens for an answer with so many scores and their reasons."""
    return max(min_new_tokens, (num_scores + 1) * _TOKENS_OF_A_SCORE)
