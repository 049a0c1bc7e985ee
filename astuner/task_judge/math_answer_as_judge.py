r"""The judge for tasks with one mathematical answer, such as GSM8K and MATH.

Reads `final_answer` from what the workflow returned and `answer` from the task, finds the answer
in both, and gives 1.0 if they are equal, else 0.0. `math/equality.py` decides what is equal.
"""

from typing import Any

from astuner.task_judge.base_judge import BaseJudge
from astuner.task_judge.final_text import final_text
from astuner.task_judge.math.equality import SymbolicComparer, exact_equality, shared_comparer
from astuner.task_judge.math.final_answer import find_answer, opening_word
from astuner.task_judge.math.reference import reference_answers
from astuner.task_judge.math.text import MAX_TAIL_CHARS
from astuner.task_judge.math.words import is_verdict
from astuner.types import WorkflowOutput, WorkflowTask

COMPARISON_TIMEOUT_SECONDS = 6.0
"""For an answer that only algebra can compare; one that takes longer is not equal."""
MAX_SHORT_CHARS = 300
"""A text up to here may as a whole be the answer: `July 4`."""


class MathAnswerAsJudge(BaseJudge):
    r"""1.0 if the last `\boxed{}` (or what follows `####`, or the last number) is the answer.

    An answer that is missing, unreadable or hostile (`9^(9^(9^9))`) is wrong: reward 0.0. Raises
    JudgeError when the workflow or the task lacks the field to judge by.
    """

    compares_answers = True

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
        references = reference_answers(workflow_task)
        text = final_text(workflow_task, workflow_output)[-MAX_TAIL_CHARS:]
        for reference in references:
            if await self._is_answered(text, reference):
                return 1.0, True
        return 0.0, False

    async def _is_answered(self, text: str, reference: str) -> bool:
        if len(text) <= MAX_SHORT_CHARS and exact_equality(text, reference):
            return True
        answer = opening_word(text) if is_verdict(reference) else None
        if answer is None:
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
