"""Answers to one task compared by a model: in several orders, each a question, then averaged."""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from astuner.llm import LanguageModel
from astuner.task_judge.rubrics.grading import answer_room
from astuner.task_judge.rubrics.numbered_scores import NumberedScore, scores_form
from astuner.task_judge.rubrics.orders import Order, consistency, draw_orders
from astuner.task_judge.rubrics.prompts import ranking_prompt
from astuner.task_judge.rubrics.rubric import RubricSet

_RANGE = (0.0, 10.0)
_LEAST_SHARED_CHARS = 200
"""A shorter common beginning is repeated in each answer: it reads better there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedTexts:
    """What is compared: the answers to one question, no two of them the same text."""

    question: str
    answers: tuple[str, ...]
    reference: str | None
    rubrics: RubricSet | None
    """None: by how well they do what the question asks."""
    instructions: str | None = None
    """In place of the built-in ones."""

    def shared_beginning(self) -> str:
        """Whole lines that all answers begin with; empty where they are not worth taking out."""
        if len(self.answers) < 2:
            return ""
        first, last = min(self.answers), max(self.answers)
        pairs = enumerate(zip(first, last, strict=False))
        num_common = next((at for at, (a, b) in pairs if a != b), len(first))
        shared = first[: first.rfind("\n", 0, num_common) + 1]
        return shared if len(shared) >= _LEAST_SHARED_CHARS else ""

    def prompt(self, order: Order) -> str:
        shared = self.shared_beginning()
        return ranking_prompt(
            [self.answers[index].removeprefix(shared) for index in order],
            shared=shared,
            question=self.question,
            reference=self.reference,
            rubrics=self.rubrics,
            score_range=_RANGE,
            instructions=self.instructions,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The mean over the orders, a value for each answer."""

    values: tuple[float, ...]
    """From 0 to 1."""
    notes: tuple[str, ...]
    """What was said of each, a line for each order."""
    consistency: float | None
    """See `orders.consistency`; None where there was one answer, or one order."""


async def rank(
    model: LanguageModel,
    compared: ComparedTexts,
    *,
    num_orders: int,
    random: Random,
    min_new_tokens: int = 0,
) -> Ranking:
    """Ask `model` once for each order, at temperature 0; once for a lone answer.

    Raises LlmError where the model leaves out an answer, or scores one twice.
    """
    num_answers = len(compared.answers)
    orders = draw_orders(num_answers, num_orders if num_answers > 1 else 1, random)
    form = scores_form([_RANGE] * num_answers)
    room = answer_room(num_answers, min_new_tokens)

    async def ask(order: Order) -> list[NumberedScore]:
        said = await model.ask(compared.prompt(order), schema=form, max_new_tokens=room)
        by_answer = dict(zip(order, said.in_order(), strict=True))
        return [by_answer[index] for index in range(num_answers)]

    asked = await together(map(ask, orders))
    values = [[score.score / _RANGE[1] for score in scores] for scores in asked]
    return Ranking(
        values=tuple(_mean(column) for column in zip(*values, strict=True)),
        notes=tuple(
            "\n".join(f"{score.score:g}/{_RANGE[1]:g}: {score.reason.strip()}" for score in column)
            for column in zip(*asked, strict=True)
        ),
        consistency=consistency(values),
    )


async def together(work: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """The results in order; the first error ends the rest, and is raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
