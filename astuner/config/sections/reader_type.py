"""The types of task readers, and the files that several sections name."""

from typing import Literal

from astuner.config.section import Section, UsedBy, setting

ReaderType = Literal[
    "jsonl_dataset_file",
    "huggingface_dat_repo",
    "env_service",
    "data_generation",
    "tracing",
    "random_dummy",
    "reasoning_gym",
    "openenv",
    "ors",
    "harbor",
    "mixture",
]


class FileSettings(Section):
    file_path: str | None = setting(UsedBy.ALL, "A jsonl file, one task a line.")


class TrainingFileSettings(Section):
    training: FileSettings
