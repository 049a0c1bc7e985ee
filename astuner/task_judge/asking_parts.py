"""Asks the parts of a combined judge, all at once; the first that fails, fails them all."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

from astuner.calling import called
from astuner.errors import JudgeError, boundary
from astuner.task_judge.base_judge import BaseJudge, GroupJudge
from astuner.task_judge.combined_parts import JudgePart, judgement_of, judgements_of
from astuner.types import Judgement, WorkflowOutput, WorkflowTask

K = TypeVar("K")
T = TypeVar("T")


async def prepare_parts(parts: Mapping[str, JudgePart]) -> None:
    """Have each ready for its first question."""
    await all_of({name: _asked(name, part.judge.prepare) for name, part in parts.items()})


async def judged_alone(
    name: str, judge: BaseJudge, task: WorkflowTask, output: WorkflowOutput
) -> Judgement:
    """Raises JudgeError, with the part's name, for whatever it raises and gives."""
    return judgement_of(name, await _asked(name, judge.compute_reward, task, output))


async def judged_together(
    name: str,
    judge: BaseJudge | GroupJudge,
    tasks: Sequence[WorkflowTask],
    outputs: Sequence[WorkflowOutput],
) -> list[Judgement]:
    """The same of a group, which a judge that does not compare is asked about one by one."""
    if isinstance(judge, GroupJudge):
        results = await _asked(name, judge.compute_rewards, tasks, outputs)
        return judgements_of(name, results, len(tasks))
    found = await all_of(
        {
            index: judged_alone(name, judge, task, output)
            for index, (task, output) in enumerate(zip(tasks, outputs, strict=True))
        }
    )
    return list(found.values())


async def all_of(asked: Mapping[K, Awaitable[T]]) -> dict[K, T]:
    """The answers by key, once all are there. Where one fails, the others are cancelled."""
    running = {key: asyncio.ensure_future(one) for key, one in asked.items()}
    try:
        await asyncio.gather(*running.values())
    except BaseException:
        for one in running.values():
            one.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)
        raise
    return {key: one.result() for key, one in running.items()}


async def _asked(name: str, ask: Any, *about: Any) -> Any:
    with boundary(JudgeError, f"part {name} of the combined judge raised"):
        return await called(ask, *about)
