"""One attempt at a task, from a fresh workflow to a verdict or a recorded failure.

Owns the episode's deadline and the boundary around user code. Nothing that a workflow or a judge
does leaves this file as an exception, except cancellation of the whole run.
"""

import asyncio
import contextlib
import inspect
import time
import traceback
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from astuner.errors import EpisodeError, JudgeError, WorkflowError, boundary
from astuner.gateway.door import Door
from astuner.gateway.gateway import Gateway
from astuner.inference.request import Chat
from astuner.inference.shapes.routed import RoutedChat
from astuner.rollout.targets import TargetWatch
from astuner.rollout.verdict import make_verdict
from astuner.trajectory.episode import Episode, Failure
from astuner.trajectory.merge import merge_calls
from astuner.trajectory.recorder import Recorder
from astuner.tuner import ModelTuner, as_chat_model
from astuner.types import Verdict, WorkflowOutput, WorkflowTask
from astuner.workflow import Workflow

_CANCEL_GRACE_SECONDS = 5.0


class Judge(Protocol):
    """What `task_judge.judge_protocol` names."""

    def compute_reward(self, workflow_task: WorkflowTask, workflow_output: WorkflowOutput) -> Any:
        """Return `(reward, is_success)`, or an awaitable of it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeSettings:
    """What an episode needs beside its task."""

    make_workflow: Callable[[], Workflow]
    make_chat: Callable[[Recorder, WorkflowTask], Chat]
    judge: Judge | None
    """None when every workflow returns its reward."""
    config: Any
    """The resolved configuration as workflows read it."""
    timeout_seconds: float
    judge_timeout_seconds: float
    madness_reward: float
    trainable_targets: tuple[str, ...] | None = None
    """In place of the workflow's own; None leaves these."""
    make_untrained: Callable[[Recorder, WorkflowTask, str], Chat] | None = None
    """The chat over a model that is not trained, by its name; None where a run has none."""
    untrained_model: str | None = None
    """Answers untrained agents that name no model."""
    target_watch: TargetWatch = field(default_factory=TargetWatch)
    gateway: Gateway | None = None
    """None where workflows have no need for an address of the model."""


async def run_episode(workflow_task: WorkflowTask, settings: EpisodeSettings) -> Episode:
    """Run one attempt to its end; failures become data."""
    recorder = Recorder()
    started = time.monotonic()
    output, verdict, failure = WorkflowOutput(), None, None
    try:
        output = await _run_workflow(workflow_task, settings, recorder)
        if recorder.madness is None:
            verdict = await _judge(workflow_task, output, settings, recorder)
    except EpisodeError as error:
        if recorder.madness is None:
            failure = Failure(
                kind=type(error).__name__,
                message=str(error),
                traceback="".join(traceback.format_exception(error)),
            )
    if recorder.madness is not None:
        verdict = Verdict(reward=settings.madness_reward, is_success=False, source="madness")
    return Episode(
        episode_id=workflow_task.episode_id,
        task=workflow_task.task,
        step=workflow_task.step,
        attempt=workflow_task.attempt,
        is_validation=workflow_task.is_validation,
        calls=tuple(recorder.calls),
        sequences=tuple(merge_calls(recorder.calls)),
        verdict=verdict,
        failure=failure,
        metadata=output.metadata,
        overflowed=frozenset(recorder.overflowed),
        madness=recorder.madness,
        seconds=time.monotonic() - started,
    )


async def _run_workflow(
    workflow_task: WorkflowTask, settings: EpisodeSettings, recorder: Recorder
) -> WorkflowOutput:
    with boundary(WorkflowError, "the workflow could not be made"):
        workflow = settings.make_workflow()
    name = f"workflow {workflow.name!r}"
    targets = settings.trainable_targets or workflow.trainable_targets
    make = settings.make_untrained
    chat = RoutedChat(
        settings.make_chat(recorder, workflow_task),
        trainable_targets=targets,
        make_untrained=partial(make, recorder, workflow_task) if make else None,
        untrained_model=settings.untrained_model,
    )
    async with _door(workflow_task, settings, chat) as door:
        tuner = ModelTuner(chat, config=settings.config, door=door)
        with boundary(WorkflowError, f"{name} raised"):
            output = await _bounded(
                _execute(workflow, workflow_task, as_chat_model(tuner)),
                seconds=settings.timeout_seconds,
                error=WorkflowError(
                    f"{name} did not finish in {settings.timeout_seconds:g} s "
                    "(rollout.episode_timeout_seconds)"
                ),
                recorder=recorder,
            )
    if not isinstance(output, WorkflowOutput):
        raise WorkflowError(
            f"{name} returned {type(output).__name__}; execute must return a WorkflowOutput"
        )
    settings.target_watch.note(targets, recorder.agents)
    return output


