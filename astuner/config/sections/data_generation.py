"""`astuner.task_reader.data_generation`: tasks out of documents and a few examples."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from astuner.config.section import Section, UsedBy, setting
from astuner.config.sections.plain_readers import (
    EnvServiceReaderSettings,
    HarborReaderSettings,
    HuggingfaceReaderSettings,
    OpenEnvReaderSettings,
    OrsReaderSettings,
    ReasoningGymReaderSettings,
)
from astuner.config.sections.reader_type import ReaderType, TrainingFileSettings

Fraction = Annotated[float, Field(ge=0, le=1)]

_AS_READER = "As the section of task_reader of that name; null: not filled."


class DocumentReaderSettings(Section):
    document_path: list[str] = setting(
        UsedBy.ALL,
        "Documents: files, folders with all below them, or patterns such as docs/**/*.md.",
    )
    languages: list[str] = setting(
        UsedBy.ALL, "Languages of the documents, three letters each; only said in the card."
    )
    chunk_size: PositiveInt = setting(UsedBy.ALL, "Most characters of one piece of a document.")
    max_chunk_tokens: PositiveInt | None = setting(
        UsedBy.ALL, "Most tokens of one piece, by the tokenizer of model.path; null: no limit."
    )
    split_by: Literal["sentence", "paragraph", "character"] = setting(
        UsedBy.ALL, "Unit that pieces end at."
    )
    cache_enabled: bool = setting(UsedBy.ALL, "Keep the text of documents on disk.")
    max_file_mb: PositiveFloat = setting(UsedBy.ALL, "A larger file is not read, and named.")


class QueryReaderSettings(Section):
    """Where a section is not null, what it does not say is as in the defaults of `task_reader`."""

    type: ReaderType = setting(
        UsedBy.ALL, "Where the seed questions come from: the section below that is read."
    )
    jsonl_dataset_file: TrainingFileSettings
    huggingface_dat_repo: HuggingfaceReaderSettings | None = setting(UsedBy.ALL, _AS_READER)
    env_service: EnvServiceReaderSettings | None = setting(UsedBy.ALL, _AS_READER)
    reasoning_gym: ReasoningGymReaderSettings | None = setting(UsedBy.ALL, _AS_READER)
    openenv: OpenEnvReaderSettings | None = setting(UsedBy.ALL, _AS_READER)
    ors: OrsReaderSettings | None = setting(UsedBy.ALL, _AS_READER)
    harbor: HarborReaderSettings | None = setting(UsedBy.ALL, _AS_READER)


class SamplingParamsSettings(Section):
    temperature: NonNegativeFloat = setting(UsedBy.ALL)


class DeduplicationParamsSettings(Section):
    similarity_threshold: Fraction = setting(
        UsedBy.ALL, "Pairs whose embeddings have a higher cosine are duplicates."
    )
    db_path: str = setting(UsedBy.ALL, "Folder of the store of embeddings.")
    model: str = setting(UsedBy.ALL, "Embedding model: a name on the server, or a local folder.")
    api_key: str | None = setting(UsedBy.ALL, "null: from the environment.")
    base_url: str = setting(UsedBy.ALL, "OpenAI-compatible embedding service.")


class DeduplicationSettings(Section):
    type: Literal["deduplication"] = setting(UsedBy.ALL)
    enabled: bool = setting(UsedBy.ALL, "Whether embeddings are compared too, beside the texts.")
    max_ngram_overlap: Fraction = setting(
        UsedBy.ALL, "Pairs that share more of their word n-grams (Jaccard) are duplicates."
    )
    params: DeduplicationParamsSettings


class DraftGatesSettings(Section):
    self_contained: bool = setting(
        UsedBy.ALL, "Refuse questions that point to a text the agent does not see."
    )
    num_solutions: NonNegativeInt = setting(
        UsedBy.ALL, "Independent answers with the chunk that must agree with the draft's; 0: none."
    )
    closed_book: bool = setting(
        UsedBy.ALL, "Refuse questions that the model answers without the chunk."
    )
    personal_data: Literal["refuse", "mask", "keep"] = setting(
        UsedBy.ALL, "What becomes of drafts with personal data or secrets."
    )
    judge_fit: bool = setting(
        UsedBy.ALL, "Refuse answers that the run's judge would not take for right."
    )


class PassRateSettings(Section):
    enabled: bool = setting(
        UsedBy.ALL, "Measure how often the model to be tuned solves a task, by rollouts."
    )
    num_attempts: PositiveInt = setting(UsedBy.ALL, "Attempts at each task.")
    above: Fraction = setting(UsedBy.ALL, "Tasks that are solved this often or less are left out.")
    below: Fraction = setting(UsedBy.ALL, "Tasks that are solved this often or more are left out.")
    base_url: str | None = setting(
        UsedBy.ALL,
        "OpenAI-compatible server of the model to be tuned; null: model.path, on this machine.",
        min_length=1,
    )
    model: str | None = setting(UsedBy.ALL, "Its name there.", min_length=1)
    api_key_env: str = setting(
        UsedBy.ALL, "Environment variable with the key of base_url.", min_length=1
    )


class GenerationBudgetSettings(Section):
    max_calls: PositiveInt | None = setting(UsedBy.ALL, "Requests; null: no limit.")
    max_tokens: PositiveInt | None = setting(
        UsedBy.ALL, "Tokens, of questions and answers together; null: no limit."
    )
    max_cost: PositiveFloat | None = setting(
        UsedBy.ALL, "In the currency of the prices, which it needs; null: no limit."
    )
    price_per_million_input_tokens: NonNegativeFloat | None = setting(
        UsedBy.ALL, "null: no cost is told."
    )
    price_per_million_output_tokens: NonNegativeFloat | None = setting(
        UsedBy.ALL, "null: no cost is told."
    )


class DataGenerationSettings(Section):
    output_dir: str | None = setting(
        UsedBy.ALL,
        "Folder of the set; null: generated_tasks/ and the name of the YAML.",
        min_length=1,
    )
    document_reader: DocumentReaderSettings
    query_reader: QueryReaderSettings
    task_num: PositiveInt = setting(
        UsedBy.ALL, "Tasks to make, those for validation and test included."
    )
    validation_fraction: float = setting(
        UsedBy.ALL, "Of the tasks, made from documents and seeds of their own.", ge=0, lt=1
    )
    test_fraction: float = setting(
        UsedBy.ALL,
        "The same for a test, on which no run trains and by which none chooses.",
        ge=0,
        lt=1,
    )
    max_drafts_per_task: PositiveFloat = setting(
        UsedBy.ALL, "It ends after so many drafts for each task that is wanted."
    )
    max_failed_fraction: Fraction = setting(
        UsedBy.ALL, "It ends where more drafts than that got no answer."
    )
    seed: int = setting(UsedBy.ALL, "Of the order of chunks, styles and examples.")
    language: str | None = setting(
        UsedBy.ALL, "Name of the language of the tasks; null: that of the document.", min_length=1
    )
    styles: list[str] = setting(
        UsedBy.ALL,
        "Kinds of questions, in turns: fact, steps, comparison, number, yes_no, tool_use, or names "
        "of own_styles.",
        min_length=1,
    )
    own_styles: dict[str, str] = setting(
        UsedBy.ALL, "Name: what the model is told about this kind of question."
    )
    num_examples: NonNegativeInt = setting(UsedBy.ALL, "Seeds that are shown with a draft.")
    licence: str | None = setting(UsedBy.ALL, "Of the documents, for the card.", min_length=1)
    llm_model: str = setting(UsedBy.ALL, "Model that writes and checks the tasks.")
    llm_response_length: PositiveInt = setting(UsedBy.ALL, "Most new tokens of one answer of it.")
    num_workers: PositiveInt = setting(UsedBy.ALL, "Requests at the same time.")
    sampling_params: SamplingParamsSettings
    gates: DraftGatesSettings
    filter: DeduplicationSettings
    pass_rate: PassRateSettings
    budget: GenerationBudgetSettings
