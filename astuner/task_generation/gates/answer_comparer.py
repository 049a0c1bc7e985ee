"""Whether two answers to a question say the same; where no rule can tell, a model is asked."""

from pydantic import BaseModel, Field

from astuner.llm import LanguageModel
from astuner.task_generation.draft import DraftTurn
from astuner.task_generation.gates.same_answer import same_answer
from astuner.task_generation.material import NOTICE, turn_seed
from astuner.task_judge.asking.fence import fenced

VERSION = 1
"""Changes with any word of the prompt, and with how it is asked."""

_PROMPT = """\
Do these two answers to the question say the same? Do not answer the question: only compare them. \
The same are other words, another language, and a value in another unit. Not the same are another \
value or thing, and an answer that leaves out what the other one says and the question asks for.

{question}

{answers}

{notice}"""


class SameAnswer(BaseModel):
    """What the model says."""

    reason: str = Field(description="In one sentence, what is the same and what differs.")
    is_same: bool


class AnswerComparer:
    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    async def is_same(self, turn: DraftTurn, question: str, answers: tuple[str, str]) -> bool:
        """Whichever of the two stands first. Raises the errors of `LanguageModel.ask`."""
        verdict = same_answer(*answers)
        if verdict is not None:
            return verdict
        prompt = _PROMPT.format(
            question=fenced(question, "question"),
            answers="\n".join(fenced(answer, "answer") for answer in sorted(answers)),
            notice=NOTICE,
        )
        said = await self._model.ask(prompt, schema=SameAnswer, seed=turn_seed(turn, "compare"))
        return said.is_same
