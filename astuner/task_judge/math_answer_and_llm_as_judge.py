"""The judge for mathematical answers that a rule alone would miss: a model has the second word.

The rule is right where it says yes, and costs nothing. Where it says no, the answer may still be
equal in a form that it cannot read, and the model is asked.
"""

from typing import Any

from pydantic import BaseModel, Field

from astuner.llm import LanguageModel, open_model_of_use
from astuner.task_judge.asking.fence import fenced
from astuner.task_judge.asking.judge_prompt import JudgePrompt
from astuner.task_judge.base_judge import BaseJudge
from astuner.task_judge.final_text import final_text
from astuner.task_judge.math.reference import reference_answers
from astuner.task_judge.math.text import MAX_TAIL_CHARS
from astuner.task_judge.math_answer_as_judge import MathAnswerAsJudge
from astuner.types import Judgement, WorkflowOutput, WorkflowTask

_PROMPT = JudgePrompt(
    """\
Is the final answer of a solution equal to the reference answer? Do not solve the problem, and do \
not judge the way to the answer: only compare. Equal are the same value, set or expression in \
another form or language, and a value with the unit that the problem asks for. Not equal are a \
value that was rounded where the reference is exact, several answers of which one is right, an \
answer that is taken back, and none at all.

Problem:
{problem}

Reference answer:
{reference}

Solution:
{solution}""",
    known=("problem", "reference", "solution"),
    needed="solution",
    setting=__name__,
)


class MathComparison(BaseModel):
    """What the model says."""

    final_answer: str = Field(description="The final answer of the solution; empty without one.")
    reason: str = Field(description="In one sentence, whether it is the reference answer and why.")
    is_equal: bool


class MathAnswerAndLlmAsJudge(BaseJudge):
    """1.0 if `MathAnswerAsJudge` finds the answer right, or else a model does; otherwise 0.0.

    The note says who decided. An empty answer is wrong without a question. Raises JudgeError where
    the rule does, and LlmError where the model gives no answer.
    """

    def __init__(self, config: Any, *, model: LanguageModel | None = None) -> None:
        """Opens the configured model unless one is given; raises ConfigError where there is none.

        The rule reads `task_judge.math_answer`.
        """
        super().__init__(config)
        self._rule = MathAnswerAsJudge(config)
        self._model = model or open_model_of_use(config.astuner, "task_judge")

    def prepare(self) -> None:
        self._rule.prepare()

    async def compute_reward(
        self, workflow_task: WorkflowTask, workflow_output: WorkflowOutput
    ) -> Judgement:
        _, is_right = await self._rule.compute_reward(workflow_task, workflow_output)
        solution = final_text(workflow_task, workflow_output)[-MAX_TAIL_CHARS:]
        if is_right:
            return Judgement(reward=1.0, is_success=True, note="The rule found the answer right.")
        if not solution.strip():
            return Judgement(reward=0.0, is_success=False, note="The rule found no answer.")
        said = await self._model.ask(_prompt(workflow_task, solution), schema=MathComparison)
        return Judgement(
            reward=1.0 if said.is_equal else 0.0,
            is_success=said.is_equal,
            note=f"The rule did not find the answer right; the model decided: {said.reason}",
        )


def _prompt(task: WorkflowTask, solution: str) -> str:
    return _PROMPT.filled(
        {
            "problem": fenced(task.task.main_query, "problem"),
            "reference": fenced(reference_answers(task)[0], "reference"),
            "solution": fenced(solution, "solution"),
        }
    )
