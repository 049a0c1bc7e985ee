"""Do the orders of RankingJudge agree, and what does averaging over them take out?

    python -m benchmarks.ranking_consistency                       # scripted judges, seconds
    python -m benchmarks.ranking_consistency --model models/small  # a model of this machine too

The groups are sums of two numbers with four answers: right and said, right and bare, one off, and
far off. A scripted judge knows how good an answer is, and adds a bias by its place and noise. The
model of `--model` is asked as any judge is; since a small one hardly writes JSON that fits, the
form is written for it, and each score is the digit that it finds most probable there. How often it
fits the form when it writes by itself is told too.
"""

import argparse
import asyncio
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from astuner.llm.answer_schema import find_problem
from astuner.llm.budget import Budget
from astuner.llm.endpoint import Answer, Question
from astuner.llm.limiter import CallLimiter
from astuner.llm.model import LanguageModel
from astuner.llm.patience import PatientEndpoint
from astuner.llm.retries import Backoff
from astuner.task_judge.rubrics.checking import share_in_order
from astuner.task_judge.rubrics.numbered_scores import scores_form
from astuner.task_judge.rubrics.ranking import ComparedTexts, Ranking, rank

NUM_ORDERS = (1, 2, 4)
NUM_ANSWERS = 4
HIGHEST = 10.0
MAX_FREE_TOKENS = 200

