"""What compares drafts with each other and with seeds, from the settings. Needs numpy."""

from collections.abc import Callable, Sequence
from pathlib import Path

from astuner.backbone.set_material import SetOrder
from astuner.task_generation.gates.duplicates.known_text import KnownText
from astuner.task_generation.gates.duplicates.opening import open_semantic
from astuner.task_generation.gates.duplicates.several import ExtendableFilter, SeveralFilters
from astuner.task_generation.gates.duplicates.text_duplicates import TextDuplicates
from astuner.types import Task


async def find_duplicates(
    order: SetOrder, seeds: Sequence[Task], *, say: Callable[[str], None]
) -> SeveralFilters:
    """By words, and by meaning where an embedding model can be had; else says why not.

    Raises ConfigError for a model or a store that cannot be opened, LlmError where the seeds cannot
    be embedded.
    """
    settings = order.section.filter
    filters: list[ExtendableFilter] = [TextDuplicates(max_ngram_overlap=settings.max_ngram_overlap)]
    if settings.enabled:
        params = settings.params.model_copy(
            update={"db_path": str(order.home / Path(settings.params.db_path).expanduser())}
        )
        found = open_semantic(
            params, llm=order.settings.llm, max_parallel=order.section.num_workers
        )
        if isinstance(found, str):
            say(found)
        else:
            filters.append(found)
    duplicates = SeveralFilters(filters)
    await duplicates.add_known([_known(seed) for seed in seeds])
    return duplicates


def _known(seed: Task) -> KnownText:
    answer = seed.metadata.get("answer")
    return KnownText(
        question=seed.main_query,
        answer=answer if isinstance(answer, str) else "",
        place=f"seed {seed.task_id}",
    )