@contextlib.asynccontextmanager
async def _door(
    workflow_task: WorkflowTask, settings: EpisodeSettings, chat: RoutedChat
) -> AsyncIterator[Door | None]:
    """The episode's door in the gateway; with it end its keys and whatever is under way."""
    with contextlib.closing(chat):
        if settings.gateway is None:
            yield None
            return
        door = settings.gateway.open(
            chat, seconds=settings.timeout_seconds, is_validation=workflow_task.is_validation
        )
        try:
            yield door
        finally:
            await door.close()


async def _execute(workflow: Workflow, task: WorkflowTask, tuner: ModelTuner) -> Any:
    """Run user code, which may not end the process."""
    work = workflow.execute(task, tuner)
    if not inspect.isawaitable(work):
        raise WorkflowError(
            f"{type(workflow).__name__}.execute returned {type(work).__name__}; "
            "write `async def execute`"
        )
    try:
        return await work
    except SystemExit as error:
        raise WorkflowError(f"called sys.exit({error.code!r}); raise an error instead") from error


async def _bounded(
    work: Any, *, seconds: float, error: EpisodeError, recorder: Recorder | None = None
) -> Any:
    """Await `work` for at most `seconds`, then cancel it and raise `error`.

    Agent frameworks may swallow a cancellation, so the wait for it is bounded too. In the end the
    closed recorder refuses the model calls of whatever still runs: no judge would see them.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if done:
            return _result(task)
        if recorder is not None:
            recorder.ended = recorder.ended or "its time is over"
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_GRACE_SECONDS)
        raise error
    finally:
        task.cancel()
        if recorder is not None:
            recorder.ended = recorder.ended or "finished"


def _result(task: asyncio.Future[Any]) -> Any:
    try:
        return task.result()
    except asyncio.CancelledError as error:
        raise EpisodeError("user code raised asyncio.CancelledError; catch it there") from error


async def _judge(
    workflow_task: WorkflowTask,
    output: WorkflowOutput,
    settings: EpisodeSettings,
    recorder: Recorder,
) -> Verdict:
    if output.reward is not None:
        return make_verdict(
            output.reward,
            output.is_success,
            recorder,
            source="workflow",
            refuse=lambda found: WorkflowError(f"the workflow's reward {found}"),
        )
    if settings.judge is None:
        raise JudgeError(
            "the workflow returned no reward and no judge is configured: return "
            "WorkflowOutput(reward=...), or set task_judge.judge_protocol"
        )
    name = f"judge {type(settings.judge).__name__}"
    with boundary(JudgeError, f"{name} raised"):
        result = await _bounded(
            _ask(settings.judge, workflow_task, output),
            seconds=settings.judge_timeout_seconds,
            error=JudgeError(
                f"{name} did not answer in {settings.judge_timeout_seconds:g} s "
                "(task_judge.judge_timeout_seconds)"
            ),
        )
    if not (isinstance(result, tuple) and len(result) == 2):
        raise JudgeError(f"{name} returned {result!r}; expected (reward, is_success)")
    return make_verdict(
        result[0],
        bool(result[1]),
        recorder,
        source="judge",
        refuse=lambda found: JudgeError(f"{name}: the reward {found}"),
    )


async def _ask(judge: Judge, workflow_task: WorkflowTask, output: WorkflowOutput) -> Any:
    """Ask a judge, sync or async; a sync one runs in a thread and cannot stall the rest."""
    if inspect.iscoroutinefunction(judge.compute_reward):
        return await judge.compute_reward(workflow_task, output)
    result = await asyncio.to_thread(judge.compute_reward, workflow_task, output)
    return await result if inspect.isawaitable(result) else result
