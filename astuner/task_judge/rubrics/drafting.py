"""Drafts rubrics from labelled examples: proposed, checked by the labels, revised, kept or not.

Each iteration takes a batch of examples. Rubrics are proposed from each of them; those most unlike
the ones there are join them; what they grade wrongly of the batch is shown to the model, which
revises them; and all examples say whether they stay.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from random import Random

from astuner.errors import BackboneError, LlmError
from astuner.task_judge.rubrics.checking import Checker, LabelCheck
from astuner.task_judge.rubrics.examples import LabelledExample
from astuner.task_judge.rubrics.proposals import Proposer
from astuner.task_judge.rubrics.ranking import together
from astuner.task_judge.rubrics.rubric import VERSION, Rubric, RubricSet, plainly

_ALIKE = 0.9
"""Share of equal characters from which two texts are one rubric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftingLimits:
    """How much is tried; the names are those of `task_judge.rubrics_auto_grader`."""

    query_specific_generate_number: int
    max_epochs: int
    batch_size: int
    mcr_batch_size: int
    min_increment_threshold: float
    patience: int
    max_iterations: int
    max_total_rubrics: int
    num_themes: int | None
    """None: the rubrics are not merged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftedRubrics:
    """Rubrics and how far they agree with the labels, from 0 to 1."""

    rubrics: tuple[Rubric, ...]
    agreement: float


class Drafter:
    """Drafts once. What it has so far is its own."""

    def __init__(
        self,
        proposer: Proposer,
        checker: Checker,
        limits: DraftingLimits,
        *,
        language: str,
        random: Random,
        say: Callable[[str], None],
    ) -> None:
        """`say` is told a line for each iteration."""
        self._proposer = proposer
        self._checker = checker
        self._limits = limits
        self._language = language
        self._random = random
        self._say = say

    async def draft(self, examples: Sequence[LabelledExample]) -> DraftedRubrics:
        """Raises BackboneError where the model answers nothing, or grades too few examples."""
        limits = self._limits
        shuffled = self._random.sample(examples, len(examples))
        best: DraftedRubrics | None = None
        num_without_gain = 0
        for number in range(limits.max_iterations):
            batch = _batch(shuffled, number, limits.batch_size)
            kept = best.rubrics if best else ()
            proposed = await self._propose(batch, kept, draw=num_without_gain)
            draft = await self._extended(kept, proposed, batch, examples)
            is_better = draft is not None and self._is_gain(draft, best)
            self._tell(number, draft, is_better)
            best = draft if is_better else best
            num_without_gain = 0 if is_better else num_without_gain + 1
            assert best is not None, "what is proposed first is always new"
            if num_without_gain >= limits.patience or self._is_done(best):
                break
        assert best is not None
        return await self._merged(best, examples)

    async def _extended(
        self,
        kept: tuple[Rubric, ...],
        proposed: tuple[Rubric, ...],
        batch: Sequence[LabelledExample],
        examples: Sequence[LabelledExample],
    ) -> DraftedRubrics | None:
        """With the proposals, revised; None where there are none."""
        if not proposed:
            return None
        revised = await self._revised(proposed, kept, batch)
        return await self._measured((*kept, *revised), examples)

    def _is_gain(self, draft: DraftedRubrics, best: DraftedRubrics | None) -> bool:
        if best is None:
            return True
        gain = draft.agreement - best.agreement
        return gain > 0 and gain >= self._limits.min_increment_threshold

    def _is_done(self, best: DraftedRubrics) -> bool:
        is_full = len(best.rubrics) >= self._limits.max_total_rubrics
        return is_full or best.agreement >= 1.0 - self._limits.min_increment_threshold

    async def _propose(
        self, batch: Sequence[LabelledExample], kept: Sequence[Rubric], *, draw: int
    ) -> tuple[Rubric, ...]:
        """What the batch teaches, without what is much like others."""
        limits = self._limits
        count = limits.query_specific_generate_number

        async def ask(example: LabelledExample) -> list[Rubric] | LlmError:
            try:
                return await self._proposer.propose(example, kept, num_rubrics=count, draw=draw)
            except LlmError as error:
                return error

        answers = await together(ask(example) for example in batch)
        errors = [answer for answer in answers if isinstance(answer, LlmError)]
        if len(errors) == len(answers):
            raise BackboneError(
                f"rubrics could not be drafted: none of {len(answers)} questions was answered; "
                f"the last one: {errors[-1]}"
            ) from errors[-1]
        proposed = [each for answer in answers if isinstance(answer, list) for each in answer]
        room = limits.max_total_rubrics - len(kept)
        return most_unlike(proposed, kept, max_rubrics=min(limits.mcr_batch_size, room))

    async def _revised(
        self,
        proposed: tuple[Rubric, ...],
        kept: Sequence[Rubric],
        batch: Sequence[LabelledExample],
    ) -> tuple[Rubric, ...]:
        """The proposals, or a revision that agrees more with the labels of the batch."""
        check = await self._check((*kept, *proposed), batch)
        for _ in range(self._limits.max_epochs):
            if not check.wrong:
                break
            try:
                said = await self._proposer.revise(proposed, kept, check.wrong)
            except LlmError:
                break
            revised = most_unlike(said, kept, max_rubrics=len(proposed))
            if not revised:
                break
            checked = await self._check((*kept, *revised), batch)
            if checked.agreement < check.agreement + self._limits.min_increment_threshold:
                break
            proposed, check = revised, checked
        return proposed

    async def _measured(
        self, rubrics: tuple[Rubric, ...], examples: Sequence[LabelledExample]
    ) -> DraftedRubrics:
        check = await self._check(rubrics, examples)
        return DraftedRubrics(rubrics=rubrics, agreement=check.agreement)

    async def _check(
        self, rubrics: tuple[Rubric, ...], examples: Sequence[LabelledExample]
    ) -> LabelCheck:
        check = await self._checker.check(as_set(rubrics, language=self._language), examples)
        if len(check.checked) < len(check.errors):
            raise BackboneError(
                f"rubrics could not be checked: only {len(check.checked)} of {len(examples)} "
                f"examples were graded; the last one: {check.errors[-1]}"
            ) from check.errors[-1]
        return check

    async def _merged(
        self, best: DraftedRubrics, examples: Sequence[LabelledExample]
    ) -> DraftedRubrics:
        num_themes = self._limits.num_themes
        if num_themes is None or len(best.rubrics) <= num_themes:
            return best
        try:
            said = await self._proposer.merge(best.rubrics, num_themes=num_themes)
        except LlmError as error:
            self._say(f"rubrics: they are not merged by themes, since that failed: {error}")
            return best
        merged = await self._measured(most_unlike(said, (), max_rubrics=num_themes), examples)
        self._say(
            f"rubrics: {len(best.rubrics)} were merged into {len(merged.rubrics)} themes, "
            f"agreement {best.agreement:.3f} → {merged.agreement:.3f}"
        )
        return merged

    def _tell(self, number: int, draft: DraftedRubrics | None, is_better: bool) -> None:
        found = "nothing new was proposed"
        if draft is not None:
            found = (
                f"{len(draft.rubrics)} in all, agreement with the labels {draft.agreement:.3f}, "
                f"{'kept' if is_better else 'not kept'}"
            )
        self._say(f"rubrics: iteration {number + 1}: {found}")


def most_unlike(
    proposed: Sequence[Rubric], others: Sequence[Rubric], *, max_rubrics: int
) -> tuple[Rubric, ...]:
    """Up to so many of them, each the one least like `others` and those taken before it.

    What is nearly the text or the name of another is never taken.
    """
    taken: list[Rubric] = []
    left = list(proposed)
    while left and len(taken) < max_rubrics:
        found = min(left, key=lambda rubric: _nearness(rubric, (*others, *taken)))
        left.remove(found)
        if _nearness(found, (*others, *taken)) < _ALIKE:
            taken.append(found)
    return tuple(taken)


def as_set(rubrics: tuple[Rubric, ...], *, language: str) -> RubricSet:
    return RubricSet(version=VERSION, language=language, rubrics=rubrics)


def _nearness(rubric: Rubric, others: Sequence[Rubric]) -> float:
    """1 for one that has a name or text of the others; 0 where there are none."""
    return max((_likeness(rubric, other) for other in others), default=0.0)


def _likeness(one: Rubric, other: Rubric) -> float:
    if plainly(one.name) == plainly(other.name):
        return 1.0
    matcher = SequenceMatcher(None, plainly(one.text), plainly(other.text), autojunk=False)
    return matcher.ratio()


def _batch(examples: Sequence[LabelledExample], number: int, size: int) -> list[LabelledExample]:
    """The batch of that iteration; after the last example comes the first."""
    indices = range(number * size, number * size + min(size, len(examples)))
    return [examples[index % len(examples)] for index in indices]