ScoreText = Callable[[str, str, int], float]
"""The score of an answer by its question, its text and its place, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SumGroup:
    """A sum and four answers to it, the best first."""

    compared: ComparedTexts
    quality: dict[str, float]
    """Of each answer, from 0 to 1."""


def make_groups(count: int) -> list[SumGroup]:
    draw = random.Random(1)
    groups = []
    for _ in range(count):
        a, b = draw.randrange(10, 90), draw.randrange(10, 90)
        answers = (f"{a} + {b} = {a + b}", f"{a + b}", f"{a + b + 1}", f"{a + b + 57}")
        groups.append(
            SumGroup(
                compared=ComparedTexts(
                    question=f"What is {a} + {b}?",
                    answers=answers,
                    reference=None,
                    rubrics=None,
                ),
                quality=dict(zip(answers, (1.0, 0.8, 0.3, 0.1), strict=True)),
            )
        )
    return groups


class ScriptedEndpoint:
    """Answers a comparison by a function."""

    name = "scripted judge"
    identity = None

    def __init__(self, score: ScoreText) -> None:
        self._score = score

    async def answer(self, question: Question, *, seconds: float) -> Answer:
        (task,) = fenced_texts(question, "task")
        texts = fenced_texts(question, "answer")
        return _written([self._score(task, text, place) for place, text in enumerate(texts)])

    async def close(self) -> None: ...


class DigitEndpoint:
    """A model that is given the form, and chooses each score among the digits 0 to 9."""

    identity = None

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.name = folder.name
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
        self._answered: dict[str, list[float]] = {}
        self._digits = [
            self._tokenizer.encode(str(digit), add_special_tokens=False)[-1] for digit in range(10)
        ]

    async def answer(self, question: Question, *, seconds: float) -> Answer:
        prompt = self._prompt(question)
        if prompt not in self._answered:
            self._answered[prompt] = self._scores(prompt, len(fenced_texts(question, "answer")))
        return _written(self._answered[prompt])

    async def close(self) -> None: ...

    def write(self, question: Question) -> str:
        """What the model writes by itself, the most probable token each time."""
        import torch

        ids = self._tokenizer(self._prompt(question), return_tensors="pt")
        with torch.inference_mode():
            made = self._model.generate(**ids, max_new_tokens=MAX_FREE_TOKENS, do_sample=False)
        return self._tokenizer.decode(
            made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True
        )

    def _prompt(self, question: Question) -> str:
        return self._tokenizer.apply_chat_template(
            list(question.messages), tokenize=False, add_generation_prompt=True
        )

    def _scores(self, prompt: str, count: int) -> list[float]:
        """The prompt is read once, and behind it what stands around each score."""
        import torch
        from transformers import DynamicCache

        read, scores, text = DynamicCache(), [], prompt + '{"scores": ['
        for number in range(1, count + 1):
            text += f'{{"number": {number}, "reason": "", "score": '
            ids = self._tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
            with torch.inference_mode():
                output = self._model(ids, past_key_values=read, logits_to_keep=1)
            scores.append(float(output.logits[0, -1, self._digits].argmax()))
            text = f"{scores[-1]:g}}}, "
        return scores


def fenced_texts(question: Question, name: str) -> list[str]:
    """Those between markers of that name, in order."""
    text = str(question.messages[0]["content"])
    return [
        found for _, found in re.findall(rf"<{name} (\w+)>\n(.*?)\n</{name} \1>", text, re.DOTALL)
    ]


def _written(scores: Sequence[float]) -> Answer:
    rows = [
        {"number": number, "reason": "", "score": min(HIGHEST, max(0.0, score))}
        for number, score in enumerate(scores, start=1)
    ]
    text = json.dumps({"scores": rows})
    return Answer(text=text, is_cut=False, num_input_tokens=None, num_output_tokens=None)


def scripted(
    groups: Sequence[SumGroup], *, bias: Callable[[int], float], noise: float
) -> ScoreText:
    """What an answer is worth, in the middle of the scale, with a bias by place and noise."""
    quality = {group.compared.question: group.quality for group in groups}
    draw = random.Random(2)

    def score(task: str, text: str, place: int) -> float:
        return 3.0 + 4.0 * quality[task][text] + bias(place) + draw.gauss(0.0, noise)

    return score


def make_model(endpoint: Any) -> LanguageModel:
    return LanguageModel(
        PatientEndpoint(
            endpoint,
            limiter=CallLimiter(1),
            budget=Budget(),
            backoff=Backoff(random=random.Random(1)),
        ),
        cache=None,
        timeout_seconds=3600.0,
        max_new_tokens=None,
    )


async def measure(name: str, endpoint: Any, groups: Sequence[SumGroup]) -> None:
    for num_orders in NUM_ORDERS:
        async with make_model(endpoint) as model:
            rankings = [
                await rank(model, group.compared, num_orders=num_orders, random=random.Random(seed))
                for seed, group in enumerate(groups)
            ]
        _tell(name, num_orders, groups, rankings)


def _tell(
    name: str, num_orders: int, groups: Sequence[SumGroup], rankings: Sequence[Ranking]
) -> None:
    in_order = fmean(
        share_in_order([-worth for worth in group.quality.values()], ranking.values)
        for group, ranking in zip(groups, rankings, strict=True)
    )
    agreed = [ranking.consistency for ranking in rankings if ranking.consistency is not None]
    shown = f"{fmean(agreed):+.2f}" if agreed else "-"
    tied = fmean(len(set(ranking.values)) == 1 for ranking in rankings)
    print(
        f"{name:34} {num_orders:6} {shown:>12} {in_order:14.2f} {tied:10.2f}",
        flush=True,
    )


async def tell_free_writing(endpoint: DigitEndpoint, groups: Sequence[SumGroup]) -> None:
    """How often the model writes scores that fit, asked as the judge asks."""
    asked: list[str] = []

    class Writing:
        name = "free"
        identity = None

        async def answer(self, question: Question, *, seconds: float) -> Answer:
            asked.append(endpoint.write(question))
            return _written([0.0] * NUM_ANSWERS)

        async def close(self) -> None: ...

    async with make_model(Writing()) as model:
        for group in groups:
            await rank(model, group.compared, num_orders=1, random=random.Random(1))
    form = scores_form([(0.0, HIGHEST)] * NUM_ANSWERS)
    fitting = [text for text in asked if find_problem(text, form) is None]
    print(f"written by itself, {len(fitting)} of {len(asked)} answers fit the form")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, help="folder of a chat model to ask")
    parser.add_argument("--groups", type=int, default=200, help="for the scripted judges")
    parser.add_argument("--model-groups", type=int, default=16)
    parser.add_argument("--free-answers", type=int, default=6, help="that it writes by itself")
    given = parser.parse_args()
    groups = make_groups(given.groups)
    print(f"{'judge':34} orders  consistency  pairs in order  all tied")
    cases: dict[str, tuple[Callable[[int], float], float]] = {
        "no bias, no noise": (lambda place: 0.0, 0.0),
        "no bias, noise 1": (lambda place: 0.0, 1.0),
        "1 point less each place": (lambda place: -1.0 * place, 0.0),
        "1 point less each place, noise 1": (lambda place: -1.0 * place, 1.0),
        "3 points for the first place": (lambda place: 3.0 * (place == 0), 0.0),
        "the place alone": (lambda place: -1.0 * place, 0.0),
    }
    for name, (bias, noise) in cases.items():
        knows = scripted(groups, bias=bias, noise=noise)
        score = (
            (lambda task, text, place: 8.0 - 2.0 * place) if name == "the place alone" else knows
        )
        asyncio.run(measure(name, ScriptedEndpoint(score), groups))
    if given.model is not None:
        endpoint = DigitEndpoint(given.model)
        asyncio.run(measure(endpoint.name, endpoint, groups[: given.model_groups]))
        if given.free_answers:
            asyncio.run(tell_free_writing(endpoint, groups[: given.free_answers]))


if __name__ == "__main__":
    main()
