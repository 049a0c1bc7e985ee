"""What every judge looks like: the classes that `task_judge.judge_protocol` names.

Owns no judging. The rollout code makes the judge, calls it, and checks the number it gives.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence
from typing import Any, ClassVar

from astuner.types import Judgement, WorkflowOutput, WorkflowTask

Judged = tuple[float, bool] | Judgement
"""What is said of one episode: `(raw_reward, is_success)`, or that with a note and parts."""


class BaseJudge(ABC):
    """Gives an episode its reward when the workflow left `WorkflowOutput.reward` at None.

    Many episodes are judged at the same time, by one instance or by one instance each: keep no
    state of an episode on `self`. A judge that waits for something (a model, a service) writes
    `async def compute_reward`, so that the other episodes go on meanwhile.
    """

    rubric: str | None = None
    """By what it judges, where that is words: `astuner judge` tries them as an answer."""
    compares_answers: ClassVar[bool] = False
    """Whether its verdict follows from the task's answer and the `final_answer` alone, and asks
    no model and no environment: then it is asked about answers of generated tasks too."""

    def __init__(self, config: Any) -> None:
        """`config` is the whole resolved configuration: `config.astuner.task_judge…`."""
        self.config = config

    def prepare(self) -> Awaitable[None] | None:  # noqa: B027  # few judges need it
        """Do what takes long the first time, such as opening a client; may be async.

        Called once in each process that judges, before it is asked anything. What it raises ends
        the run.
        """

    @abstractmethod
    def compute_reward(
        self, workflow_task: WorkflowTask, workflow_output: WorkflowOutput
    ) -> Judged | Awaitable[Judged]:
        """Return `(raw_reward, is_success)` or a `Judgement`, or an awaitable of it.

        Raises JudgeError when no verdict is possible: the episode then counts as failed, which
        is not the same as a reward of 0.
        """


class GroupJudge(ABC):
    """Gives the episodes of one task their rewards by comparing them, once all of them have ended.

    Asked about those whose workflow left `WorkflowOutput.reward` at None; what failed is not among
    them, so that there may be fewer than `rollout.num_repeat`, and even one. For tasks of which
    nobody has a reference answer. As with `BaseJudge`, keep no state of a group on `self`.
    """

    rubric: str | None = None
    """By what it judges, where that is words: `astuner judge` tries them as an answer."""

    def __init__(self, config: Any) -> None:
        """`config` is the whole resolved configuration: `config.astuner.task_judge…`."""
        self.config = config

    def prepare(self) -> Awaitable[None] | None:  # noqa: B027  # few judges need it
        """Do what takes long the first time, such as opening a client; may be async.

        Called once in each process that judges, before it is asked anything. What it raises ends
        the run.
        """

    @abstractmethod
    def compute_rewards(
        self, workflow_tasks: Sequence[WorkflowTask], workflow_outputs: Sequence[WorkflowOutput]
    ) -> Sequence[Judged] | Awaitable[Sequence[Judged]]:
        """Return what `BaseJudge` returns for each output, in order, or an awaitable of them.

        The two arguments belong together item by item. Raises JudgeError when no verdict is
        possible: all of these episodes then count as failed.
        """
