"""A model behind a server that drafts, solves and compares by a script; and a turn to ask it."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from astuner.llm import LanguageModel
from astuner.llm.answer_cache import AnswerCache
from astuner.task_generation.documents.document import DocumentChunk
from astuner.task_generation.draft import DraftCandidate, DraftTurn, TaskDraft
from astuner.task_generation.drafting.styles import chosen_styles
from astuner.types import Task
from tests.llm_server import Reply, ScriptedServer, make_model, refuses, says, serving
from tests.rubric_models import prompt_of

FORM = "The answer is a few words."
CHUNK = DocumentChunk(
    document="guide.md",
    number=3,
    headings=("Relay", "Limits"),
    text="The relay closes a quiet connection after 25 s. A full queue answers with status 503.",
)
TURN = DraftTurn(
    number=17,
    side="train",
    chunk=CHUNK,
    examples=(),
    style=chosen_styles(["fact"], {})[0],
    difficulty="easy",
    language=None,
    round=0,
)
SEEDS = (
    Task(task_id="a", main_query="What is 2 + 3?", metadata={"answer": "2 + 3 = 5\n#### 5"}),
    Task(task_id="b", main_query="What is 4 * 3?", metadata={"answer": 12}),
)
DRAFT = TaskDraft(
    question="After how long does the relay close a quiet connection?",
    answer="25 s",
    evidence="The relay closes a quiet connection after 25 s.",
    style="fact",
    difficulty="easy",
)
WRITTEN = {
    "evidence": DRAFT.evidence,
    "question": DRAFT.question,
    "answer": DRAFT.answer,
    "kind": "fact",
    "difficulty": "easy",
}

_PURPOSES = {
    "Write one": "draft",
    "Answer the question": "solve",
    "Here is a question": "closed_book",
    "Do these two answers": "compare",
}
"""How a prompt begins -> what it asks for."""


def purpose_of(body: Mapping[str, Any]) -> str:
    prompt = prompt_of(body)
    return next(purpose for begins, purpose in _PURPOSES.items() if prompt.startswith(begins))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A model and the server behind it."""

    model: LanguageModel
    server: ScriptedServer

    def prompts(self, purpose: str) -> list[str]:
        bodies = self.server.requests
        return [prompt_of(body) for body in bodies if purpose_of(body) == purpose]


@contextlib.contextmanager
def asked_model(*, cache: AnswerCache | None = None, **said: Any) -> Iterator[Asked]:
    """`said` is what it says by purpose: an object, a text, a reply, or a list of them in turns.
    What nobody scripted is refused."""
    turns = {purpose: _in_turns(answers) for purpose, answers in said.items()}

    def answer(body: dict[str, Any]) -> Reply:
        purpose = purpose_of(body)
        return turns[purpose]() if purpose in turns else refuses(400, f"no {purpose} is expected")

    with serving(answer) as server:
        yield Asked(model=make_model(server.base_url, cache=cache), server=server)


def candidate(**changes: Any) -> DraftCandidate:
    """Of `TURN` and `DRAFT`, with other values in the one or the other."""
    of_turn = {name: changes.pop(name) for name in [*changes] if hasattr(TURN, name)}
    return DraftCandidate(turn=replace(TURN, **of_turn), draft=replace(DRAFT, **changes))


def _in_turns(answers: Any) -> Callable[[], Reply]:
    """One after the other; the last one from then on."""
    left = [*answers] if isinstance(answers, list) else [answers]
    return lambda: _reply(left.pop(0) if len(left) > 1 else left[0])


def _reply(answer: Any) -> Reply:
    if isinstance(answer, Reply):
        return answer
    return says(answer if isinstance(answer, str) else json.dumps(answer))


def solved(*answers: str | None) -> Sequence[Mapping[str, Any]]:
    """What a solver says; None: that the chunk does not say."""
    return [
        {"reasoning": "so", "is_answered": answer is not None, "answer": answer}
        for answer in answers
    ]
