"""`astuner.task_judge`: who judges episodes, and how."""

from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from astuner.config.section import Section, UsedBy, setting
from astuner.config.sections.task_reader import ReaderType, TrainingFileSettings


class MathAnswerSettings(Section):
    accept_last_number: bool = setting(
        UsedBy.ALL, "Where nothing is boxed, the last number of the text is the answer."
    )


class RubricsAutoGraderSettings(Section):
    model_name: str = setting(UsedBy.ALL, "Model that grades.")
    grader_mode: Literal["pointwise", "listwise"] = setting(UsedBy.ALL)
    language: Literal["en", "zh"] = setting(UsedBy.ALL)
    query_specific_generate_number: PositiveInt = setting(UsedBy.ALL, "Rubrics of one question.")
    enable_categorization: bool = setting(UsedBy.ALL, "Group the rubrics.")
    categories_number: PositiveInt = setting(UsedBy.ALL, "Groups of rubrics.")
    grader_name: str = setting(UsedBy.ALL)
    query_field: str = setting(UsedBy.ALL, "Field of the question.")
    answer_field: str = setting(UsedBy.ALL, "Field of the answer to grade.")
    reference_field: str = setting(UsedBy.ALL, "Field of the reference answer.")
    custom_evaluation_prompt: Any = setting(UsedBy.ALL, "Text or mapping; null: the built-in one.")
    input_data_type: ReaderType = setting(UsedBy.ALL, "Where the labelled examples come from.")
    jsonl_dataset_file: TrainingFileSettings
    min_score: float = setting(UsedBy.ALL)
    max_score: float = setting(UsedBy.ALL)
    success_threshold: float = setting(UsedBy.ALL, "A grade from here on is a success.")
    max_retries: NonNegativeInt = setting(UsedBy.ALL, "Further tries of a failed request.")
    max_epochs: PositiveInt = setting(UsedBy.ALL, "Rounds of revision of one rubric.")
    batch_size: PositiveInt = setting(UsedBy.ALL, "Examples of one iteration.")
    mcr_batch_size: PositiveInt = setting(UsedBy.ALL, "Rubrics chosen in one iteration.")
    min_increment_threshold: NonNegativeFloat = setting(UsedBy.ALL, "Smaller gains do not count.")
    patience: PositiveInt = setting(UsedBy.ALL, "Iterations without a gain before stopping.")
    max_iterations: PositiveInt = setting(UsedBy.ALL)
    max_total_rubrics: PositiveInt = setting(UsedBy.ALL)


class TaskJudgeSettings(Section):
    judge_type: Literal["customized_protocol", "rubrics_auto_grader"] = setting(UsedBy.ALL)
    judge_protocol: str | None = setting(
        UsedBy.ALL, 'The judge class, "pkg.mod->Name"; null: workflows give every reward.'
    )
    judge_timeout_seconds: PositiveFloat = setting(UsedBy.ALL, "A judge that takes longer failed.")
    judge_in_process: bool = setting(
        UsedBy.ALL,
        "Ask the judge in processes of its own, which are ended where it takes too long, also in C "
        "code that holds the interpreter lock.",
    )
    math_answer: MathAnswerSettings
    alien_llm_model: str = setting(UsedBy.ALL, "Auxiliary model of judges that ask one.")
    alien_llm_response_length: PositiveInt = setting(UsedBy.ALL, "Most new tokens of its answer.")
    rubrics_auto_grader: RubricsAutoGraderSettings
