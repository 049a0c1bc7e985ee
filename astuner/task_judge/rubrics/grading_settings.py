"""What rubric judges read of the settings: by hand, or those of the grader that drafts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from omegaconf import OmegaConf

from astuner.errors import ConfigError
from astuner.llm import LanguageModel, open_language_model
from astuner.task_judge.asking.fields import question_text, reference_text
from astuner.task_judge.final_text import final_text
from astuner.task_judge.math.text import answer_text
from astuner.task_judge.rubrics.rubric import RubricSet
from astuner.task_judge.rubrics.rubric_file import read_rubrics, rubrics_of_items
from astuner.types import WorkflowOutput, WorkflowTask


@dataclass(frozen=True, slots=True, kw_only=True)
class GradingSettings:
    """By what, on what scale and by whom answers are graded, and where these stand."""

    rubrics: RubricSet | None
    """None where there are none, or none yet."""
    model_name: str
    query_field: str
    answer_field: str
    reference_field: str | None
    min_score: float
    max_score: float
    success_threshold: float
    instructions: str | None

    @classmethod
    def read(cls, settings: Any) -> Self:
        """`settings` is all of `astuner:`, as judges get it, or typed.

        Raises ConfigError for rubrics that cannot be read.
        """
        judge = settings.task_judge
        is_drafted = judge.judge_type == "rubrics_auto_grader"
        section = judge.rubrics_auto_grader if is_drafted else judge.rubrics
        return cls(
            rubrics=given_rubrics(judge.rubrics),
            model_name=section.model_name if is_drafted else judge.alien_llm_model,
            query_field=section.query_field,
            answer_field=section.answer_field,
            reference_field=section.reference_field,
            min_score=section.min_score,
            max_score=section.max_score,
            success_threshold=section.success_threshold,
            instructions=(
                _instructions(section.custom_evaluation_prompt, section.language)
                if is_drafted
                else section.instructions
            ),
        )

    def open_model(self, settings: Any) -> LanguageModel:
        return open_language_model(
            settings.llm,
            self.model_name,
            max_new_tokens=settings.task_judge.alien_llm_response_length,
        )

    def question(self, task: WorkflowTask) -> str:
        """What was asked, with what stood before it. Raises JudgeError where it is missing."""
        before = [
            f"{message.get('role')}: {answer_text(message.get('content') or '')}"
            for message in task.task.init_messages
        ]
        return "\n\n".join((*before, question_text(task, self.query_field)))

    def answer(self, task: WorkflowTask, output: WorkflowOutput) -> str:
        """Raises JudgeError where it is missing."""
        return final_text(task, output, self.answer_field)

    def reference(self, task: WorkflowTask) -> str | None:
        """None where the task has none, or it is not to be shown."""
        return reference_text(task, self.reference_field)


def given_rubrics(section: Any) -> RubricSet | None:
    """Those of `task_judge.rubrics`; None where it names none. Raises ConfigError."""
    items = _plain(section.inline)
    if section.file is not None:
        rubrics = read_rubrics(Path(section.file))
    elif items:
        rubrics = rubrics_of_items(items, key="astuner.task_judge.rubrics.inline")
    else:
        return None
    language = section.language or rubrics.language
    return rubrics.model_copy(update={"language": language})


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _instructions(value: Any, language: str) -> str | None:
    """The text, or that of the language."""
    plain = _plain(value)
    found = plain.get(language) if isinstance(plain, dict) else plain
    if plain is None or (isinstance(found, str) and found.strip()):
        return found
    raise ConfigError(
        "astuner.task_judge.rubrics_auto_grader.custom_evaluation_prompt: found "
        f"{plain!r:.80}; expected a text, or a section with a text for the language {language}"
    )
