"""What the judge of a run says of an answer that no workflow gave, such as a generated one."""

import inspect
from pathlib import Path
from typing import Any

from astuner.backbone.user_code import AnyJudge, judge_path, load_judge, make_judge
from astuner.config.schema import Settings
from astuner.task_generation.answer_forms import AnswerKind
from astuner.task_judge.base_judge import BaseJudge
from astuner.task_judge.llm_as_judge import LlmAsJudge
from astuner.task_judge.math_answer_and_llm_as_judge import MathAnswerAndLlmAsJudge
from astuner.task_judge.math_answer_as_judge import MathAnswerAsJudge
from astuner.task_judge.ranking_judge import RankingJudge
from astuner.task_judge.rubrics_judge import RubricsJudge
from astuner.types import Judgement, Task, WorkflowOutput, WorkflowTask

_READS_TEXT = (LlmAsJudge, RubricsJudge, RankingJudge)
_READS_NUMBERS = (MathAnswerAsJudge, MathAnswerAndLlmAsJudge)


class JudgedAnswers:
    """Asks a judge that compares answers."""

    def __init__(self, judge: BaseJudge) -> None:
        self._judge = judge

    async def is_right(self, task: Task, answer: str) -> bool:
        """Raises JudgeError for a task that it cannot judge by."""
        asked = WorkflowTask(
            task=task, episode_id=task.task_id, step=0, attempt=0, is_validation=False
        )
        output = WorkflowOutput(metadata={"final_answer": answer})
        judged = self._judge.compute_reward(asked, output)
        verdict = await judged if inspect.isawaitable(judged) else judged
        return verdict.is_success if isinstance(verdict, Judgement) else verdict[1]


def judge_of_answers(
    settings: Settings,
    config: Any,
    search_dirs: tuple[Path, ...],
    judge_class: type[AnyJudge] | None = None,
) -> JudgedAnswers | None:
    """None where the configured judge does not compare answers. Raises as `make_judge`."""
    kind = _judge_class(settings, search_dirs, judge_class)
    if kind is None or not issubclass(kind, BaseJudge) or not kind.compares_answers:
        return None
    judge = make_judge(settings, config, search_dirs, judge_class)
    assert isinstance(judge, BaseJudge)
    return JudgedAnswers(judge)


def answer_kind(
    settings: Settings,
    search_dirs: tuple[Path, ...],
    judge_class: type[AnyJudge] | None = None,
) -> AnswerKind:
    """What answers the configured judge can judge by; a few words where that is not known."""
    kind = _judge_class(settings, search_dirs, judge_class)
    if kind is not None and issubclass(kind, _READS_TEXT):
        return "free_text"
    return "number" if kind is not None and issubclass(kind, _READS_NUMBERS) else "short_text"


def _judge_class(
    settings: Settings, search_dirs: tuple[Path, ...], judge_class: type[AnyJudge] | None
) -> type[AnyJudge] | None:
    path = judge_path(settings)
    return judge_class or (None if path is None else load_judge(path, search_dirs))
