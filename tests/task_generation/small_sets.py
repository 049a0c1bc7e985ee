"""Small documents, and the parts of a generation that ask a scripted server about them."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from astuner.errors import LlmAnswerError
from astuner.llm import LanguageModel
from astuner.llm.answer_cache import AnswerCache
from astuner.llm.budget import Budget
from astuner.llm.limiter import CallLimiter
from astuner.task_generation.documents.document import DocumentChunk
from astuner.task_generation.draft import (
    DraftCandidate,
    DraftStyle,
    DraftTurn,
    GateRejection,
    TaskDraft,
)
from astuner.task_generation.generated_set import ANSWERS_DIR
from astuner.task_generation.generation import (
    GenerationOptions,
    GenerationOutcome,
    GenerationParts,
    GenerationProgress,
    generate,
)
from astuner.task_generation.pass_rate import PassRate, PassRateMeter
from astuner.types import Task
from tests.llm_server import make_model
from tests.task_generation.scripted_server import CHECK_MARK, DRAFT_MARK

STYLES = (
    DraftStyle(name="fact", instructions="Ask for one fact."),
    DraftStyle(name="steps", instructions="Ask for several steps."),
)
FINGERPRINT = {"llm_model": "m", "documents": {"a.md": "0" * 64}, "seed": 1}


def make_chunks(**documents: int) -> list[DocumentChunk]:
    """So many chunks for each document."""
    return [
        DocumentChunk(document=f"{name}.md", number=number, text=f"{name} has part {number}.")
        for name, num_chunks in documents.items()
        for number in range(num_chunks)
    ]


def make_seeds(num_seeds: int) -> list[Task]:
    return [
        Task(task_id=f"seed-{i}", main_query=f"Seed question {i}?", metadata={"answer": str(i)})
        for i in range(num_seeds)
    ]


def make_options(**changes: Any) -> GenerationOptions:
    options = GenerationOptions(
        task_num=10,
        validation_fraction=0.2,
        test_fraction=0.0,
        max_drafts_per_task=10,
        max_failed_fraction=0.5,
        num_workers=4,
        num_examples=2,
        seed=1,
        language=None,
        is_repeatable=False,
        pass_rate_above=0.0,
        pass_rate_below=1.0,
        max_calls=None,
        max_tokens=None,
        max_cost=None,
        input_token_price=None,
        output_token_price=None,
    )
    return replace(options, **changes)


class _Written(BaseModel):
    question: str
    answer: str
    evidence: str


class _Supported(BaseModel):
    is_supported: bool


class SmallDrafter:
    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    async def draft(self, turn: DraftTurn) -> TaskDraft | GateRejection:
        source = turn.chunk.text if turn.chunk else turn.examples[0].main_query
        asked = (
            f"{DRAFT_MARK}. {turn.style.instructions} {turn.difficulty}\nCHUNK: {source}\n"
            f"{[task.main_query for task in turn.examples]}"
        )
        try:
            written = await self._model.ask(asked, schema=_Written, seed=turn.round)
        except LlmAnswerError:
            return GateRejection(gate="form", reason="No task can be read from the answer.")
        return TaskDraft(
            question=written.question,
            answer=written.answer,
            evidence=written.evidence,
            style=turn.style.name,
            difficulty=turn.difficulty,
        )


class EnglishGate:
    name = "english"

    async def check(self, candidate: DraftCandidate) -> DraftCandidate | GateRejection:
        if candidate.draft.question.startswith("Was"):
            return GateRejection(gate=self.name, reason="The question is not in English.")
        return candidate


class SupportedGate:
    name = "supported"

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    async def check(self, candidate: DraftCandidate) -> DraftCandidate | GateRejection:
        asked = f"{CHECK_MARK}: {candidate.draft.question}"
        verdict = await self._model.ask(asked, schema=_Supported)
        if not verdict.is_supported:
            return GateRejection(gate=self.name, reason="The chunk does not say so.")
        return replace(candidate, notes={**candidate.notes, "is_supported": True})


class EqualQuestions:
    name = "duplicates"

    def __init__(self) -> None:
        self.added: dict[str, int] = {}

    async def prepare(self, candidate: DraftCandidate) -> None:
        await asyncio.sleep(0)

    def find(self, candidate: DraftCandidate) -> GateRejection | None:
        earlier = self.added.get(candidate.draft.question)
        if earlier is None:
            return None
        return GateRejection(gate=self.name, reason=f"It repeats the task of turn {earlier}.")

    def add(self, candidate: DraftCandidate) -> None:
        self.added[candidate.draft.question] = candidate.turn.number


class CountingMeter:
    """Solves a task as often as the first digit of its answer says, of 15."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    async def measure(self, tasks: Sequence[Task]) -> Sequence[PassRate]:
        self.batches.append([task.task_id for task in tasks])
        return [
            PassRate(num_solved=int(task.metadata["answer"][0], 16), num_judged=15)
            for task in tasks
        ]


@dataclass(kw_only=True)
class SmallSet:
    """A folder, and what a set is made from in it."""

    folder: Path
    base_url: str
    chunks: Sequence[DocumentChunk] = ()
    seeds: Sequence[Task] = ()
    fingerprint: Mapping[str, Any] = field(default_factory=lambda: dict(FINGERPRINT))
    meter: PassRateMeter | None = None
    budget: Budget | None = None
    timeout_seconds: float = 60.0
    said: list[str] = field(default_factory=list)
    progress: list[GenerationProgress] = field(default_factory=list)

    async def generate(self, options: GenerationOptions) -> GenerationOutcome:
        async with make_model(
            self.base_url,
            limiter=CallLimiter(options.num_workers),
            budget=self.budget,
            cache=AnswerCache(self.folder / ANSWERS_DIR),
            timeout_seconds=self.timeout_seconds,
        ) as model:
            parts = GenerationParts(
                chunks=self.chunks,
                unread=(),
                seeds=self.seeds,
                styles=STYLES,
                drafter=SmallDrafter(model),
                gates=[EnglishGate(), SupportedGate(model)],
                redact=str,
                duplicates=EqualQuestions(),
                meter=self.meter,
            )
            return await generate(
                parts,
                options,
                folder=self.folder,
                fingerprint=self.fingerprint,
                card={"model": "m", "licence": "cc0-1.0", "languages": ["eng"]},
                watch=self.progress.append,
                say=self.said.append,
            )

    def make(self, **options: Any) -> GenerationOutcome:
        return asyncio.run(self.generate(make_options(**options)))

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()
