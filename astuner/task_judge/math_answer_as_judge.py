r"""The judge for tasks with one mathematical answer, such as GSM8K and MATH.

Reads `final_answer` from what the workflow returned and `answer` from the task, finds the answer
in both, and gives 1.0 if they are equal, else 0.0. `math/equality.py` decides what is equal.
"""

import re
from typing import Any

from astuner.errors import JudgeError
from astuner.task_judge.base_judge import BaseJudge
from astuner.task_judge.math.equality import (
    SymbolicComparer,
    exact_equality,
    is_prose,
    shared_comparer,
)
from astuner.task_judge.math.number import parse_number
from astuner.task_judge.math.text import (
    MAX_TAIL_CHARS,
    after_hashes,
    answer_text,
    last_box,
    last_number,
    plain_math,
)
from astuner.types import WorkflowOutput, WorkflowTask

COMPARISON_TIMEOUT_SECONDS = 6.0
"""For an answer that only algebra can compare; one that takes longer is not equal."""
MAX_SHORT_CHARS = 300
"""A text up to here may as a whole be the answer: `July 4`."""

_SMALL_WORDS = re.compile(
    r"\b(?:so|is|it|to|of|at|we|he|as|if|be|by|my|no|on|up|us|me|go|do|an|i'm|and)\b", re.IGNORECASE
)


class MathAnswerAsJudge(BaseJudge):
    r"""1.0 if the last `\boxed{}` (or what follows `####`, or the last number) is the answer.

    An answer that is missing, unreadable or hostile (`9^(9^(9^9))`) is wrong: reward 0.0. Raises
    JudgeError when the workflow or the task lacks the field to judge by.
    """

    def __init__(
        self,
        config: Any,
        *,
        comparer: SymbolicComparer | None = None,
        comparison_timeout_seconds: float = COMPARISON_TIMEOUT_SECONDS,
    ) -> None:
        """Reads `task_judge.math_answer`; without `config` a last number is accepted.

        All judges of a process share one comparer unless one is given, which stays the caller's.
        """
        super().__init__(config)
        self._comparer = comparer
        self._timeout_seconds = comparison_timeout_seconds
        self._accept_last_number = (
            config is None or config.astuner.task_judge.math_answer.accept_last_number
        )

    def prepare(self) -> None:
        """Have a process ready that compares what only algebra can compare."""
        self._comparing.prepare()

    async def compute_reward(
        self, workflow_task: WorkflowTask, workflow_output: WorkflowOutput
    ) -> tuple[float, bool]:
        reference = _reference_answer(workflow_task)
        text = _final_text(workflow_task, workflow_output)
        is_success = await self._is_answered(text, reference)
        return (1.0 if is_success else 0.0), is_success

    async def _is_answered(self, text: str, reference: str) -> bool:
        if len(text) <= MAX_SHORT_CHARS and exact_equality(text, reference):
            return True
        answer = find_answer(text, accept_last_number=self._accept_last_number)
        if answer is None:
            return False
        verdict = exact_equality(answer, reference)
        if verdict is not None:
            return verdict
        return await self._comparing.is_equal(
            answer, reference, timeout_seconds=self._timeout_seconds
        )

    @property
    def _comparing(self) -> SymbolicComparer:
        return self._comparer or shared_comparer()


def find_answer(text: str, *, accept_last_number: bool) -> str | None:
    r"""The expression that a text gives as its answer; None if it gives none.

    The last `\boxed{}` counts, else what follows the last `####`, else the last line where it is
    nothing but an expression, else, if accepted, the last number.
    """
    box = last_box(text)
    if box is not None:
        return box
    marked = after_hashes(text)
    if marked:
        first_line = marked.splitlines()[0]
        if _is_expression(first_line):
            return first_line
        text = marked  # `####` was a heading
    last_line = text.strip().rpartition("\n")[2]
    if _is_expression(last_line):
        return last_line
    return last_number(text) if accept_last_number else None


def _is_expression(text: str) -> bool:
    plain = plain_math(text)
    if not plain:
        return False
    has_words = is_prose(plain) or _SMALL_WORDS.search(plain) is not None
    return not has_words or parse_number(plain) is not None


def _final_text(task: WorkflowTask, output: WorkflowOutput) -> str:
    value = output.metadata.get("final_answer")
    if value is None:
        raise JudgeError(
            f"cannot judge task {task.task_id}: the workflow's WorkflowOutput has no "
            f"metadata['final_answer']; found {sorted(output.metadata)}; return the model's last "
            "message there, or a reward"
        )
    return answer_text(value)[-MAX_TAIL_CHARS:]


def _reference_answer(task: WorkflowTask) -> str:
    metadata = task.task.metadata
    value = metadata.get("answer")
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        text = str(value)
        answer = after_hashes(text) or last_box(text) or text
        if plain_math(answer):
            return answer
    raise JudgeError(
        f"cannot judge task {task.task_id}: metadata['answer'] is {value!r:.80}, the task's "
        f"metadata has {sorted(metadata)}; give every task its reference answer there"
    )
