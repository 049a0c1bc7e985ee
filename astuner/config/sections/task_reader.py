"""`astuner.task_reader`: where tasks come from, a subsection for each type."""

from typing import Any

from pydantic import PositiveFloat, PositiveInt

from astuner.config.section import Section, UsedBy, setting
from astuner.config.sections.data_generation import DataGenerationSettings
from astuner.config.sections.plain_readers import (
    EnvServiceReaderSettings,
    HarborReaderSettings,
    HuggingfaceReaderSettings,
    OpenEnvReaderSettings,
    OrsReaderSettings,
    RandomDummyReaderSettings,
    ReasoningGymReaderSettings,
    SplitFileSettings,
)
from astuner.config.sections.reader_type import ReaderType


class FeedbackTracingSettings(Section):
    base_url: str | None = setting(UsedBy.ALL, "Database file that holds the traces.")
    train_output_path: str | None = setting(UsedBy.ALL, "Where the jsonl of tasks is written.")
    alien_llm_model: str = setting(UsedBy.ALL, "Auxiliary model that judges the traces.")
    alien_llm_response_length: PositiveInt = setting(UsedBy.ALL, "Most new tokens of its answer.")
    filters: list[dict[str, Any]] = setting(
        UsedBy.ALL, "Each {type, enabled, params}; type llm_evaluate or deduplication."
    )


class OneReaderSettings(Section):
    type: ReaderType = setting(UsedBy.ALL, "The section below that is read.")
    jsonl_dataset_file: SplitFileSettings
    huggingface_dat_repo: HuggingfaceReaderSettings
    env_service: EnvServiceReaderSettings
    random_dummy: RandomDummyReaderSettings
    reasoning_gym: ReasoningGymReaderSettings
    openenv: OpenEnvReaderSettings
    ors: OrsReaderSettings
    harbor: HarborReaderSettings
    data_generation: DataGenerationSettings
    feedback_tracing: FeedbackTracingSettings


class MixedSourceSettings(OneReaderSettings):
    """One source of a mixture: what it does not say of its section is as in the defaults."""

    share: PositiveFloat = setting(UsedBy.ALL, "Of each batch, in relation to the others' shares.")
    workflow: str | None = setting(
        UsedBy.ALL, "Of its tasks; null: that of rollout.agentscope_workflow.", min_length=1
    )
    judge: str | None = setting(
        UsedBy.ALL, "Of its tasks; null: that of task_judge.judge_protocol.", min_length=1
    )


class MixtureReaderSettings(Section):
    sources: dict[str, MixedSourceSettings] = setting(
        UsedBy.ALL,
        "By name: {share: 2, type: jsonl_dataset_file, jsonl_dataset_file: {...}}, with workflow "
        "and judge where they are its own.",
    )


class TaskReaderSettings(OneReaderSettings):
    mixture: MixtureReaderSettings
