"""The steps that `task_reader.feedback_tracing.filters` lists, each with its `params`.

They stand in a list of the user's, so that what is not written has its default here.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from astuner.config.sections.data_generation import Fraction

FilterType = Literal[
    "mask",
    "choose",
    "cut",
    "reference",
    "llm_evaluate",
    "deduplication",
    "balance",
    "split",
]
ReferenceKind = Literal["correction", "accepted", "tool_result", "feedback"]


def _moment(value: Any) -> Any:
    """Seconds since 1970 of a date or a time in ISO 8601; without a zone, in UTC."""
    if not isinstance(value, str):
        return value
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("write a date or a time, such as 2026-11-29 or 2026-11-29T14:00") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


Moment = Annotated[float, BeforeValidator(_moment)]


class FilterParams(BaseModel):
    """What a step is told. Unknown names are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True
    )


class MaskParams(FilterParams):
    """Nothing to choose: `enabled: false` is what keeps secrets and personal data."""


class ChooseParams(FilterParams):
    errors: Literal["in", "out", "only"] = Field(
        default="in",
        description="Whether turns that failed are kept, left out, or all that is kept.",
    )
    feedback_above: float | None = Field(
        default=None,
        description="Keep what has feedback whose mean score is above; null: any, or none.",
    )
    feedback_below: float | None = Field(
        default=None,
        description="Keep what has feedback whose mean score is below; null: any, or none.",
    )
    feedback_name: str | None = Field(
        default=None, description="Only this feedback counts, such as user_feedback; null: all."
    )
    begin: Moment | None = Field(
        default=None, alias="from", description="Not before this date or time; null: no limit."
    )
    end: Moment | None = Field(
        default=None, alias="to", description="Before this date or time; null: no limit."
    )
    agents: list[str] = Field(default=[], description="Names of agents; none: all.")
    tags: list[str] = Field(default=[], description="Any of these tags; none: all.")
    max_per_user: int | None = Field(
        default=None,
        ge=1,
        description="At most so many of one user, the first ones; null: no limit.",
    )


class CutParams(FilterParams):
    turns: Literal["each", "last", "first", "feedback"] = Field(
        default="each",
        description="Which of a user's messages become tasks; feedback: those with any.",
    )
    max_per_trace: int = Field(
        default=20,
        ge=1,
        description="At most so many of one conversation: with feedback first, then last.",
    )


class ReferenceParams(FilterParams):
    order: list[ReferenceKind] = Field(
        default=["correction", "accepted", "tool_result", "feedback"],
        description="Where an answer is looked for, the first that has one counts.",
    )
    tools: list[str] = Field(
        default=[],
        description="Tools whose last result is the answer; none: of no tool.",
    )
    feedback_above: float = Field(
        default=0.5, description="The model's own answer counts where its mean score is above."
    )
    is_required: bool = Field(
        default=False, alias="required", description="Leave out what has no reference answer."
    )


class LlmEvaluateParams(FilterParams):
    custom_rubrics: str | list[str] | None = Field(
        default=None,
        description="What a good answer is; null: right and whole.",
    )
    temperature: float = Field(default=0.0, ge=0, description="Of the model that is asked.")
    print_reason: bool = Field(default=False, description="Show why each was kept or left out.")
    max_thread: int = Field(default=8, ge=1, description="Requests at the same time.")


class TraceDeduplicationParams(FilterParams):
    max_ngram_overlap: Fraction = Field(
        default=0.7,
        description="Pairs that share more of their word pairs (Jaccard) are duplicates.",
    )
    similarity_threshold: Fraction | None = Field(
        default=None,
        description="As in data_generation.filter.params; it and the next: by meaning too.",
    )
    db_path: str | None = Field(default=None, description="As there.")
    model: str | None = Field(default=None, description="As there.")
    api_key: str | None = Field(default=None, description="As there.")
    base_url: str | None = Field(default=None, description="As there.")

    def of_embeddings(self) -> dict[str, Any]:
        """What was written of comparing by meaning; empty: it is not asked for."""
        return self.model_dump(exclude={"max_ngram_overlap"}, exclude_none=True)


class BalanceParams(FilterParams):
    by: str | None = Field(
        default=None,
        description="Field of the trace's metadata that names the intent; null: by words.",
    )
    max_each: int = Field(
        default=50, ge=1, description="At most so many of one intent, the first ones."
    )
    similarity: Fraction = Field(
        default=0.4,
        description="Questions that share more of their words (Jaccard) have one intent.",
    )


class SplitParams(FilterParams):
    by: Literal["user", "session"] = Field(
        default="user",
        description="What stands on one side; user: with all its sessions, where known.",
    )
    validation_fraction: float = Field(default=0.2, ge=0, lt=1, description="Of the tasks.")
    test_fraction: float = Field(default=0.0, ge=0, lt=1, description="Of the tasks.")
    order: Literal["time", "random"] = Field(
        default="time", description="time: the newest are held out; random: any, by a digest."
    )


FILTER_PARAMS: Mapping[FilterType, type[FilterParams]] = {
    "mask": MaskParams,
    "choose": ChooseParams,
    "cut": CutParams,
    "reference": ReferenceParams,
    "llm_evaluate": LlmEvaluateParams,
    "deduplication": TraceDeduplicationParams,
    "balance": BalanceParams,
    "split": SplitParams,
}
