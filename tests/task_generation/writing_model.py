"""The script of a server that writes tasks about documents of plain facts, and answers them.

    The limit of the red pump is 12 seconds.

What it says depends on the question alone. See `tests.llm_server.serving`.
"""

import json
import re
from pathlib import Path
from random import Random
from typing import Any

from tests.llm_server import Reply, says

_FACT = re.compile(r"The limit of (the [\w -]+?) is (\d+ seconds)\.")
_ASKED = re.compile(r"What is the limit of (the [\w -]+)\?")
COLOURS = ("red", "green", "blue", "white", "black", "brown", "yellow", "grey")
THINGS = ("pump", "valve", "door", "oven", "fan", "lamp", "motor", "belt")


def write_facts(folder: Path, *, num_documents: int) -> None:
    """Documents of Markdown with eight facts each; those of one document are about one thing."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_documents):
        thing = f"{THINGS[number % len(THINGS)]} of kind {number}"
        facts = [
            f"The limit of the {colour} {thing} is {10 * number + index + 2} seconds."
            for index, colour in enumerate(COLOURS)
        ]
        text = "\n\n".join([f"# All about the {thing}", *facts])
        (folder / f"part_{number}.md").write_text(f"{text}\n")


def writes_tasks(body: dict[str, Any]) -> Reply:
    asked = body["messages"][0]["content"]
    if "Write one" in asked:
        return says(json.dumps(_draft(asked, body.get("seed"))), tokens=(100, 20))
    return says(json.dumps(_solution(asked)), tokens=(50, 10))


def _draft(asked: str, seed: int | None) -> dict[str, Any]:
    facts = [*_FACT.finditer(asked)]
    if not facts:
        return {"question": "", "answer": "", "evidence": ""}
    fact = Random(seed).choice(facts)
    return {
        "evidence": fact.group(),
        "question": f"What is the limit of {fact[1]}?",
        "answer": fact[2],
    }


def _solution(asked: str) -> dict[str, Any]:
    wanted = _ASKED.search(asked)
    known = {fact[1]: fact[2] for fact in _FACT.finditer(asked)}
    answer = known.get(wanted[1], "") if wanted else ""
    return {"reasoning": "It stands there.", "is_answered": bool(answer), "answer": answer}
