"""One attempt at a task, from a fresh workflow to its output or a recorded failure.

Owns the deadline of the attempt and the boundary around the workflow. Nothing that a workflow does
leaves this file as an exception, except cancellation of the whole run. What the attempt is worth is
found in `judging.py`.
"""

import contextlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from astuner.calling import called
from astuner.errors import EpisodeError, WorkflowError, boundary
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
from astuner.types import WorkflowOutput, WorkflowTask
from astuner.workflow import Workflow


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeSettings:
    """What an attempt needs beside its task."""

    make_workflow: Callable[[], Workflow]
    make_chat: Callable[[Recorder, WorkflowTask], Chat]
    config: Any
    """The resolved configuration as workflows read it."""
    timeout_seconds: float
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


async def run_attempt(workflow_task: WorkflowTask, settings: EpisodeSettings) -> Attempt:
    """Run the workflow to its end; failures become data."""
    recorder = Recorder()
    started = time.monotonic()
    output, failure = None, None
    with about(step=workflow_task.step, episode=workflow_task.episode_id):
        try:
            output = await _run_workflow(workflow_task, settings, recorder)
        except EpisodeError as error:
            failure = Failure.of(error)
    return Attempt(
        episode_id=workflow_task.episode_id,
        task=workflow_task.task,
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
    workflow_task: WorkflowTask, settings: EpisodeSettings, recorder: Recorder
) -> WorkflowOutput:
    with boundary(WorkflowError, "the workflow could not be made"):
        workflow = settings.make_workflow()
        own_task = workflow_task.task.model_copy(deep=True)  # a workflow may change its row
    targets = settings.trainable_targets or workflow.trainable_targets
    chat = _routed_chat(workflow_task, settings, recorder, targets)
    stage = Stage(
        workflow_task=replace(workflow_task, task=own_task),
        chat=chat,
        seconds=settings.timeout_seconds,
        deadline=time.monotonic() + settings.timeout_seconds,
    )
    with contextlib.closing(chat):
        async with surrounded(stage, settings.surroundings) as whole:
            output = await _execute_in_time(workflow, whole, settings, recorder)
    with boundary(WorkflowError, f"what workflow {workflow.name!r} returned cannot be read"):
        is_output = isinstance(output, WorkflowOutput)  # asks a proxy, which may fail
    if not is_output:
        raise WorkflowError(
            f"workflow {workflow.name!r} returned {type(output).__name__}; execute must return a "
            "WorkflowOutput"
        )
    settings.target_watch.note(targets, recorder.agents)
    return output


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
    see them."""
    tuner = ModelTuner(
        stage.chat, config=settings.config, door=stage.door, refusal_log=settings.refusal_log
    )
    name = f"workflow {workflow.name!r}"
    with boundary(WorkflowError, f"{name} raised"):
        return await bounded(
            called(workflow.execute, stage.workflow_task, as_chat_model(tuner)),
            seconds=stage.seconds_left,
            error=WorkflowError(
                f"{name} did not finish in {stage.seconds:g} s (rollout.episode_timeout_seconds)"
            ),
            on_end=recorder.end,
        )
