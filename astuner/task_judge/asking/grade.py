"""The form in which a model grades: why, then a score within its range."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, create_model


class Grade(BaseModel):
    """The reason stands first, so that the score is given by a model that has said why."""

    reason: str = Field(description="Why, in one to three sentences.")
    score: float


class GradeWithSuccess(Grade):
    """For a rubric that says what a success is."""

    is_success: bool = Field(description="Whether the answer is a success by the rubric.")


def grade_form(*, min_score: float, max_score: float, asks_for_success: bool) -> type[Grade]:
    """The form whose score lies within the range, both ends included."""
    score: Any = Field(
        ge=min_score,
        le=max_score,
        allow_inf_nan=False,
        description=f"From {min_score:g}, the worst, to {max_score:g}, the best.",
    )
    base = GradeWithSuccess if asks_for_success else Grade
    return create_model(
        base.__name__, __base__=base, score=(Annotated[float, BeforeValidator(_no_truth)], score)
    )


def _no_truth(value: Any) -> Any:
    """Pydantic would take `true` for a 1."""
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    return value
