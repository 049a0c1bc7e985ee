"""How well do the gates take what is wrong and leave what is right?

    python -m benchmarks.gate_quality                         # text gates, and a scripted reader
    python -m benchmarks.gate_quality --embeddings FOLDER     # paraphrases too, by a local model
    python -m benchmarks.gate_quality --base-url http://127.0.0.1:8000/v1 --model NAME

Over the drafts of tests/task_generation/planted.py, each with the fault that was planted. Every
gate sees all drafts that no earlier gate took, in the order of a run; a draft counts for the gate
that takes it first. Precision is the share of what a gate took that was planted for it, recall the
share of what was planted for it that it took. Without an address, the gates that ask a model ask a
server that answers as a faithful reader of the text would: their figures show what the gates make
of right answers, not how often a model gives them.
"""

import argparse
import asyncio
import contextlib
import json
import re
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from astuner.llm import LanguageModel, open_language_model
from astuner.task_generation.draft import DraftCandidate, GateRejection
from astuner.task_generation.gates.duplicates.embedder import Embedder
from astuner.task_generation.gates.duplicates.embedding_folder import EmbeddingFolder
from astuner.task_generation.gates.duplicates.embedding_store import EmbeddingStore
from astuner.task_generation.gates.duplicates.semantic_duplicates import SemanticDuplicates
from astuner.task_generation.gates.duplicates.several import SeveralFilters
from astuner.task_generation.gates.duplicates.text_duplicates import TextDuplicates
from astuner.task_generation.gates.evidence import EvidenceGate
from astuner.task_generation.gates.gate import DraftGate, DuplicateFilter
from astuner.task_generation.gates.personal_data import PersonalDataGate
from astuner.task_generation.gates.private_spans import PrivateSpanFinder
from astuner.task_generation.gates.self_contained import SelfContainedGate
from tests.llm_server import Reply, make_model, says, serving
from tests.task_generation.planted import PLANTED, UNCLEAR, UNKNOWN, PlantedDraft

MAX_OVERLAP = 0.7
SIMILARITY = 0.8
"""Both as in the default settings."""


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--embeddings", type=Path, help="folder of a sentence-embedding model")
    parser.add_argument("--base-url", help="server of a real model, for the gates that ask")
    parser.add_argument("--model", help="its name there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as vectors:
        duplicates = open_duplicates(arguments.embeddings, Path(vectors))
        async with open_reader(arguments.base_url, arguments.model) as model:
            gates = [*text_gates(), *asking_gates(model)]
            print_table(await take(gates, duplicates), gates)


def text_gates() -> list[DraftGate]:
    finder = PrivateSpanFinder()
    return [
        EvidenceGate(),
        SelfContainedGate(),
        PersonalDataGate(finder, treatment="refuse"),
    ]


def asking_gates(model: LanguageModel) -> list[DraftGate]:
    from astuner.task_generation.gates.answerable import AnswerableGate
    from astuner.task_generation.gates.closed_book import ClosedBookGate

    form = "The answer is as short as it can be."
    return [
        AnswerableGate(model, num_solutions=2, answer_form=form),
        ClosedBookGate(model, answer_form=form),
    ]


def open_duplicates(folder: Path | None, vectors: Path) -> DuplicateFilter:
    text = TextDuplicates(max_ngram_overlap=MAX_OVERLAP)
    if folder is None:
        return text
    model = EmbeddingFolder(folder)
    store = EmbeddingStore(vectors, identity=model.identity)
    meaning = SemanticDuplicates(Embedder(model, store), similarity_threshold=SIMILARITY)
    return SeveralFilters([text, meaning])


async def take(
    gates: Sequence[DraftGate], duplicates: DuplicateFilter
) -> list[tuple[PlantedDraft, GateRejection | None]]:
    """Each draft with what took it, as in a run."""
    taken = []
    for planted in PLANTED:
        outcome: DraftCandidate | GateRejection | None = planted.candidate
        for gate in gates:
            if isinstance(outcome, DraftCandidate):
                outcome = await gate.check(outcome)
        if isinstance(outcome, DraftCandidate):
            await duplicates.prepare(outcome)
            if (found := duplicates.find(outcome)) is None:
                duplicates.add(outcome)
            outcome = found
        taken.append((planted, outcome))
    return taken


def print_table(
    taken: list[tuple[PlantedDraft, GateRejection | None]], gates: Sequence[DraftGate]
) -> None:
    print("| gate | planted | took | precision | recall |\n| --- | --- | --- | --- | --- |")
    for name in [*(gate.name for gate in gates), "duplicates"]:
        meant = [planted for planted, _ in taken if planted.gate == name]
        took = [planted for planted, found in taken if found is not None and found.gate == name]
        right = sum(planted.gate == name for planted in took)
        print(
            f"| `{name}` | {len(meant)} | {len(took)} | {share(right, len(took))} "
            f"| {share(right, len(meant))} |"
        )
    sound = [found for planted, found in taken if planted.gate is None]
    print(f"\nof {len(sound)} drafts without a fault {sum(f is None for f in sound)} are left")
    for planted, found in taken:
        if (found.gate if found else None) != planted.gate:
            by = f"was taken by {found.gate}: {found.reason}" if found else "was left"
            print(f"- {planted.fault}: {planted.candidate.draft.question!r} {by}")


def share(count: int, total: int) -> str:
    return f"{count / total:.2f}" if total else "-"


@contextlib.asynccontextmanager
async def open_reader(base_url: str | None, name: str | None) -> AsyncIterator[LanguageModel]:
    """The model at an address; without one, a server that answers as the planted readers do."""
    if base_url is not None:
        llm = SimpleNamespace(
            base_url=base_url,
            api_key_env="OPENAI_API_KEY",
            cache_dir=None,
            max_calls=None,
            max_tokens=None,
            max_parallel=4,
            timeout_seconds=600,
        )
        async with open_language_model(llm, name or "", max_new_tokens=512) as model:
            yield model
        return
    with serving(answer_as_reader) as server:
        async with make_model(server.base_url, max_new_tokens=512) as model:
            yield model


def answer_as_reader(body: dict[str, Any]) -> Reply:
    """What `PlantedDraft` says, to whichever of the gates asks."""
    prompt = body["messages"][-1]["content"]
    if "is_same" in prompt:
        one, other = (answer.casefold() for answer in re.findall(r"<answer \w+>\n(.*)\n", prompt))
        is_same = one.strip(".") in other or other.strip(".") in one
        return says(json.dumps({"reason": "compared", "is_same": is_same}))
    planted = next(p for p in PLANTED if f"\n{p.candidate.draft.question}\n" in prompt)
    if "is_clear" in prompt:
        known = "" if planted.without_text in (UNKNOWN, UNCLEAR) else planted.without_text
        is_clear = planted.without_text != UNCLEAR
        return says(json.dumps({"unclear": "what waits", "is_clear": is_clear, "answer": known}))
    found = planted.with_text != UNKNOWN
    answer = planted.with_text if found else ""
    return says(json.dumps({"reasoning": "read", "is_answered": found, "answer": answer}))


if __name__ == "__main__":
    asyncio.run(main())
