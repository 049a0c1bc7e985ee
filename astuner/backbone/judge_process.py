"""A judge in processes of its own, which are killed where it never returns, whatever it computes.

Of several that are asked at once, each has a process, up to a bound; the others wait, and their
deadline with them.
"""

import asyncio
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from astuner.backbone.judge_child import packed, unpacked
from astuner.backbone.user_code import (
    AnyJudge,
    judge_path,
    load_judge,
    make_judge,
    settings_of_own_judges,
)
from astuner.config.schema import Settings
from astuner.errors import ConfigError, JudgeError
from astuner.task_judge.base_judge import BaseJudge, GroupJudge, Judged
from astuner.types import WorkflowOutput, WorkflowTask
from astuner.workers.pool import (
    NUM_WORKERS,
    Computation,
    Unanswerable,
    WorkerFailure,
    WorkerPool,
)

_JUDGING = Computation(
    process="the judge's process",
    file=Path(__file__).with_name("judge_child.py"),
    module="astuner",
    package="astuner",
)


class JudgeProcesses:
    """Asks the judge that a recipe makes, in another process."""

    def __init__(self, recipe: tuple[Any, ...], *, name: str, timeout_seconds: float) -> None:
        """`recipe` is what `make_judge` takes. Raises ConfigError where it cannot be sent."""
        try:
            self._recipe = packed(recipe)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise ConfigError(
                f"task_judge.judge_in_process: the configuration of {name} cannot be sent to a "
                f"process: {error}; set it to false"
            ) from error
        self._name, self._timeout_seconds = name, timeout_seconds
        self._pool = WorkerPool(_JUDGING)
        self._places = asyncio.Semaphore(NUM_WORKERS)

    async def ask(self, method: str, *arguments: Any) -> Any:
        """Raises what the judge raises, and JudgeError where it gives no answer in time."""
        try:
            request = {"recipe": self._recipe, "asked": packed((method, arguments))}
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise JudgeError(
                f"{self._name}: what the workflow returned cannot be sent to the judge's process: "
                f"{error}; return plain values, or set task_judge.judge_in_process=false"
            ) from error
        async with self._places:
            answer = await asyncio.to_thread(self._answer, request)
        if "error" in answer:
            raise unpacked(answer["error"])
        return unpacked(answer["result"])

    def _answer(self, request: dict[str, str]) -> dict[str, Any]:
        try:
            return self._pool.ask(request, timeout_seconds=self._timeout_seconds)
        except Unanswerable as error:
            raise JudgeError(
                f"{self._name} gave no answer: {error} (task_judge.judge_timeout_seconds); its "
                "process was ended"
            ) from error
        except WorkerFailure as error:
            raise JudgeError(f"{self._name}: {error}") from error


def judge_of(
    settings: Settings,
    config: Any,
    search_dirs: tuple[Path, ...],
    judge_class: type[AnyJudge] | None = None,
) -> AnyJudge | None:
    """The configured judge, in processes where the settings ask for that; see `make_judge`."""
    path = judge_path(settings)
    if path is None or not settings.task_judge.judge_in_process:
        return make_judge(settings, config, search_dirs, judge_class)
    kind = judge_class or load_judge(path, search_dirs)
    processes = JudgeProcesses(
        (settings, config, search_dirs),
        name=f"judge {path}",
        timeout_seconds=settings.task_judge.judge_timeout_seconds,
    )
    if issubclass(kind, GroupJudge):
        return ProcessGroupJudge(processes)
    return ProcessJudge(processes)


def own_judges_of(
    settings: Settings, config: Any, search_dirs: tuple[Path, ...]
) -> dict[str, AnyJudge]:
    """The judges of those sources that name one; see `judge_of`."""
    judges = {
        name: judge_of(own, config, search_dirs)
        for name, own in settings_of_own_judges(settings).items()
    }
    return {name: judge for name, judge in judges.items() if judge is not None}


class ProcessJudge(BaseJudge):
    """Judges each attempt by itself, in a process."""

    def __init__(self, processes: JudgeProcesses) -> None:
        super().__init__(None)
        self._processes = processes

    async def compute_reward(
        self, workflow_task: WorkflowTask, workflow_output: WorkflowOutput
    ) -> Judged:
        return await self._processes.ask("compute_reward", workflow_task, workflow_output)


class ProcessGroupJudge(GroupJudge):
    """Compares the attempts at a task, in a process."""

    def __init__(self, processes: JudgeProcesses) -> None:
        super().__init__(None)
        self._processes = processes

    async def compute_rewards(
        self, workflow_tasks: Sequence[WorkflowTask], workflow_outputs: Sequence[WorkflowOutput]
    ) -> Sequence[Judged]:
        return await self._processes.ask("compute_rewards", workflow_tasks, workflow_outputs)
