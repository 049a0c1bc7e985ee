"""The drafter that asks a language model."""

import re
from collections.abc import Mapping

from astuner.errors import LlmAnswerError
from astuner.llm import LanguageModel
from astuner.task_generation.draft import (
    DIFFICULTIES,
    Difficulty,
    DraftTurn,
    GateRejection,
    TaskDraft,
)
from astuner.task_generation.drafting.form import DraftFromExamples, DraftFromText
from astuner.task_generation.drafting.prompt import draft_prompt
from astuner.task_generation.drafting.script import (
    is_in_script,
    script_of_language,
    script_of_text,
)
from astuner.task_generation.drafting.styles import STYLES
from astuner.task_generation.material import turn_seed

FORM = "form"
"""Gate of what cannot be read as a draft."""
LANGUAGE = "language"
"""Gate of what is in another language than asked for."""

_REFUSAL = re.compile(
    r"I(?:['\u2019]m| am) sorry\b|Sorry,|As an AI\b|(?:很)?抱歉|对不起|我无法|我不能"
    r"|I (?:can(?:['\u2019]t|not| not)|won['\u2019]t|am (?:unable|not able) to) "
    r"(?:help|assist|answer|provide|create|generate|write|comply|fulfil|do (?:that|this))",
    re.IGNORECASE,
)
"""`I cannot connect, what do I do?` is a question."""
_LEVELS: Mapping[str, Difficulty] = {level: level for level in DIFFICULTIES}


class ModelDrafter:
    """One question to the model a turn, with a seed of that turn: an equal turn is asked once.

    A model that refuses, that answers in another script than asked for, or twice in no form that
    can be read, is a rejection.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        temperature: float,
        answer_form: str,
        answer_field: str = "answer",
    ) -> None:
        """`answer_form` is a sentence about answers, as in `ANSWER_FORMS`; `answer_field` has that
        of an example, in its metadata."""
        self._model = model
        self._temperature = temperature
        self._answer_form = answer_form
        self._answer_field = answer_field

    async def draft(self, turn: DraftTurn) -> TaskDraft | GateRejection:
        schema = DraftFromExamples if turn.chunk is None else DraftFromText
        prompt = draft_prompt(turn, answer_form=self._answer_form, answer_field=self._answer_field)
        try:
            written = await self._model.ask(
                prompt,
                schema=schema,
                temperature=self._temperature,
                seed=turn_seed(turn, "draft"),
            )
        except LlmAnswerError as error:
            return GateRejection(gate=FORM, reason=str(error))
        return _find_fault(written, turn) or _draft_of(written, turn)


def _draft_of(written: DraftFromText | DraftFromExamples, turn: DraftTurn) -> TaskDraft:
    return TaskDraft(
        question=written.question,
        answer=written.answer,
        evidence=written.evidence if isinstance(written, DraftFromText) else "",
        style=written.kind if written.kind in STYLES else turn.style.name,
        difficulty=_LEVELS.get(written.difficulty.lower(), turn.difficulty),
    )


def _find_fault(
    written: DraftFromText | DraftFromExamples, turn: DraftTurn
) -> GateRejection | None:
    if not written.question:
        reason = "the model found nothing to ask about"
        return GateRejection(gate=FORM, reason=reason)
    for said in (written.question, written.answer):
        if _REFUSAL.match(said):
            return GateRejection(gate=FORM, reason=f"the model refused: {said[:100]!r}")
    script, wanted = _wanted_script(turn)
    if script is None or is_in_script(written.question, script):
        return None
    reason = f"the question is not in {wanted}: {written.question[:100]!r}"
    return GateRejection(gate=LANGUAGE, reason=reason)


def _wanted_script(turn: DraftTurn) -> tuple[str | None, str]:
    """The script, and what asks for it."""
    if turn.language is not None:
        return script_of_language(turn.language), turn.language
    if turn.chunk is not None:
        return script_of_text(turn.chunk.text), "the script of its text"
    written = "\n".join(task.main_query for task in turn.examples)
    return script_of_text(written), "the script of its examples"
