"""What a set is made by: the model that writes, the gates, the search for duplicates, the meter.

Opened from the settings of an order and its material, and closed behind the generation.
"""

import contextlib
import importlib.metadata
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any

from astuner.backbone.judge_of_answers import judge_of_answers
from astuner.backbone.set_material import SetMaterial, SetOrder
from astuner.config.sections.data_generation import DataGenerationSettings
from astuner.errors import ConfigError
from astuner.llm import LanguageModel, open_language_model
from astuner.task_generation.answer_forms import ANSWER_FORMS
from astuner.task_generation.drafting.model_drafter import ModelDrafter
from astuner.task_generation.gates.answerable import AnswerableGate
from astuner.task_generation.gates.closed_book import ClosedBookGate
from astuner.task_generation.gates.evidence import EvidenceGate
from astuner.task_generation.gates.gate import DraftGate
from astuner.task_generation.gates.judge_fit import JudgeFitGate
from astuner.task_generation.gates.personal_data import PersonalDataGate, mask
from astuner.task_generation.gates.private_spans import PrivateSpanFinder
from astuner.task_generation.gates.self_contained import SelfContainedGate
from astuner.task_generation.generated_set import ANSWERS_DIR
from astuner.task_generation.pass_rate import PassRateMeter
from astuner.task_generation.request import GenerationOptions, GenerationParts

_PER_MILLION = 1_000_000


@contextlib.asynccontextmanager
async def open_parts(
    order: SetOrder,
    material: SetMaterial,
    *,
    meter: PassRateMeter | None,
    say: Callable[[str], None],
) -> AsyncIterator[GenerationParts]:
    """Raises ConfigError where no server is known that could be asked, or a package is missing."""
    from astuner.backbone.duplicate_search import find_duplicates  # needs numpy, and a run does not

    section = order.section
    finder = None if section.gates.personal_data == "keep" else PrivateSpanFinder()
    async with _open_model(order) as model:
        gates = _gates(order, material, model, finder)
        # Seeds are embedded, which costs: only where nothing is missing.
        duplicates = await find_duplicates(order, material.seeds, say=say)
        yield GenerationParts(
            chunks=material.chunks,
            unread=material.documents.unread,
            seeds=material.seeds,
            styles=material.styles,
            drafter=ModelDrafter(
                model,
                temperature=section.sampling_params.temperature,
                answer_form=ANSWER_FORMS[material.answers],
            ),
            gates=gates,
            redact=partial(mask, finder=finder) if finder else str,
            duplicates=duplicates,
            meter=meter,
        )


def options_of(section: DataGenerationSettings) -> GenerationOptions:
    budget = section.budget
    return GenerationOptions(
        task_num=section.task_num,
        validation_fraction=section.validation_fraction,
        test_fraction=section.test_fraction,
        max_drafts_per_task=section.max_drafts_per_task,
        max_failed_fraction=section.max_failed_fraction,
        num_workers=section.num_workers,
        num_examples=section.num_examples,
        seed=section.seed,
        language=section.language,
        is_repeatable=section.sampling_params.temperature == 0,
        pass_rate_above=section.pass_rate.above,
        pass_rate_below=section.pass_rate.below,
        max_calls=budget.max_calls,
        max_tokens=budget.max_tokens,
        max_cost=budget.max_cost,
        input_token_price=_of_one_token(budget.price_per_million_input_tokens),
        output_token_price=_of_one_token(budget.price_per_million_output_tokens),
    )


def card_of(order: SetOrder, material: SetMaterial) -> Mapping[str, Any]:
    """How the set was made, beside the counts."""
    section = order.section
    return {
        "made_by": f"astuner {_version()}",
        "llm_model": section.llm_model,
        "licence": section.licence,
        "languages": section.document_reader.languages,
        "num_seeds": len(material.seeds),
    }


def _version() -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("astuner")
    return "from a checkout"


def _open_model(order: SetOrder) -> LanguageModel:
    """Beside the budget, which counts over all starts, it has the limits of `llm` in each.

    Raises ConfigError where answers cannot be kept.
    """
    answers = order.folder / ANSWERS_DIR
    try:
        answers.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{order.key}.output_dir: the folder {answers} cannot be made: {error.strerror}; name "
            "another folder, or make this one writable"
        ) from error
    llm = order.settings.llm.model_copy(
        update={
            "max_parallel": order.section.num_workers,
            "cache_dir": str(answers),
        }
    )
    section = order.section
    return open_language_model(llm, section.llm_model, max_new_tokens=section.llm_response_length)


def _gates(
    order: SetOrder,
    material: SetMaterial,
    model: LanguageModel,
    finder: PrivateSpanFinder | None,
) -> list[DraftGate]:
    """Those that cost nothing first; but what is masked is masked when all is answered."""
    wanted, form = order.section.gates, ANSWER_FORMS[material.answers]
    gates: list[DraftGate] = [EvidenceGate()]
    if wanted.self_contained:
        gates.append(SelfContainedGate())
    if finder and wanted.personal_data == "refuse":
        gates.append(PersonalDataGate(finder, treatment="refuse"))
    judge = None
    if wanted.judge_fit:
        judge = judge_of_answers(order.settings, order.config, order.search_dirs, order.judge_class)
    if judge is not None:
        gates.append(JudgeFitGate(judge))
    if wanted.num_solutions:
        gates.append(AnswerableGate(model, num_solutions=wanted.num_solutions, answer_form=form))
    if wanted.closed_book:
        gates.append(ClosedBookGate(model, answer_form=form))
    if finder and wanted.personal_data == "mask":
        gates.append(PersonalDataGate(finder, treatment="mask"))
    return gates


def _of_one_token(price: float | None) -> float | None:
    return None if price is None else price / _PER_MILLION
