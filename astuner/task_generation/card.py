"""How a set was made, for programs and for people, and the rows of its files."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from astuner.task_generation.documents.document import DocumentChunk, UnreadDocument
from astuner.task_generation.draft import DraftCandidate, Side
from astuner.task_generation.generated_set import (
    CHUNKS_FILE,
    LEDGER_FILE,
    REJECTED_FILE,
    TEST_FILE,
    TRAIN_FILE,
    VALIDATION_FILE,
)
from astuner.task_generation.made_task import task_of
from astuner.task_generation.outcome import GateYield, GenerationOutcome
from astuner.task_generation.settlement import RejectedTurn, Settlement

_FILE_OF_SIDE: Mapping[Side, str] = {
    "train": TRAIN_FILE,
    "validation": VALIDATION_FILE,
    "test": TEST_FILE,
}
_COUNT_OF_SIDE: Mapping[Side, str] = {
    "train": "num_training",
    "validation": "num_validation",
    "test": "num_test",
}


def set_rows(settlement: Settlement) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """The rows of each jsonl file of the set; without that of a test which has no task."""
    taken = {side: [] for side in _FILE_OF_SIDE}
    for candidate in settlement.taken:
        taken[candidate.turn.side].append(_task_row(candidate))
    rejected = sorted(settlement.rejected, key=lambda turn: turn.drafted.turn.number)
    return {
        **{
            file: taken[side]
            for side, file in _FILE_OF_SIDE.items()
            if taken[side] or side != "test"
        },
        REJECTED_FILE: [_rejected_row(turn) for turn in rejected],
        CHUNKS_FILE: list(_chunk_rows(settlement)),
    }


def describe_set(
    outcome: GenerationOutcome,
    *,
    about: Mapping[str, Any],
    unread: Sequence[UnreadDocument],
    num_surplus: int,
) -> Mapping[str, Any]:
    """What card.json says: `about` and the counts."""
    return {
        **about,
        "num_wanted": outcome.num_wanted,
        "num_training": outcome.num_training,
        "num_validation": outcome.num_validation,
        "num_test": outcome.num_test,
        "num_drafts": outcome.num_drafts,
        "num_surplus": num_surplus,
        "num_failed": outcome.num_failed,
        "ended_by": outcome.ended_by,
        "by_gate": [{**asdict(gate), "usage": asdict(gate.usage)} for gate in outcome.by_gate],
        "by_document": {
            name: {"num_drafts": num_drafts, "num_tasks": num_tasks}
            for name, (num_drafts, num_tasks) in outcome.by_document.items()
        },
        "unread_documents": [asdict(document) for document in unread],
        "usage": asdict(outcome.usage),
        "cost": outcome.cost,
    }


def write_readme(card: Mapping[str, Any], by_gate: Sequence[GateYield]) -> str:
    """A page about the set, with the front matter that data set hubs read."""
    return "\n".join([*_front_matter(card), "", *_page(card, by_gate), ""])


def _task_row(candidate: DraftCandidate) -> Mapping[str, Any]:
    task = task_of(candidate)
    return {"task_id": task.task_id, "main_query": task.main_query, "metadata": task.metadata}


def _rejected_row(rejected: RejectedTurn) -> Mapping[str, Any]:
    turn, draft = rejected.drafted.turn, rejected.drafted.draft
    return {
        "turn": turn.number,
        "side": turn.side,
        "gate": rejected.rejection.gate,
        "reason": rejected.rejection.reason,
        "question": draft and draft.question,
        "answer": draft and draft.answer,
        "evidence": draft and draft.evidence,
        "document": turn.chunk and turn.chunk.document,
        "chunk": turn.chunk and turn.chunk.number,
        "style": draft.style if draft else turn.style.name,
        "difficulty": draft.difficulty if draft else turn.difficulty,
    }


def _chunk_rows(settlement: Settlement) -> Iterator[Mapping[str, Any]]:
    turns = [candidate.turn for candidate in settlement.taken]
    turns += [rejected.drafted.turn for rejected in settlement.rejected]
    chunks: dict[tuple[str, int], DocumentChunk] = {
        (turn.chunk.document, turn.chunk.number): turn.chunk for turn in turns if turn.chunk
    }
    for (document, number), chunk in sorted(chunks.items()):
        yield {
            "document": document,
            "number": number,
            "headings": chunk.headings,
            "text": chunk.text,
        }


def _front_matter(card: Mapping[str, Any]) -> list[str]:
    """YAML, whose flow style JSON is."""
    named = {"license": card.get("licence"), "language": card.get("languages")}
    files = [
        {"split": side, "path": file}
        for side, file in _FILE_OF_SIDE.items()
        if card[_COUNT_OF_SIDE[side]]
    ]
    lines = [
        f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in named.items() if value
    ]
    configs = [{"config_name": "default", "data_files": files}] if files else []
    tags = ["synthetic", "astuner"]
    return ["---", *lines, f"tags: {json.dumps(tags)}", f"configs: {json.dumps(configs)}", "---"]


def _page(card: Mapping[str, Any], by_gate: Sequence[GateYield]) -> list[str]:
    short = [f"It was to have {card['num_wanted']}: {card['ended_by']}.", ""]
    return [
        "# Generated tasks",
        "",
        _told_sides(card),
        "",
        *(short if card["ended_by"] else []),
        "| made with | |",
        "| --- | --- |",
        *(f"| {_cell(name)} | {_cell(value)} |" for name, value in _plain_facts(card)),
        "",
        "## What became of the drafts",
        "",
        "| gate | drafts that came to it | rejected | calls | tokens |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {gate.gate} | {gate.num_seen} | {gate.num_rejected} | {gate.usage.num_calls} | "
            f"{gate.usage.num_tokens} |"
            for gate in by_gate
        ),
        "",
        f"Each rejection stands in {REJECTED_FILE} with its reason, each draft with what it took "
        f"in {LEDGER_FILE}.",
        "",
        "## Documents",
        "",
        "| document | drafts | tasks |",
        "| --- | --- | --- |",
        *(
            f"| {_cell(name)} | {found['num_drafts']} | {found['num_tasks']} |"
            for name, found in card["by_document"].items()
        ),
        *_unread_lines(card["unread_documents"]),
    ]


def _told_sides(card: Mapping[str, Any]) -> str:
    held_out = [
        f"{card[count]} for {side}"
        for side, count in (("validation", "num_validation"), ("test", "num_test"))
        if card[count]
    ]
    counts = " and ".join([f"{card['num_training']} tasks for training", *held_out])
    apart = " They share no document, chunk or example that tasks were made from."
    return f"{counts}, from {card['num_drafts']} drafts.{apart if held_out else ''}"


def _unread_lines(unread: Sequence[Mapping[str, str]]) -> list[str]:
    if not unread:
        return []
    found = [f"| {_cell(document['name'])} | {_cell(document['reason'])} |" for document in unread]
    return ["", "## Not read", "", "| document | reason |", "| --- | --- |", *found]


_COUNTED = {"by_gate", "by_document", "unread_documents", "ended_by", "usage"}
"""Of the card; told elsewhere on the page."""


def _plain_facts(card: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in card.items():
        if name in _COUNTED or name.startswith("num_") or value in (None, [], {}):
            continue
        yield name.replace("_", " "), value
    usage = card["usage"]
    yield "calls", usage["num_calls"]
    yield "tokens", f"{usage['num_input_tokens']} in, {usage['num_output_tokens']} out"


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split()).replace("|", "\\|")


def yields_by_gate(
    settlement: Settlement, gates: Sequence[str], usage: Mapping[str, Any]
) -> list[GateYield]:
    """In the order of `gates`, each of which sees what those before it let through."""
    num_rejected = Counter(turn.rejection.gate for turn in settlement.rejected)
    num_seen = settlement.num_settled
    yields = []
    for gate in gates:
        yields.append(
            GateYield(
                gate=gate,
                num_seen=num_seen,
                num_rejected=num_rejected[gate],
                usage=usage[gate],
            )
        )
        num_seen -= num_rejected[gate]
    return yields
