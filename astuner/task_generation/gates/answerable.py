"""The gate of questions that are solved again: by the chunk alone, or, without one, by thought."""

from dataclasses import replace

from pydantic import BaseModel, Field

from astuner.llm import LanguageModel
from astuner.task_generation.draft import DraftCandidate, GateRejection
from astuner.task_generation.gates.answer_comparer import AnswerComparer
from astuner.task_generation.material import NOTICE, shown_chunk, turn_seed
from astuner.task_generation.said_text import SaidText
from astuner.task_judge.asking.fence import fenced

VERSION = 1
"""Changes with any word of the prompt, and with how it is asked."""

TEMPERATURE = 0.7
"""At 0 several answers would be one answer several times."""

_WITH_TEXT = """\
Answer the question from the text alone, and not from what you know otherwise. Where the text does \
not say, is_answered is false: that is as good an answer as any other. {answer_form}

{question}

{text}

{notice}"""

_WITHOUT_TEXT = """\
Answer the question. Where something is missing that its answer needs, is_answered is false: that \
is as good an answer as any other. {answer_form}

{question}

{notice}"""


class SolvedAnswer(BaseModel):
    """What the model says."""

    reasoning: SaidText = Field(description="The way to the answer, or what is missing; short.")
    is_answered: bool
    answer: SaidText = Field(default="", description="The answer alone; empty where there is none.")


class AnswerableGate:
    """A draft stays where enough of `num_solutions` answers, drawn with a seed each, say what the
    draft says. They are asked for one after the other, until it is decided.

    Notes `agreement`, the share of them that do.
    """

    name = "answerable"

    def __init__(
        self,
        model: LanguageModel,
        *,
        num_solutions: int,
        answer_form: str,
        min_agreement: float = 1.0,
        temperature: float = TEMPERATURE,
    ) -> None:
        """`num_solutions` is at least 1; `min_agreement` is the least share of them that agrees;
        `answer_form` is what the drafter was told."""
        self._model = model
        self._comparer = AnswerComparer(model)
        self._num_solutions = num_solutions
        self._answer_form = answer_form
        self._min_agreement = min_agreement
        self._temperature = temperature

    async def check(self, candidate: DraftCandidate) -> DraftCandidate | GateRejection:
        num_agreeing = self._num_solutions
        for index in range(self._num_solutions):
            fault = await self._find_fault(candidate, index)
            if fault is None:
                continue
            num_agreeing -= 1
            if num_agreeing < self._min_agreement * self._num_solutions:
                which = f"answer {index + 1} of {self._num_solutions}"
                return GateRejection(gate=self.name, reason=f"{which} {fault}")
        agreement = num_agreeing / self._num_solutions
        return replace(candidate, notes={**candidate.notes, "agreement": agreement})

    async def _find_fault(self, candidate: DraftCandidate, index: int) -> str | None:
        solved = await self._model.ask(
            self._prompt(candidate),
            schema=SolvedAnswer,
            temperature=self._temperature,
            seed=turn_seed(candidate.turn, "solve", index),
        )
        draft = candidate.draft
        if not (solved.is_answered and solved.answer):
            return f"is that it is unanswerable: {solved.reasoning[:200]}"
        answers = (draft.answer, solved.answer)
        if await self._comparer.is_same(candidate.turn, draft.question, answers):
            return None
        return f"is {solved.answer[:100]!r}, and the draft's {draft.answer[:100]!r}"

    def _prompt(self, candidate: DraftCandidate) -> str:
        question = fenced(candidate.draft.question, "question")
        chunk = candidate.turn.chunk
        if chunk is None:
            return _WITHOUT_TEXT.format(
                question=question, answer_form=self._answer_form, notice=NOTICE
            )
        return _WITH_TEXT.format(
            question=question,
            answer_form=self._answer_form,
            text=shown_chunk(chunk),
            notice=NOTICE,
        )
