"""The judge for tasks whose answer is a text: equal to an accepted one, after normalisation."""

import asyncio
import re
import string
import unicodedata
from typing import Any

from astuner.config.load import packaged_section
from astuner.config.sections.task_judge import ExactMatchSettings
from astuner.errors import JudgeError
from astuner.task_judge.base_judge import BaseJudge
from astuner.task_judge.bounded_patterns import checked_pattern, last_match
from astuner.task_judge.final_text import final_text
from astuner.types import Judgement, WorkflowOutput, WorkflowTask

_ARTICLES = re.compile(r"\b(?:a|an|the)\b", re.IGNORECASE)
_PUNCTUATION = frozenset(string.punctuation)


class ExactMatchJudge(BaseJudge):
    """1.0 if the reply, or what `pattern` finds in it, is one of the accepted answers, else 0.0.

    What is left out before comparing, `task_judge.exact_match` says; by default what SQuAD leaves
    out. Raises JudgeError for a task without an accepted answer.
    """

    compares_answers = True

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        section = (
            packaged_section("task_judge")["exact_match"]
            if config is None
            else config.astuner.task_judge.exact_match
        )
        self._settings = ExactMatchSettings.model_validate(dict(section))
        if self._settings.pattern is not None:
            checked_pattern(self._settings.pattern, "task_judge.exact_match.pattern")

    async def compute_reward(
        self, workflow_task: WorkflowTask, workflow_output: WorkflowOutput
    ) -> Judgement:
        accepted = self._accepted(workflow_task)
        answer = final_text(workflow_task, workflow_output)
        if self._settings.pattern is not None:
            found = await asyncio.to_thread(last_match, self._settings.pattern, answer)
            if found is None:
                return Judgement(reward=0.0, is_success=False, note="No answer is found in it.")
            answer = found
        is_equal = self._normal(answer) in {self._normal(one) for one in accepted}
        return Judgement(reward=float(is_equal), is_success=is_equal)

    def _accepted(self, task: WorkflowTask) -> list[str]:
        name = self._settings.answer_field
        value = task.task.metadata.get(name)
        listed = value if isinstance(value, list | tuple) else [value]
        if not listed or not all(isinstance(one, str | int | float) for one in listed):
            raise JudgeError(
                f"cannot judge task {task.task_id}: metadata[{name!r}] is {value!r:.80}; expected "
                "the accepted answer or a list of them; set task_judge.exact_match.answer_field"
            )
        return [str(one) for one in listed]

    def _normal(self, text: str) -> str:
        """In the order of SQuAD: case, punctuation, articles, white space. What would leave nothing
        is kept: the answers "A" and "+" are not the same as none."""
        settings = self._settings
        text = unicodedata.normalize("NFC", text)
        if settings.ignore_case:
            text = text.casefold()
        if settings.ignore_punctuation:
            text = _unless_empty("".join(s for s in text if not _is_punctuation(s)), text)
        if settings.ignore_articles:
            text = _unless_empty(_ARTICLES.sub(" ", text), text)
        return " ".join(text.split()) if settings.ignore_whitespace else text


def _unless_empty(shorter: str, text: str) -> str:
    return shorter if shorter.strip() else text


def _is_punctuation(sign: str) -> bool:
    return sign in _PUNCTUATION or unicodedata.category(sign).startswith("P")
