"""The gate of questions that teach nothing: answered without their chunk, or unclear without it."""

from pydantic import BaseModel, Field

from astuner.llm import LanguageModel
from astuner.task_generation.draft import DraftCandidate, GateRejection
from astuner.task_generation.gates.answer_comparer import AnswerComparer
from astuner.task_generation.material import NOTICE, turn_seed
from astuner.task_generation.said_text import SaidText
from astuner.task_judge.asking.fence import fenced

VERSION = 1
"""Changes with any word of the prompt, and with how it is asked."""

_PROMPT = """\
Here is a question, and nothing else. First say whether it is clear: whether somebody who knows \
the field, and has read nothing beforehand, can tell what is asked about and where to look it up. \
It is not clear where it points to a text, a picture or a conversation that you do not see, or to \
things without a name. Whether you know the answer does not matter for that.
Then answer it if you know the answer; where you would have to guess, leave the answer empty. \
{answer_form}

{question}

{notice}"""


class ClosedBookAnswer(BaseModel):
    """What the model says."""

    unclear: SaidText = Field(description="What the question leaves open; empty where nothing.")
    is_clear: bool
    answer: SaidText = Field(default="", description="Empty where you do not know it.")


class ClosedBookGate:
    """Asks once without the chunk. Drafts that were made from none pass unasked."""

    name = "closed_book"

    def __init__(self, model: LanguageModel, *, answer_form: str) -> None:
        """`answer_form` is what the drafter was told."""
        self._model = model
        self._comparer = AnswerComparer(model)
        self._answer_form = answer_form

    async def check(self, candidate: DraftCandidate) -> DraftCandidate | GateRejection:
        turn, draft = candidate.turn, candidate.draft
        if turn.chunk is None:
            return candidate
        said = await self._model.ask(
            _PROMPT.format(
                question=fenced(draft.question, "question"),
                answer_form=self._answer_form,
                notice=NOTICE,
            ),
            schema=ClosedBookAnswer,
            seed=turn_seed(turn, "closed_book"),
        )
        if not said.is_clear:
            reason = f"the question is not clear without its text: {said.unclear[:200]}"
            return GateRejection(gate=self.name, reason=reason)
        answers = (draft.answer, said.answer)
        if not said.answer or not await self._comparer.is_same(turn, draft.question, answers):
            return candidate
        reason = f"the model knows the answer without the text: {said.answer[:100]!r}"
        return GateRejection(gate=self.name, reason=reason)
