"""`astuner.task_reader`: where tasks come from, a subsection for each type."""

from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from astuner.config.section import Section

ReaderType = Literal[
    "jsonl_dataset_file",
    "huggingface_dat_repo",
    "env_service",
    "data_generation",
    "tracing",
    "random_dummy",
]


class FileSettings(Section):
    file_path: str | None = Field(description="A jsonl file, one task a line.")


class TrainingFileSettings(Section):
    training: FileSettings


class SplitFileSettings(Section):
    training: FileSettings
    validation: FileSettings


class HuggingfaceReaderSettings(Section):
    dataset_path: str = Field(description="Folder or hub name, with the subset behind a slash.")
    training_split: str
    validation_split: str | None = Field(description="null: no validation.")
    query_column: str = Field(description="Column of the question.")
    answer_column: str | None = Field(description="Column of the reference answer.")
    id_column: str | None = Field(description="Column of the task id; null: the row's number.")


class EnvServiceReaderSettings(Section):
    env_type: str = Field(description="Name of the environment.")
    env_url: str = Field(description="Where the environment service listens.")
    env_action_preference: Literal["code", "text", "box"] = Field(description="Form of an action.")
    training_split: str
    validation_split: str | None = Field(description="null: no validation.")


class RandomDummyReaderSettings(Section):
    num_tasks: PositiveInt = Field(description="Tasks to make up.")


class DocumentReaderSettings(Section):
    document_path: list[str] = Field(description="Source documents.")
    languages: list[str] = Field(description="Languages of scanned text, three letters each.")
    chunk_size: PositiveInt = Field(description="Characters of one piece of a document.")
    split_by: str = Field(description="Unit that pieces end at.")
    cache_enabled: bool = Field(description="Keep parsed documents on disk.")


class QueryReaderSettings(Section):
    type: ReaderType = Field(description="Where the seed questions come from.")
    jsonl_dataset_file: TrainingFileSettings


class SamplingParamsSettings(Section):
    temperature: NonNegativeFloat


class DeduplicationParamsSettings(Section):
    similarity_threshold: float = Field(ge=0, le=1, description="Closer pairs are duplicates.")
    db_path: str = Field(description="Folder of the store of embeddings.")
    model: str = Field(description="Embedding model.")
    api_key: str | None = Field(description="null: from the environment.")
    base_url: str = Field(description="OpenAI-compatible embedding service.")


class DeduplicationSettings(Section):
    type: Literal["deduplication"]
    enabled: bool
    params: DeduplicationParamsSettings


class DataGenerationSettings(Section):
    document_reader: DocumentReaderSettings
    query_reader: QueryReaderSettings
    task_num: PositiveInt = Field(description="Tasks to make.")
    llm_model: str = Field(description="Model that writes the tasks.")
    llm_response_length: PositiveInt = Field(description="Most new tokens of one answer of it.")
    num_workers: PositiveInt = Field(description="Requests at the same time.")
    sampling_params: SamplingParamsSettings
    filter: DeduplicationSettings


class FeedbackTracingSettings(Section):
    base_url: str | None = Field(description="Database file that holds the traces.")
    train_output_path: str | None = Field(description="Where the jsonl of tasks is written.")
    alien_llm_model: str = Field(description="Auxiliary model that judges the traces.")
    alien_llm_response_length: PositiveInt = Field(description="Most new tokens of its answer.")
    filters: list[dict[str, Any]] = Field(
        description="Each {type, enabled, params}; type llm_evaluate or deduplication."
    )


class TaskReaderSettings(Section):
    type: ReaderType = Field(description="The section below that is read.")
    jsonl_dataset_file: SplitFileSettings
    huggingface_dat_repo: HuggingfaceReaderSettings
    env_service: EnvServiceReaderSettings
    random_dummy: RandomDummyReaderSettings
    data_generation: DataGenerationSettings
    feedback_tracing: FeedbackTracingSettings
