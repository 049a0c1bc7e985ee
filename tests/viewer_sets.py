"""Generated sets as the viewer finds them, written by hand: small, and odd where asked."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DOCUMENT = "guide/doors.md"
CHUNK = "The house has two doors.\n\nThe red door opens\nat seven and is shut after nine."
QUESTION = "When does the red door open?"
EVIDENCE = "The red door opens at seven"


def task(turn: int = 0, *, question: str = QUESTION, **metadata: Any) -> dict[str, Any]:
    facts = {
        "answer": "at seven",
        "evidence": EVIDENCE,
        "document": DOCUMENT,
        "chunk": 0,
        "style": "fact",
        "difficulty": "easy",
        "turn": turn,
        **metadata,
    }
    task_id = f"{facts['document']}/{facts['chunk']}/{turn}"
    return {"task_id": task_id, "main_query": question, "metadata": facts}


def rejection(turn: int, gate: str = "evidence", **fields: Any) -> dict[str, Any]:
    return {
        "turn": turn,
        "side": "train",
        "gate": gate,
        "reason": "its evidence does not stand in the chunk",
        "question": "When does the blue door open?",
        "answer": "at eight",
        "evidence": "The blue door opens at eight",
        "document": DOCUMENT,
        "chunk": 0,
        "style": "fact",
        "difficulty": "easy",
        **fields,
    }


def chunk(number: int = 0, text: str = CHUNK, document: str = DOCUMENT) -> dict[str, Any]:
    return {"document": document, "number": number, "headings": ["The house"], "text": text}


def make_set(
    root: Path,
    *,
    training: Sequence[Mapping[str, Any]] = (task(0), task(1)),
    validation: Sequence[Mapping[str, Any]] = (),
    rejected: Sequence[Mapping[str, Any]] = (),
    chunks: Sequence[Mapping[str, Any]] = (chunk(),),
    card: Mapping[str, Any] | None = None,
) -> Path:
    """A set that is whole."""
    root.mkdir(parents=True)
    files = {"ledger": (), "train": training, "validation": validation}
    for name, rows in {**files, "rejected": rejected, "chunks": chunks}.items():
        write_lines(root / f"{name}.jsonl", *rows)
    counts = {"num_training": len(training), "num_validation": len(validation)}
    (root / "card.json").write_text(json.dumps({**counts, **(card or {})}))
    return root


def write_lines(path: Path, *rows: Mapping[str, Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_varied_set(root: Path, said: str = QUESTION) -> Path:
    """One that has something of all that pages show, where people and models said `said`."""
    return make_set(
        root,
        training=[
            task(0, question=said, note=said, pass_rate=0.25),
            task(1, style="yes_no", pass_rate=0.5),
        ],
        validation=[task(2, document=said, difficulty="hard", pass_rate=0.75)],
        rejected=[
            rejection(3, "duplicates", reason=f"it asks in the same words as turn 0, {said!r}"),
            rejection(4, "form", question=None, answer=None, evidence=None, reason=said),
        ],
        chunks=[chunk(), chunk(document=said, text=said)],
        card={
            "num_wanted": 5,
            "ended_by": said,
            "unread_documents": [{"name": "scan.pdf", "reason": said}],
            "model": "some/model",
        },
    )
