"""Whether rubrics give labelled examples the labels that people gave them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

from astuner.errors import LlmError
from astuner.llm import LanguageModel
from astuner.task_judge.asking.fence import fenced
from astuner.task_judge.rubrics.examples import LabelledExample, RankedExample, ScoredExample
from astuner.task_judge.rubrics.grading import grade
from astuner.task_judge.rubrics.orders import seed_of
from astuner.task_judge.rubrics.ranking import ComparedTexts, rank, together
from astuner.task_judge.rubrics.rubric import RubricSet

_RIGHT = 0.75
"""From this agreement on an example counts as graded right: a grade may be off by a quarter."""
_NUM_ORDERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedExample:
    """What rubrics made of one example."""

    example: LabelledExample
    agreement: float
    """From 0 to 1."""
    said: str
    """What was given instead, and why; for whoever mends the rubrics."""

    @property
    def is_right(self) -> bool:
        return self.agreement >= _RIGHT


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCheck:
    """What rubrics made of several examples."""

    checked: tuple[CheckedExample, ...]
    errors: tuple[LlmError, ...]
    """Of those that got no grade; they have no part in the agreement."""

    @property
    def agreement(self) -> float:
        """The mean; 0 where nothing was graded."""
        return sum(each.agreement for each in self.checked) / max(1, len(self.checked))

    @property
    def wrong(self) -> list[CheckedExample]:
        return [each for each in self.checked if not each.is_right]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checker:
    """Grades examples as the judge will grade answers."""

    model: LanguageModel
    min_score: float
    max_score: float
    instructions: str | None
    min_new_tokens: int
    """See `grading.grade`."""

    async def check(self, rubrics: RubricSet, examples: Sequence[LabelledExample]) -> LabelCheck:
        """Asks for all of them at once; `llm.max_parallel` bounds how many run."""
        results = await together(self._check_one(rubrics, example) for example in examples)
        return LabelCheck(
            checked=tuple(each for each in results if isinstance(each, CheckedExample)),
            errors=tuple(each for each in results if isinstance(each, LlmError)),
        )

    async def _check_one(
        self, rubrics: RubricSet, example: LabelledExample
    ) -> CheckedExample | LlmError:
        try:
            if isinstance(example, ScoredExample):
                return await self._check_score(rubrics, example)
            return await self._check_ranks(rubrics, example)
        except LlmError as error:
            return error

    async def _check_score(self, rubrics: RubricSet, example: ScoredExample) -> CheckedExample:
        given = await grade(
            self.model,
            rubrics,
            question=example.question,
            answer=example.answer,
            reference=example.reference,
            instructions=self.instructions,
            min_new_tokens=self.min_new_tokens,
        )
        span = self.max_score - self.min_score
        score = self.min_score + span * given.value
        return CheckedExample(
            example=example,
            agreement=1.0 - abs(score - example.score) / span,
            said=f"The rubrics gave {score:.2f}:\n{given.note}",
        )

    async def _check_ranks(self, rubrics: RubricSet, example: RankedExample) -> CheckedExample:
        compared = ComparedTexts(
            question=example.question,
            answers=example.answers,
            reference=example.reference,
            rubrics=rubrics,
            instructions=self.instructions,
        )
        ranking = await rank(
            self.model,
            compared,
            num_orders=_NUM_ORDERS,
            random=Random(seed_of(example.question, example.answers)),
            min_new_tokens=self.min_new_tokens,
        )
        values = ", ".join(f"{value:.2f}" for value in ranking.values)
        return CheckedExample(
            example=example,
            agreement=share_in_order(example.ranks, ranking.values),
            said=f"The rubrics gave the answers, in the same order, {values}.",
        )


def share_in_order(ranks: Sequence[float], values: Sequence[float]) -> float:
    """Of the pairs with different ranks, those where the better rank has the higher value; an
    equal value counts half."""
    pairs = [(a, b) for a, b in combinations(range(len(ranks)), 2) if ranks[a] != ranks[b]]
    won = 0.0
    for a, b in pairs:
        better, worse = (a, b) if ranks[a] < ranks[b] else (b, a)
        won += 0.5 if values[better] == values[worse] else float(values[better] > values[worse])
    return won / len(pairs)


def shown(example: LabelledExample) -> str:
    """The example with its label, for a prompt."""
    parts = [fenced(example.question, "task")]
    if example.reference is not None:
        parts.append(f"A good answer:\n{fenced(example.reference, 'reference')}")
    if isinstance(example, ScoredExample):
        parts.append(f"{fenced(example.answer, 'answer')}\nIts score: {example.score:g}")
    else:
        pairs = zip(example.answers, example.ranks, strict=True)
        parts += [f"{fenced(text, 'answer')}\nIts rank: {rank:g}" for text, rank in pairs]
    return "\n".join(parts)
