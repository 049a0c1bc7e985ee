"""One attempt at a task, from a fresh workflow to its output or a recorded failure.

Owns the deadline of the attempt and the boundary around the workflow. Nothing that a workflow does
leaves this file as an exception, except cancellation of the whole run. What the attempt is worth is
found in `judging.py`.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from astuner.bridge import bridging
from astuner.calling import called
from astuner.errors import EpisodeError, SurroundingError, WorkflowError, boundary
from astuner.inference.request import Chat
from astuner.inference.shapes.routed import RoutedChat
from astuner.log_json import about
from astuner.rollout.bounded import bounded
from astuner.rollout.surroundings import Stage, Surrounding, surrounded
from astuner.rollout.targets import TargetWatch
from astuner.trajectory.attempt import Attempt, Failure
from astuner.trajectory.merge import merge_calls
from astuner.trajectory.recorder import Recorder
from astuner.trajectory.refusal_log import RefusalLog
from astuner.tuner import ModelTuner, as_chat_model
from astuner.types import Task, WorkflowOutput, WorkflowTask
from astuner.workflow import Workflow

_LEAST_ENDING_SECONDS = 30.0
"""For what is asked about the output; the workflow may have used up the episode's own time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeSettings:
    """What an attempt needs beside its task."""

    make_workflow: Callable[[], Workflow]
    """For all tasks but those of `own_workflows`."""
    make_chat: Callable[[Recorder, WorkflowTask], Chat]
    config: Any
    """The resolved configuration as workflows read it."""
    timeout_seconds: float
    own_workflows: Mapping[str, Callable[[], Workflow]] = field(default_factory=dict)
    """By `Task.source`."""
    surroundings: tuple[Surrounding, ...] = ()
    """Entered in this order; none where workflows need nothing but the model."""
    trainable_targets: tuple[str, ...] | None = None
    """In place of the workflow's own; None leaves these."""
    make_untrained: Callable[[Recorder, WorkflowTask, str], Chat] | None = None
    """The chat over a model that is not trained, by its name; None where a run has none."""
    untrained_model: str | None = None
    """Answers untrained agents that name no model."""
    target_watch: TargetWatch = field(default_factory=TargetWatch)
    refusal_log: RefusalLog = field(default_factory=RefusalLog)
    """Of calls that are refused in this process; the gateway has its own."""


@dataclass(slots=True)
class _Trial:
    """What is known of an attempt while it runs."""

    task: Task
    """As it is recorded: the reader's, with what the surroundings filled in."""
    recorder: Recorder = field(default_factory=Recorder)


async def run_attempt(workflow_task: WorkflowTask, settings: EpisodeSettings) -> Attempt:
    """Run the workflow to its end; failures become data."""
    trial = _Trial(workflow_task.task)
    recorder = trial.recorder
    started = time.monotonic()
    output, failure = None, None
    with about(step=workflow_task.step, episode=workflow_task.episode_id):
        try:
            output = await _run_workflow(workflow_task, settings, trial)
        except EpisodeError as error:
            failure = Failure.of(error)
    return Attempt(
        episode_id=workflow_task.episode_id,
        task=trial.task,
        step=workflow_task.step,
        attempt=workflow_task.attempt,
        is_validation=workflow_task.is_validation,
        calls=tuple(recorder.calls),
        sequences=tuple(merge_calls(recorder.calls)),
        agents=dict(recorder.agents),
        output=output,
        failure=failure if recorder.madness is None else None,
        overflowed=frozenset(recorder.overflowed),
        madness=recorder.madness,
        seconds=time.monotonic() - started,
        refused_calls=dict(recorder.refused),
        num_refused_calls=recorder.num_refused,
        num_empty_replies=recorder.num_empty_replies,
    )


