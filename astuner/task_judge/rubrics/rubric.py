"""What a rubric is, and a set of them as it stands in a file. Owns no files and asks no model."""

from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    field_validator,
    model_validator,
)

VERSION = 1
"""Of the format that is written; a file of another one is refused."""


class _RubricForm(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Rubric(_RubricForm):
    """One thing that an answer is graded by."""

    name: str = Field(min_length=1)
    text: str = Field(min_length=1)
    """What earns the highest score, in words for whoever grades."""
    weight: NonNegativeFloat = 1.0
    """In relation to the weights of the others."""
    min_score: float = 0
    """The lowest score that it is graded with."""
    max_score: float = 4

    @model_validator(mode="after")
    def _has_a_range(self) -> Self:
        if self.min_score >= self.max_score:
            raise ValueError(
                f"min_score {self.min_score:g} is not below max_score {self.max_score:g}"
            )
        return self

    def share_of(self, score: float) -> float:
        """Where the score stands in the range: 0 for the lowest, 1 for the highest."""
        return (score - self.min_score) / (self.max_score - self.min_score)


Day = Annotated[
    str, BeforeValidator(lambda value: str(value) if isinstance(value, date) else value)
]
"""As 2026-01-31, which YAML reads as a date."""


class Making(_RubricForm):
    """How a set of rubrics came to be."""

    by: Literal["hand", "model"] = "hand"
    model: str | None = None
    """None where a person wrote them; so below."""
    examples_digest: str | None = None
    """Of the labelled examples and of how they were read."""
    num_examples: int | None = None
    agreement: float | None = None
    """With the labels, from 0 to 1."""
    date: Day | None = None


class RubricSet(_RubricForm):
    """The rubrics that answers are graded by together."""

    version: Literal[1]
    name: str = Field(default="rubrics", min_length=1)
    language: str | None = None
    """Which the reasons are written in, such as en; None: that of the rubrics."""
    made: Making = Making()
    rubrics: tuple[Rubric, ...] = Field(min_length=1, strict=False)

    @field_validator("rubrics")
    @classmethod
    def _fit_together(cls, rubrics: tuple[Rubric, ...]) -> tuple[Rubric, ...]:
        problem = next(_problems(rubrics), None)
        if problem is not None:
            raise ValueError(problem)
        return rubrics

    def weighted(self, shares: tuple[float, ...]) -> float:
        """The mean of one share for each rubric, by their weights."""
        whole = sum(rubric.weight for rubric in self.rubrics)
        pairs = zip(self.rubrics, shares, strict=True)
        return sum(rubric.weight * share for rubric, share in pairs) / whole

    @property
    def words(self) -> str:
        """What all of them ask for, a line each."""
        return "\n".join(rubric.text for rubric in self.rubrics)

    def as_items(self) -> list[dict[str, Any]]:
        """The rubrics as plain values, as they stand in settings."""
        return [rubric.model_dump() for rubric in self.rubrics]


def plainly(text: str) -> str:
    """The same for texts that differ in letter case, spaces and punctuation only."""
    return "".join(character for character in text.casefold() if character.isalnum())


def _problems(rubrics: tuple[Rubric, ...]) -> Iterator[str]:
    for field in ("name", "text"):
        seen: dict[str, int] = {}
        for number, rubric in enumerate(rubrics, start=1):
            value = getattr(rubric, field)
            first = seen.setdefault(plainly(value) or value, number)
            if first != number:
                yield (
                    f"rubric {number} has the {field} of rubric {first}, {value!r:.60}; take one "
                    "of them out, or say what tells them apart"
                )
    if sum(rubric.weight for rubric in rubrics) == 0:
        yield "the weights sum to 0, so no rubric counts; give at least one a weight above 0"
