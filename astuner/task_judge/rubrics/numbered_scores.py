"""The form of an answer that scores several things by their numbers, each once and in its range."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, create_model

Range = tuple[float, float]
"""The lowest and the highest score."""


class NumberedScore(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int
    reason: str
    score: float


class NumberedScores(BaseModel):
    model_config = ConfigDict(extra="forbid")

    scores: list[NumberedScore]

    def in_order(self) -> list[NumberedScore]:
        return sorted(self.scores, key=lambda score: score.number)


def scores_form(ranges: Sequence[Range]) -> type[NumberedScores]:
    """The schema of scores for 1, 2 … with these ranges: none left out, none twice."""
    checked = Annotated[list[NumberedScore], AfterValidator(partial(_check, tuple(ranges)))]
    return create_model("Scores", __base__=NumberedScores, scores=(checked, ...))


def _check(ranges: Sequence[Range], scores: list[NumberedScore]) -> list[NumberedScore]:
    numbers = [score.number for score in scores]
    wanted = range(1, len(ranges) + 1)
    if sorted(numbers) != list(wanted):
        missing = sorted(set(wanted) - set(numbers))
        twice = sorted({number for number in numbers if numbers.count(number) > 1})
        unknown = sorted(set(numbers) - set(wanted))
        raise ValueError(
            f"each number from 1 to {len(ranges)} must be scored once; missing {missing}, scored "
            f"more than once {twice}, unknown {unknown}"
        )
    for score in scores:
        lowest, highest = ranges[score.number - 1]
        if not lowest <= score.score <= highest:
            raise ValueError(
                f"the score of {score.number} is {score.score}, not from {lowest:g} to {highest:g}"
            )
    return scores
