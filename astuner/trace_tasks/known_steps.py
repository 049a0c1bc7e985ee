"""The table of steps: each opened from its params and what there is to work with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from astuner.config.sections.data_generation import DeduplicationParamsSettings
from astuner.config.sections.trace_filters import (
    BalanceParams,
    ChooseParams,
    CutParams,
    FilterType,
    LlmEvaluateParams,
    ReferenceParams,
    TraceDeduplicationParams,
)
from astuner.config.trace_steps import PlannedStep
from astuner.llm import LanguageModel
from astuner.trace_tasks.known_task import KnownTask
from astuner.trace_tasks.step import EachStep, TraceStep
from astuner.trace_tasks.steps.choose import TraceChoice
from astuner.trace_tasks.steps.cut import cut
from astuner.trace_tasks.steps.llm_evaluate import LlmEvaluation
from astuner.trace_tasks.steps.reference import ReferenceStep


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMaterial:
    """What steps work with beside their params."""

    known: Mapping[str, KnownTask]
    """Tasks that are there already, by their ids."""
    open_model: Callable[[int], LanguageModel]
    """Of so many requests at the same time; opened where a step asks one."""
    embedding: Mapping[str, Any]
    """What `data_generation.filter.params` is by default."""
    home: Path
    """The current directory of the start, from which relative folders count."""
    llm: Any
    """The section of settings, for the embedding model."""
    say: Callable[[str], None]


_Make = Callable[[Any, StepMaterial], TraceStep]


async def open_step(planned: PlannedStep, material: StepMaterial) -> TraceStep:
    """Raises ConfigError for a model or a store that cannot be opened."""
    if isinstance(planned.params, TraceDeduplicationParams):
        return await _open_deduplication(planned.params, material)
    return _STEPS[planned.type](planned.params, material)


def _choose(params: ChooseParams, material: StepMaterial) -> TraceStep:
    del material
    return EachStep(TraceChoice(params))


def _cut(params: CutParams, material: StepMaterial) -> TraceStep:
    del material
    return EachStep(partial(cut, params=params))


def _reference(params: ReferenceParams, material: StepMaterial) -> TraceStep:
    del material
    return ReferenceStep(params)


def _llm_evaluate(params: LlmEvaluateParams, material: StepMaterial) -> TraceStep:
    return LlmEvaluation(material.open_model(params.max_thread), params, material.say)


def _balance(params: BalanceParams, material: StepMaterial) -> TraceStep:
    from astuner.trace_tasks.steps.balance import Balance  # needs numpy, and a run does not

    return EachStep(Balance(params, material.known))


_STEPS: Mapping[FilterType, _Make] = {
    "choose": _choose,
    "cut": _cut,
    "reference": _reference,
    "llm_evaluate": _llm_evaluate,
    "balance": _balance,
}
"""Beside deduplication, which embeds what is known, and so waits."""


async def _open_deduplication(
    params: TraceDeduplicationParams, material: StepMaterial
) -> TraceStep:
    # As in `_balance`.
    from astuner.task_generation.gates.duplicates.opening import open_semantic
    from astuner.task_generation.gates.duplicates.text_duplicates import TextDuplicates
    from astuner.trace_tasks.steps.deduplication import Deduplication, text_of_asked

    by_words = TextDuplicates(max_ngram_overlap=params.max_ngram_overlap)
    by_meaning = None
    if written := params.of_embeddings():
        merged = {**material.embedding, **written}
        merged["db_path"] = str(material.home / Path(merged["db_path"]).expanduser())
        section = DeduplicationParamsSettings.model_validate(merged)
        opened = open_semantic(section, llm=material.llm, max_parallel=material.llm.max_parallel)
        if isinstance(opened, str):
            material.say(opened.replace("filter.params", "filters: deduplication.params"))
        else:
            by_meaning = opened
    texts = [text_of_asked(task.asked, task.answer) for task in material.known.values()]
    await by_words.add_known(texts)
    if by_meaning is not None:
        await by_meaning.add_known(texts)
    return Deduplication(by_words, by_meaning, frozenset(material.known))
