"""What a model of this machine drafts from this project's documents, and what gates leave of it.

    python -m benchmarks.draft_yield models/small
    python -m benchmarks.draft_yield models/small --prompts 60   how long its prompts are, at once

A small model hardly writes JSON that fits: how often it does is told first. Then the form is
written for it, field by field, as a server with structured output does. Calls and tokens are told
by gate; a question that is found in the cache would cost none.
"""

import argparse
import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from astuner.errors import LlmError
from astuner.llm import LanguageModel, LlmUsage, usage_tallied
from astuner.llm.budget import Budget
from astuner.llm.endpoint import Answer, Question
from astuner.llm.limiter import CallLimiter
from astuner.llm.patience import PatientEndpoint
from astuner.llm.retries import Backoff
from astuner.task_generation.answer_forms import ANSWER_FORMS
from astuner.task_generation.documents.document import DocumentChunk
from astuner.task_generation.draft import (
    DIFFICULTIES,
    DraftCandidate,
    DraftTurn,
    GateRejection,
)
from astuner.task_generation.drafting.model_drafter import ModelDrafter
from astuner.task_generation.drafting.styles import STYLES, chosen_styles
from astuner.task_generation.gates.answerable import AnswerableGate
from astuner.task_generation.gates.closed_book import ClosedBookGate
from astuner.task_generation.gates.gate import DraftGate

DOCS = Path(__file__).parent.parent / "docs"
MAX_CHUNK_CHARACTERS = 1200
MIN_CHUNK_CHARACTERS = 400
MAX_FIELD_TOKENS = 40
MAX_FREE_TOKENS = 120
_SCHEMA = re.compile(r"following schema, and with nothing else:\n(\{.*)", re.DOTALL)


class WritingEndpoint:
    """A model that writes as it likes."""

    identity = None

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.name = folder.name
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._model: Any = model.eval()

    async def answer(self, question: Question, *, seconds: float) -> Answer:
        prompt = self._tokenizer.apply_chat_template(
            list(question.messages), tokenize=False, add_generation_prompt=True
        )
        prompt_ids = self._encode(prompt)
        text = self._written(prompt_ids, question)
        return Answer(
            text=text,
            is_cut=False,
            num_input_tokens=len(prompt_ids),
            num_output_tokens=len(self._encode(text)),
        )

    async def close(self) -> None: ...

    def _written(self, prompt_ids: list[int], question: Question) -> str:
        ids = self._behind(prompt_ids, question, max_new_tokens=MAX_FREE_TOKENS)
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _behind(
        self, ids: list[int], question: Question, *, max_new_tokens: int, **options: Any
    ) -> list[int]:
        import torch

        torch.manual_seed(question.seed or 0)
        sampling = {"do_sample": True, "temperature": question.temperature}
        with torch.inference_mode():
            made = self._model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=max_new_tokens,
                **(sampling if question.temperature else {"do_sample": False}),
                **options,
            )
        return made[0, len(ids) :].tolist()


class FormEndpoint(WritingEndpoint):
    """The same model, which only fills the fields of the form."""

    def _written(self, prompt_ids: list[int], question: Question) -> str:
        from transformers import DynamicCache

        found = _SCHEMA.search(str(question.messages[0]["content"]))
        assert found is not None
        fields: dict[str, Any] = json.JSONDecoder().raw_decode(found[1])[0]["properties"]
        ids, read, said = prompt_ids, DynamicCache(), {}
        for name, form in fields.items():
            is_truth = form["type"] == "boolean"
            opening = f'{", " if said else "{"}"{name}": ' + ("" if is_truth else '"')
            ids = ids + self._encode(opening)
            made = self._behind(
                ids,
                question,
                max_new_tokens=1 if is_truth else MAX_FIELD_TOKENS,
                past_key_values=read,
                stop_strings=['"'],
                tokenizer=self._tokenizer,
            )
            written = self._tokenizer.decode(made, skip_special_tokens=True).partition('"')[0]
            said[name] = written.strip().lower() == "true" if is_truth else written
            read.crop(len(ids) - 1 - read.get_seq_length())
            ids = ids + self._encode(json.dumps(said[name], ensure_ascii=False).removeprefix('"'))
        return json.dumps(said, ensure_ascii=False)


