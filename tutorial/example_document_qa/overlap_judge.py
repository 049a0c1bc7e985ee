"""The judge: how far the words of an answer are those of the right one."""

import re
from collections import Counter

from astuner.errors import JudgeError
from astuner.task_judge.base_judge import BaseJudge
from astuner.task_judge.final_text import final_text
from astuner.types import Judgement, WorkflowOutput, WorkflowTask

SUCCESS = 0.6
"""From here on an answer counts as right: all of its words and a few more, or nearly all."""
_WORD = re.compile(r"\w+(?:[.]\w+)*")
_ARTICLES = frozenset({"a", "an", "the"})


class OverlapJudge(BaseJudge):
    """The reward is F1 over words, as SQuAD counts it: an answer that says too much gets less.

    Raises JudgeError for a task without an answer.
    """

    compares_answers = True

    async def compute_reward(
        self, workflow_task: WorkflowTask, workflow_output: WorkflowOutput
    ) -> Judgement:
        right = workflow_task.task.metadata.get("answer")
        if not isinstance(right, str | int | float):
            raise JudgeError(
                f"cannot judge task {workflow_task.task.task_id}: metadata['answer'] is "
                f"{right!r:.80}; expected the answer as text"
            )
        overlap = word_overlap(final_text(workflow_task, workflow_output), str(right))
        return Judgement(reward=overlap, is_success=overlap >= SUCCESS)


def word_overlap(said: str, right: str) -> float:
    """F1 over the words of two texts, between 0 and 1.

    Source: Rajpurkar et al., SQuAD, arXiv 1606.05250, section 6.1.
    """
    said_words, right_words = _words(said), _words(right)
    shared = (said_words & right_words).total()
    return 2 * shared / max(1, said_words.total() + right_words.total())


def _words(text: str) -> Counter[str]:
    return Counter(word for word in _WORD.findall(text.casefold()) if word not in _ARTICLES)