async def _run_workflow(
    workflow_task: WorkflowTask, settings: EpisodeSettings, trial: _Trial
) -> WorkflowOutput:
    with boundary(WorkflowError, "the workflow could not be made"):
        make_workflow = settings.own_workflows.get(
            workflow_task.task.source, settings.make_workflow
        )
        workflow = make_workflow()
    own_task = _own(workflow_task)
    targets = settings.trainable_targets or workflow.trainable_targets
    chat = _routed_chat(workflow_task, settings, trial.recorder, targets)
    stage = Stage(
        workflow_task=own_task,
        chat=chat,
        seconds=settings.timeout_seconds,
        deadline=time.monotonic() + settings.timeout_seconds,
    )
    with contextlib.closing(chat):
        async with surrounded(stage, settings.surroundings) as whole:
            if whole.workflow_task.task is not own_task.task:
                trial.task = whole.workflow_task.task
                whole = replace(whole, workflow_task=_own(whole.workflow_task))
            output = await _execute_in_time(workflow, whole, settings, trial.recorder)
            output = await _ended(workflow, output, whole)
    settings.target_watch.note(targets, trial.recorder.agents)
    return output


def _own(workflow_task: WorkflowTask) -> WorkflowTask:
    """With a row that a workflow may change."""
    with boundary(WorkflowError, f"the task {workflow_task.task_id!r} cannot be copied"):
        return replace(workflow_task, task=workflow_task.task.model_copy(deep=True))


def _routed_chat(
    workflow_task: WorkflowTask,
    settings: EpisodeSettings,
    recorder: Recorder,
    targets: Collection[str] | None,
) -> RoutedChat:
    make = settings.make_untrained
    return RoutedChat(
        settings.make_chat(recorder, workflow_task),
        trainable_targets=targets,
        make_untrained=partial(make, recorder, workflow_task) if make else None,
        untrained_model=settings.untrained_model,
    )


async def _execute_in_time(
    workflow: Workflow, stage: Stage, settings: EpisodeSettings, recorder: Recorder
) -> Any:
    """Afterwards the closed recorder refuses the model calls of whatever still runs: no judge would
    see them. Those under way end, and with them threads that wait for one."""

    def end(reason: str) -> None:
        recorder.end(reason)
        if stage.door is not None:
            stage.door.end_calls()

    tuner = ModelTuner(
        stage.chat, config=settings.config, door=stage.door, refusal_log=settings.refusal_log
    )
    name = f"workflow {workflow.name!r}"
    with boundary(WorkflowError, f"{name} raised"), _bridging_where_asked(stage):
        return await bounded(
            called(workflow.execute, stage.workflow_task, as_chat_model(tuner)),
            seconds=stage.seconds_left,
            error=WorkflowError(
                f"{name} did not finish in {stage.seconds:g} s (rollout.episode_timeout_seconds)"
            ),
            on_end=end,
        )


def _bridging_where_asked(stage: Stage) -> AbstractContextManager[None]:
    """For plain calls of an environment, where there is one."""
    return contextlib.nullcontext() if stage.workflow_task.gym_env is None else bridging()


async def _ended(workflow: Workflow, output: Any, stage: Stage) -> WorkflowOutput:
    """The output, checked, with what the surroundings add to it."""
    with boundary(WorkflowError, f"what workflow {workflow.name!r} returned cannot be read"):
        is_output = isinstance(output, WorkflowOutput)  # asks a proxy, which may fail
    if not is_output:
        raise WorkflowError(
            f"workflow {workflow.name!r} returned {type(output).__name__}; execute must return a "
            "WorkflowOutput"
        )
    seconds = max(stage.seconds_left, _LEAST_ENDING_SECONDS)
    for add in stage.on_output:
        with boundary(SurroundingError, "what surrounds the episode failed at its end"):
            output = await bounded(
                add(output),
                seconds=seconds,
                error=SurroundingError(
                    f"what surrounds the episode did not end it in {seconds:g} s; see whether what "
                    "serves it hangs"
                ),
            )
    return output