class PromptEndpoint(WritingEndpoint):
    """No model: the tokens of its prompts, each answered by the same text."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self.name = folder.name
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def _written(self, prompt_ids: list[int], question: Question) -> str:
        said = {"evidence": "two words", "question": "What is printed?", "answer": "a word"}
        solved = {"reasoning": "It says so.", "is_answered": True, "unclear": "", "is_clear": True}
        return json.dumps({**said, **solved})


@dataclass(slots=True)
class Row:
    """Of one gate."""

    num_seen: int = 0
    num_rejected: int = 0
    num_failed: int = 0
    usage: LlmUsage = field(default_factory=LlmUsage)


def chunks() -> Iterator[DocumentChunk]:
    """The sections of all documents, in turns: the first of each, then the second …"""
    sections = {path.name: _sections(path) for path in sorted(DOCS.glob("*.md"))}
    for number in range(max(map(len, sections.values()))):
        for name, texts in sections.items():
            if number < len(texts):
                yield DocumentChunk(document=name, number=number, text=texts[number])


def _sections(path: Path) -> list[str]:
    parts = re.split(r"\n(?=## )", path.read_text())
    return [part[:MAX_CHUNK_CHARACTERS] for part in parts if len(part) >= MIN_CHUNK_CHARACTERS]


def turns(count: int) -> list[DraftTurn]:
    styles = chosen_styles([*STYLES], {})
    return [
        DraftTurn(
            number=number,
            side="train",
            chunk=chunk,
            examples=(),
            style=styles[number % len(styles)],
            difficulty=DIFFICULTIES[number % len(DIFFICULTIES)],
            language=None,
            round=0,
        )
        for number, chunk in zip(range(count), chunks(), strict=False)
    ]


def make_model(endpoint: WritingEndpoint) -> LanguageModel:
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


async def tell_free_writing(endpoint: WritingEndpoint, asked: list[DraftTurn]) -> None:
    async with make_model(endpoint) as model:
        drafter = ModelDrafter(model, temperature=0.0, answer_form=ANSWER_FORMS["short_text"])
        drafts = [await drafter.draft(turn) for turn in asked]
    num_fitting = sum(not isinstance(draft, GateRejection) for draft in drafts)
    print(f"written by itself, {num_fitting} of {len(drafts)} drafts fit the form", flush=True)


async def tell_prompts(endpoint: PromptEndpoint, asked: list[DraftTurn]) -> None:
    rows: dict[str, Row] = {}
    async with make_model(endpoint) as model:
        drafter, gates = _drafter_and_gates(model)
        for turn in asked:
            candidate = await _drafted(drafter, turn, rows)
            assert candidate is not None
            for gate in gates:
                await _passed((gate,), candidate, rows)
    for name, row in rows.items():
        mean = row.usage.num_input_tokens / row.usage.num_calls
        print(f"{name:12} {mean:6.0f} tokens in a prompt, mean of {row.usage.num_calls}")


def _drafter_and_gates(model: LanguageModel) -> tuple[ModelDrafter, tuple[DraftGate, ...]]:
    form = ANSWER_FORMS["short_text"]
    return ModelDrafter(model, temperature=0.0, answer_form=form), (
        AnswerableGate(model, num_solutions=2, answer_form=form),
        ClosedBookGate(model, answer_form=form),
    )


async def tell_yield(endpoint: WritingEndpoint, asked: list[DraftTurn]) -> None:
    rows: dict[str, Row] = {}
    kept: list[DraftCandidate] = []
    evidence: Counter[bool] = Counter()
    async with make_model(endpoint) as model:
        drafter, gates = _drafter_and_gates(model)
        for turn in asked:
            candidate = await _drafted(drafter, turn, rows)
            if candidate is None:
                continue
            assert turn.chunk is not None
            print(f"  {candidate.draft.question!r} -> {candidate.draft.answer!r}", flush=True)
            evidence[_plain(candidate.draft.evidence) in _plain(turn.chunk.text)] += 1
            passed = await _passed(gates, candidate, rows)
            kept += [] if passed is None else [passed]
    print("\ngate          seen  rejected  failed  calls  tokens in  tokens out")
    for name, row in rows.items():
        usage = row.usage
        print(
            f"{name:12} {row.num_seen:5} {row.num_rejected:9} {row.num_failed:7} "
            f"{usage.num_calls:6} {usage.num_input_tokens:10} {usage.num_output_tokens:11}"
        )
    print(f"evidence in its chunk: {evidence[True]} of {evidence.total()} drafts")
    print(f"kept: {len(kept)} of {len(asked)}")


def _plain(text: str) -> str:
    return " ".join(text.split())


async def _drafted(
    drafter: ModelDrafter, turn: DraftTurn, rows: dict[str, Row]
) -> DraftCandidate | None:
    with usage_tallied() as tally:
        draft = await drafter.draft(turn)
    row = rows.setdefault("draft", Row())
    _count(row, tally.usage, is_rejected=isinstance(draft, GateRejection))
    return None if isinstance(draft, GateRejection) else DraftCandidate(turn=turn, draft=draft)


async def _passed(
    gates: tuple[DraftGate, ...], candidate: DraftCandidate, rows: dict[str, Row]
) -> DraftCandidate | None:
    for gate in gates:
        row = rows.setdefault(gate.name, Row())
        with usage_tallied() as tally:
            try:
                got = await gate.check(candidate)
            except LlmError:
                row.num_failed += 1
                got = None
        _count(row, tally.usage, is_rejected=isinstance(got, GateRejection))
        if got is None or isinstance(got, GateRejection):
            return None
        candidate = got
    return candidate


def _count(row: Row, usage: LlmUsage, *, is_rejected: bool) -> None:
    row.num_seen += 1
    row.num_rejected += is_rejected
    row.usage = LlmUsage(
        num_calls=row.usage.num_calls + usage.num_calls,
        num_input_tokens=row.usage.num_input_tokens + usage.num_input_tokens,
        num_output_tokens=row.usage.num_output_tokens + usage.num_output_tokens,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, help="folder of a chat model")
    parser.add_argument("--drafts", type=int, default=24)
    parser.add_argument("--free-drafts", type=int, default=4, help="that it writes by itself")
    parser.add_argument("--prompts", type=int, help="only count the tokens of so many prompts")
    given = parser.parse_args()
    if given.prompts:
        asyncio.run(tell_prompts(PromptEndpoint(given.model), turns(given.prompts)))
        return
    asked = turns(given.drafts)
    if given.free_drafts:
        asyncio.run(tell_free_writing(WritingEndpoint(given.model), asked[: given.free_drafts]))
    asyncio.run(tell_yield(FormEndpoint(given.model), asked))


if __name__ == "__main__":
    main()
