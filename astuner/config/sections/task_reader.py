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
    base_url: str | list[str] | None = setting(
        UsedBy.ALL,
        "Where the traces are: a file, folder, database or address of a server, or several; null: "
        "none are read, and the tasks have been made.",
    )
    format: str | None = setting(
        UsedBy.ALL, "Of the traces; null: it is recognised by their content.", min_length=1
    )
    train_output_path: str | None = setting(
        UsedBy.ALL,
        "The jsonl of training tasks; those of validation and test lie beside it. null: "
        "traced_tasks/ and the name of the YAML.",
        min_length=1,
    )
    alien_llm_model: str = setting(UsedBy.ALL, "Model that llm_evaluate asks.")
    alien_llm_response_length: PositiveInt = setting(UsedBy.ALL, "Most new tokens of its answer.")
    filters: list[dict[str, Any]] = setting(
        UsedBy.ALL,
        "Steps in order, each {type, enabled, params}: mask, choose, cut, reference, llm_evaluate, "
        "deduplication, balance, split; their params stand in sections/trace_filters.py. Without "
        "any: cut, reference and deduplication, beside mask and split, which are always there.",
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
