"""What a set of tasks is made from: which settings ask for it, its documents, its seeds, and what
all of that depends on. Reads files; asks no model.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astuner.backbone.judge_of_answers import answer_kind
from astuner.backbone.user_code import AnyJudge, judge_path, settings_of_own_judges
from astuner.config.generated_sets import section_key
from astuner.config.schema import Settings
from astuner.config.sections.data_generation import DataGenerationSettings, QueryReaderSettings
from astuner.errors import ConfigError, TaskReadError, described
from astuner.task_generation.answer_forms import AnswerKind
from astuner.task_generation.documents.document import DocumentChunk, DocumentSet
from astuner.task_generation.documents.reading import read_documents
from astuner.task_generation.documents.splitting import split_document
from astuner.task_generation.draft import DraftStyle
from astuner.task_generation.drafting.styles import chosen_styles
from astuner.task_generation.generated_set import TEXTS_DIR
from astuner.task_generation.prompt_versions import prompt_versions
from astuner.task_reader import make_task_reader
from astuner.task_reader.local_path import find_path
from astuner.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class SetOrder:
    """A set of tasks that a configuration asks for."""

    source: str
    """As `Task.source`; empty without a mixture."""
    section: DataGenerationSettings
    settings: Settings
    """With the judge of the source."""
    config: Any
    """What judges read."""
    folder: Path
    """Absolute."""
    home: Path
    """The current directory of the start, from which relative folders count."""
    search_dirs: tuple[Path, ...]
    """Where documents, seeds and modules are looked for."""
    judge_class: type[AnyJudge] | None = None
    """In place of the one that the settings name."""

    @property
    def key(self) -> str:
        """Where its settings stand."""
        return section_key(self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMaterial:
    """What was read for it."""

    documents: DocumentSet
    chunks: Sequence[DocumentChunk]
    seeds: Sequence[Task]
    styles: Sequence[DraftStyle]
    answers: AnswerKind
    """What the judge can judge by."""
    fingerprint: Mapping[str, Any]
    """By name, all that decides whether earlier drafts may be used."""


def set_order(
    settings: Settings,
    config: Any,
    *,
    source: str,
    section: DataGenerationSettings,
    folder: Path,
    home: Path,
    search_dirs: tuple[Path, ...],
    judge_class: type[AnyJudge] | None = None,
) -> SetOrder:
    """The order of one source; `judge_class` is that of sources without a judge of their own."""
    own = settings_of_own_judges(settings).get(source)
    return SetOrder(
        source=source,
        section=section,
        settings=own or settings,
        config=config,
        folder=folder,
        home=home,
        search_dirs=search_dirs,
        judge_class=None if own else judge_class,
    )


def read_material(
    order: SetOrder,
    *,
    say: Callable[[str], None],
    on_progress: Callable[[int, int], None],
) -> SetMaterial:
    """Raises ConfigError where there is neither a document nor a seed, or none can be read, and
    TaskReadError for seeds that cannot be read. `on_progress` is told how many of how many files
    were looked at."""
    section = order.section
    styles = chosen_styles(section.styles, section.own_styles)
    seeds = _read_seeds(order)
    documents = _read_documents(order, say, on_progress)
    if not seeds and not section.document_reader.document_path:
        raise ConfigError(
            f"{order.key} needs documents or seed questions, and has neither; name a folder in "
            "document_reader.document_path, or a file of questions in "
            "query_reader.jsonl_dataset_file.training.file_path"
        )
    answers = answer_kind(order.settings, order.search_dirs, order.judge_class)
    return SetMaterial(
        documents=documents,
        chunks=_split(order, documents),
        seeds=seeds,
        styles=styles,
        answers=answers,
        fingerprint=_fingerprint(order, documents, seeds, styles, answers),
    )


def _read_documents(
    order: SetOrder, say: Callable[[str], None], on_progress: Callable[[int, int], None]
) -> DocumentSet:
    reader = order.section.document_reader
    return read_documents(
        reader.document_path,
        order.search_dirs,
        cache_dir=order.folder / TEXTS_DIR if reader.cache_enabled else None,
        max_file_bytes=int(reader.max_file_mb * 1e6),
        say=say,
        on_progress=on_progress,
        set_folder=order.folder,
    )


def _split(order: SetOrder, documents: DocumentSet) -> list[DocumentChunk]:
    reader = order.section.document_reader
    count_tokens = _token_counter(order) if reader.max_chunk_tokens else None
    return [
        chunk
        for document in documents.documents
        for chunk in split_document(
            document,
            chunk_size=reader.chunk_size,
            split_by=reader.split_by,
            max_tokens=reader.max_chunk_tokens,
            count_tokens=count_tokens,
        )
    ]


def _token_counter(order: SetOrder) -> Callable[[str], int]:
    """Of the model to be tuned. Raises ConfigError where it has no tokenizer that can be had."""
    from transformers import AutoTokenizer

    path = order.settings.model.path
    key = f"{order.key}.document_reader.max_chunk_tokens"
    if path is None:
        raise ConfigError(f"{key} counts tokens of model.path, which is not set; set it, or null")
    try:
        tokenizer = AutoTokenizer.from_pretrained(find_path(path, order.search_dirs) or path)
    except Exception as error:  # whatever the package and the hub raise
        raise ConfigError(
            f"{key} counts tokens of model.path = {path}, whose tokenizer cannot be loaded: "
            f"{described(error)}; name a model that has one, or set {key} to null"
        ) from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def _read_seeds(order: SetOrder) -> list[Task]:
    reader = order.section.query_reader
    if reader.type == "jsonl_dataset_file" and not reader.jsonl_dataset_file.training.file_path:
        return []
    try:
        section = _section_of(reader)
        return make_task_reader(reader.type, section, order.search_dirs).get_training_tasks()
    except (ConfigError, TaskReadError) as error:
        raise type(error)(f"seeds of {order.key}.query_reader: {error}") from error


def _section_of(reader: QueryReaderSettings) -> dict[str, Any]:
    return getattr(reader, reader.type).model_dump()


def _fingerprint(
    order: SetOrder,
    documents: DocumentSet,
    seeds: Sequence[Task],
    styles: Sequence[DraftStyle],
    answers: AnswerKind,
) -> dict[str, Any]:
    """Models count by their names: a server may have another port tomorrow."""
    section, settings = order.section, order.settings
    reader, rates = section.document_reader, section.pass_rate
    gates, duplicates = section.gates, section.filter
    return {
        "documents": {document.name: document.digest for document in documents.documents},
        "chunk_size": reader.chunk_size,
        "max_chunk_tokens": reader.max_chunk_tokens,
        "tokenizer": settings.model.path if reader.max_chunk_tokens else None,
        "split_by": reader.split_by,
        "seeds": digest_of([task.model_dump(mode="json") for task in seeds]),
        "num_examples": section.num_examples,
        "styles": {style.name: style.instructions for style in styles},
        "language": section.language,
        "prompts": dict(prompt_versions()),
        "answers": answers,
        "llm_model": section.llm_model,
        "llm_response_length": section.llm_response_length,
        "temperature": section.sampling_params.temperature,
        "gates": gates.model_dump(),
        "judge": judge_path(settings) if gates.judge_fit else None,
        "max_ngram_overlap": duplicates.max_ngram_overlap,
        "embeddings": _embeddings(order),
        "pass_rate": _pass_rate(order) if rates.enabled else None,
        "seed": section.seed,
        "validation_fraction": section.validation_fraction,
        # Sets of releases that had none are the same set without one.
        **({"test_fraction": section.test_fraction} if section.test_fraction else {}),
    }


def _embeddings(order: SetOrder) -> dict[str, Any] | None:
    """Whether the environment has the key for them is no part of it: a set is not made anew on a
    machine without one."""
    duplicates = order.section.filter
    if not duplicates.enabled:
        return None
    params = duplicates.params
    return {
        "model": params.model,
        "similarity_threshold": params.similarity_threshold,
    }


def _pass_rate(order: SetOrder) -> dict[str, Any]:
    rates, rollout = order.section.pass_rate, order.settings.rollout
    model = order.settings.model
    return {
        **rates.model_dump(exclude={"enabled", "api_key_env", "base_url"}),
        "model_path": None if rates.base_url else model.path,
        "revision": None if rates.base_url else model.revision,
        "workflow": rollout.agentscope_workflow,
        "judge": judge_path(order.settings),
        "sampling": [rollout.temperature, rollout.top_p, rollout.seed],
    }


def digest_of(content: Any) -> str:
    """Equal for equal JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
