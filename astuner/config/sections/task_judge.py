"""`astuner.task_judge`: who judges episodes, and how."""

from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from astuner.config.section import Section
from astuner.config.sections.task_reader import ReaderType, TrainingFileSettings


class MathAnswerSettings(Section):
    accept_last_number: bool = Field(
        description="Where nothing is boxed, the last number of the text is the answer."
    )


class RubricsAutoGraderSettings(Section):
    model_name: str = Field(description="Model that grades.")
    grader_mode: Literal["pointwise", "listwise"]
    language: Literal["en", "zh"]
    query_specific_generate_number: PositiveInt = Field(description="Rubrics of one question.")
    enable_categorization: bool = Field(description="Group the rubrics.")
    categories_number: PositiveInt = Field(description="Groups of rubrics.")
    grader_name: str
    query_field: str = Field(description="Field of the question.")
    answer_field: str = Field(description="Field of the answer to grade.")
    reference_field: str = Field(description="Field of the reference answer.")
    custom_evaluation_prompt: Any = Field(description="Text or mapping; null: the built-in one.")
    input_data_type: ReaderType = Field(description="Where the labelled examples come from.")
    jsonl_dataset_file: TrainingFileSettings
    min_score: float
    max_score: float
    success_threshold: float = Field(description="A grade from here on is a success.")
    max_retries: NonNegativeInt = Field(description="Further tries of a failed request.")
    max_epochs: PositiveInt = Field(description="Rounds of revision of one rubric.")
    batch_size: PositiveInt = Field(description="Examples of one iteration.")
    mcr_batch_size: PositiveInt = Field(description="Rubrics chosen in one iteration.")
    min_increment_threshold: NonNegativeFloat = Field(description="Smaller gains do not count.")
    patience: PositiveInt = Field(description="Iterations without a gain before stopping.")
    max_iterations: PositiveInt
    max_total_rubrics: PositiveInt


class TaskJudgeSettings(Section):
    judge_type: Literal["customized_protocol", "rubrics_auto_grader"]
    judge_protocol: str | None = Field(
        description='The judge class, "pkg.mod->Name"; null: workflows give every reward.'
    )
    judge_timeout_seconds: PositiveFloat = Field(description="A judge that takes longer failed.")
    math_answer: MathAnswerSettings
    alien_llm_model: str = Field(description="Auxiliary model of judges that ask one.")
    alien_llm_response_length: PositiveInt = Field(description="Most new tokens of its answer.")
    rubrics_auto_grader: RubricsAutoGraderSettings
