"""The first drafts of a set, with what each gate says, before the set is made.

Asks the same questions as making it, so that their answers are paid for once. Writes nothing but
these.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from astuner.llm import LlmUsage
from astuner.task_generation.draft import DraftTurn, GateRejection, TaskDraft
from astuner.task_generation.drafted import DraftedTurn, DraftMaker, DraftWork, Halted
from astuner.task_generation.planned import planned
from astuner.task_generation.request import GenerationOptions, GenerationParts
from astuner.task_generation.set_folder import SetFolder
from astuner.task_generation.spending import Spending


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewedDraft:
    """One draft, or why there is none."""

    turn: DraftTurn
    draft: TaskDraft | None
    rejection: GateRejection | None
    failure: str | None
    """Why a question about it got no answer."""

    @property
    def is_accepted(self) -> bool:
        return self.rejection is None and self.failure is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """Some drafts of a set, and what they cost."""

    folder: Path
    num_wanted: int
    """Tasks of the whole set."""
    drafts: Sequence[PreviewedDraft]
    usage: LlmUsage
    cost: float | None
    """None where a price is not known."""

    @property
    def num_accepted(self) -> int:
        return sum(draft.is_accepted for draft in self.drafts)

    @property
    def is_unanswered(self) -> bool:
        """Whether no draft got the answers that it needs."""
        return all(draft.failure is not None for draft in self.drafts)

    @property
    def scale(self) -> float | None:
        """How many times as much the whole set takes as these drafts did, were all as they are;
        None where that cannot be told: none was accepted, or earlier answers were found."""
        if not self.num_accepted or self.usage.num_cache_hits:
            return None
        return self.num_wanted / self.num_accepted


async def preview(
    parts: GenerationParts,
    options: GenerationOptions,
    *,
    folder: Path,
    num_drafts: int,
    watch: Callable[[int, int], None],
) -> Preview:
    """The first `num_drafts` drafts of the plan, through all gates that look at text.

    `watch` is told how many of how many are done. Pass rates are not measured. Raises ConfigError
    for what no further question could mend.
    """
    turns = _first_turns(parts, options, folder=folder, num_drafts=num_drafts)
    spending = Spending(options)
    maker = DraftMaker(parts, spending=spending, is_halted=lambda: False)
    works = [DraftWork(turn=turn) for turn in turns]
    num_done = 0

    async def make(work: DraftWork) -> DraftedTurn | None:
        nonlocal num_done
        try:
            drafted = await maker.make(work)
        except Halted:
            drafted = None
        spending.count(work.usage, is_draft=True)
        num_done += 1
        watch(num_done, len(works))
        return drafted

    makings = [asyncio.create_task(make(work)) for work in works]
    try:
        drafted = await asyncio.gather(*makings)
    finally:
        for making in makings:
            making.cancel()
    return Preview(
        folder=folder,
        num_wanted=options.task_num,
        drafts=[_settled(parts, one) for one in drafted if one is not None],
        usage=spending.usage,
        cost=spending.cost,
    )


def _first_turns(
    parts: GenerationParts, options: GenerationOptions, *, folder: Path, num_drafts: int
) -> list[DraftTurn]:
    plan = planned(parts, options, decided=SetFolder(folder).read_sides()).plan
    turns = map(plan.turn, range(num_drafts))
    return [turn for turn in turns if turn is not None]


def _settled(parts: GenerationParts, drafted: DraftedTurn) -> PreviewedDraft:
    """Compared with those before it; to be called in the order of the turns."""
    rejection = drafted.rejection
    if (candidate := drafted.candidate) is not None:
        rejection = parts.duplicates.find(candidate)
        if rejection is None:
            parts.duplicates.add(candidate)
    return PreviewedDraft(
        turn=drafted.turn, draft=drafted.draft, rejection=rejection, failure=drafted.failure
    )
