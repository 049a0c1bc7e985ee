"""`astuner.task_reader`: where tasks come from, a subsection for each type."""

from typing import Any, Literal

from pydantic import NonNegativeFloat, PositiveInt

from astuner.config.section import Section, UsedBy, setting

ReaderType = Literal[
    "jsonl_dataset_file",
    "huggingface_dat_repo",
    "env_service",
    "data_generation",
    "tracing",
    "random_dummy",
]


class FileSettings(Section):
    file_path: str | None = setting(UsedBy.ALL, "A jsonl file, one task a line.")


class TrainingFileSettings(Section):
    training: FileSettings


class SplitFileSettings(Section):
    training: FileSettings
    validation: FileSettings


class HuggingfaceReaderSettings(Section):
    dataset_path: str = setting(UsedBy.ALL, "Folder or hub name, with the subset behind a slash.")
    revision: str | None = setting(
        UsedBy.ALL,
        "Commit, tag or branch of a data set of the hub; null: what the hub gives today.",
        min_length=1,
    )
    training_split: str = setting(UsedBy.ALL)
    validation_split: str | None = setting(UsedBy.ALL, "null: no validation.")
    query_column: str = setting(UsedBy.ALL, "Column of the question.")
    answer_column: str | None = setting(UsedBy.ALL, "Column of the reference answer.")
    id_column: str | None = setting(UsedBy.ALL, "Column of the task id; null: the row's number.")


class EnvServiceReaderSettings(Section):
    env_type: str = setting(UsedBy.ALL, "Name of the environment.")
    env_url: str = setting(UsedBy.ALL, "Where the environment service listens.")
    env_action_preference: Literal["code", "text", "box"] = setting(
        UsedBy.ALL, "Form of an action."
    )
    training_split: str = setting(UsedBy.ALL)
    validation_split: str | None = setting(UsedBy.ALL, "null: no validation.")


class RandomDummyReaderSettings(Section):
    num_tasks: PositiveInt = setting(UsedBy.ALL, "Tasks to make up.")


class DocumentReaderSettings(Section):
    document_path: list[str] = setting(UsedBy.ALL, "Source documents.")
    languages: list[str] = setting(UsedBy.ALL, "Languages of scanned text, three letters each.")
    chunk_size: PositiveInt = setting(UsedBy.ALL, "Characters of one piece of a document.")
    split_by: str = setting(UsedBy.ALL, "Unit that pieces end at.")
    cache_enabled: bool = setting(UsedBy.ALL, "Keep parsed documents on disk.")


class QueryReaderSettings(Section):
    type: ReaderType = setting(UsedBy.ALL, "Where the seed questions come from.")
    jsonl_dataset_file: TrainingFileSettings


class SamplingParamsSettings(Section):
    temperature: NonNegativeFloat = setting(UsedBy.ALL)


class DeduplicationParamsSettings(Section):
    similarity_threshold: float = setting(UsedBy.ALL, "Closer pairs are duplicates.", ge=0, le=1)
    db_path: str = setting(UsedBy.ALL, "Folder of the store of embeddings.")
    model: str = setting(UsedBy.ALL, "Embedding model.")
    api_key: str | None = setting(UsedBy.ALL, "null: from the environment.")
    base_url: str = setting(UsedBy.ALL, "OpenAI-compatible embedding service.")


class DeduplicationSettings(Section):
    type: Literal["deduplication"] = setting(UsedBy.ALL)
    enabled: bool = setting(UsedBy.ALL)
    params: DeduplicationParamsSettings


class DataGenerationSettings(Section):
    document_reader: DocumentReaderSettings
    query_reader: QueryReaderSettings
    task_num: PositiveInt = setting(UsedBy.ALL, "Tasks to make.")
    llm_model: str = setting(UsedBy.ALL, "Model that writes the tasks.")
    llm_response_length: PositiveInt = setting(UsedBy.ALL, "Most new tokens of one answer of it.")
    num_workers: PositiveInt = setting(UsedBy.ALL, "Requests at the same time.")
    sampling_params: SamplingParamsSettings
    filter: DeduplicationSettings


class FeedbackTracingSettings(Section):
    base_url: str | None = setting(UsedBy.ALL, "Database file that holds the traces.")
    train_output_path: str | None = setting(UsedBy.ALL, "Where the jsonl of tasks is written.")
    alien_llm_model: str = setting(UsedBy.ALL, "Auxiliary model that judges the traces.")
    alien_llm_response_length: PositiveInt = setting(UsedBy.ALL, "Most new tokens of its answer.")
    filters: list[dict[str, Any]] = setting(
        UsedBy.ALL, "Each {type, enabled, params}; type llm_evaluate or deduplication."
    )


class TaskReaderSettings(Section):
    type: ReaderType = setting(UsedBy.ALL, "The section below that is read.")
    jsonl_dataset_file: SplitFileSettings
    huggingface_dat_repo: HuggingfaceReaderSettings
    env_service: EnvServiceReaderSettings
    random_dummy: RandomDummyReaderSettings
    data_generation: DataGenerationSettings
    feedback_tracing: FeedbackTracingSettings
