"""What the model that writes tasks is told. All of it follows from the turn."""

import json
from typing import Any

from astuner.task_generation.draft import Difficulty, DraftTurn
from astuner.task_generation.drafting.focus import focus_of
from astuner.task_generation.material import NOTICE, shown_chunk, turn_seed
from astuner.task_judge.asking.fence import fenced
from astuner.task_judge.math.text import after_hashes
from astuner.types import Task

VERSION = 1
"""Changes with any word of the prompt; drafts of another version are not used again."""

_FROM_TEXT = """\
Write one question with its answer from the text below. It will train and test an agent that does \
not see the text, and its answer is checked against yours.

{wishes}

Rules:
- The answer follows from the text alone, and only one answer is right.
- Whoever reads the question has never seen the text. Name the things that it is about, and never \
speak of the text, a section, an author or an example "above".
- Ask about what the text says, not about how it is written or laid out.
- {answer_form}
- The evidence is copied from the text word by word: the sentence, or the few sentences in a row, \
that the answer follows from.
- Where the text has nothing to ask about, such as a table of contents, leave all fields empty.

{text}

{notice}"""

_FROM_EXAMPLES = """\
Write one new question with its answer, on the subject of the examples below. It will train and \
test an agent, and its answer is checked against yours.

{wishes}

Rules:
- It differs from the examples in what has to be found out, not only in names and numbers.
- It says all that is needed to answer it, and only one answer is right.
- Work the answer out step by step before you write it down.
- {answer_form}

{examples}

{notice}"""

_DIFFICULTIES_OF_TEXT: dict[Difficulty, str] = {
    "easy": "one sentence of the text answers it",
    "medium": "two places of the text have to be put together, or a condition to be seen",
    "hard": "it takes several steps of thought over the text, though its answer is short",
}
_DIFFICULTIES_OF_EXAMPLES: dict[Difficulty, str] = {
    "easy": "simpler than the examples",
    "medium": "as hard as the examples",
    "hard": "it takes more steps than the examples",
}


def draft_prompt(turn: DraftTurn, *, answer_form: str, answer_field: str) -> str:
    """`answer_form` is a sentence about answers; examples have theirs in `answer_field` of their
    metadata. Raises ValueError for a turn with neither a chunk nor examples."""
    examples = _shown_examples(turn, answer_field)
    if turn.chunk is None:
        if not turn.examples:
            raise ValueError(f"turn {turn.number} has neither a chunk nor examples")
        return _FROM_EXAMPLES.format(
            wishes=_wishes(turn), answer_form=answer_form, examples=examples, notice=NOTICE
        )
    text = shown_chunk(turn.chunk)
    if examples:
        text = f"{text}\n\nQuestions of others, for the manner only:\n{examples}"
    return _FROM_TEXT.format(
        wishes=_wishes(turn), answer_form=answer_form, text=text, notice=NOTICE
    )


def _wishes(turn: DraftTurn) -> str:
    levels = _DIFFICULTIES_OF_EXAMPLES if turn.chunk is None else _DIFFICULTIES_OF_TEXT
    of_source = "of the examples" if turn.chunk is None else "of the text"
    return "\n".join(
        [
            f"Kind: {turn.style.name}. {turn.style.instructions}{_wanted_verdict(turn)}",
            f"Difficulty: {turn.difficulty}; {levels[turn.difficulty]}.",
            f"Language of question and answer: {turn.language or f'that {of_source}'}.",
            *_otherwise_than_before(turn),
        ]
    )


def _wanted_verdict(turn: DraftTurn) -> str:
    """Models ask for yes by themselves, and an agent that always says yes would then be right."""
    if turn.style.name != "yes_no":
        return ""
    verdict = "yes" if turn_seed(turn, "verdict") % 2 else "no"
    return f" Ask so that the right answer is {verdict}."


def _otherwise_than_before(turn: DraftTurn) -> list[str]:
    """In a later round: how often it was asked before, and which part to ask about now."""
    if turn.round == 0:
        return []
    if turn.chunk is None:
        nearest = turn.round % len(turn.examples) + 1
        return [
            f"Questions that were written after these examples before: {turn.round}. Find another "
            f"one than comes to mind first, nearest to example {nearest}."
        ]
    focus = fenced(focus_of(turn.chunk.text, turn.round), "focus")
    return [
        f"Questions that were asked about this text before: {turn.round}. Ask another one now, "
        f"about this part of it:\n{focus}"
    ]


def _shown_examples(turn: DraftTurn, answer_field: str) -> str:
    return "\n".join(fenced(_example(task, answer_field), "example") for task in turn.examples)


def _example(task: Task, answer_field: str) -> str:
    answer = task.metadata.get(answer_field)
    question = f"Question: {task.main_query}"
    return question if answer is None else f"{question}\nAnswer: {_answer_text(answer)}"


def _answer_text(answer: Any) -> str:
    if not isinstance(answer, str):
        return json.dumps(answer, ensure_ascii=False, default=str)
    return after_hashes(answer) or answer
