"""Workflows and judges written as plain functions, ours and those of AgentScope's own tuner.

Owns how such a function is recognised and what it is called with. Which shape it has, the names of
its parameters say.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from astuner.calling import called
from astuner.errors import ConfigError
from astuner.task_judge.base_judge import BaseJudge
from astuner.tuner import ModelTuner
from astuner.types import Task, WorkflowOutput, WorkflowTask
from astuner.workflow import Workflow

_WORKFLOW_SHAPES = "(workflow_task, model_tuner), or (task, model) as AgentScope's tuner has it"
_JUDGE_SHAPES = "(workflow_task, workflow_output), or (task, response) as AgentScope's tuner has it"


def workflow_class_of(function: Callable[..., Any], *, where: str) -> type[Workflow]:
    """The workflow class that calls a function for each episode, in a thread if it is not async.

    Raises ConfigError, with `where` it was named, for a function of another shape.
    """
    names = _parameters(function, where, _WORKFLOW_SHAPES)
    run = _RUNNERS.get(names)
    if run is None:
        raise ConfigError(_other_shape(function, where, names, _WORKFLOW_SHAPES))

    class FunctionWorkflow(Workflow):
        name: str = function.__name__

        async def execute(
            self, workflow_task: WorkflowTask, model_tuner: ModelTuner
        ) -> WorkflowOutput:
            return await run(function, workflow_task, model_tuner)

    FunctionWorkflow.__module__ = function.__module__
    FunctionWorkflow.__qualname__ = function.__qualname__
    return FunctionWorkflow


def judge_class_of(function: Callable[..., Any], *, where: str) -> type[BaseJudge]:
    """The judge class that asks a function, async or not.

    Raises ConfigError, with `where` it was named, for a function of another shape.
    """
    names = _parameters(function, where, _JUDGE_SHAPES)
    ask = _ASKERS.get(names)
    if ask is None:
        raise ConfigError(_other_shape(function, where, names, _JUDGE_SHAPES))

    class FunctionJudge(BaseJudge):
        async def compute_reward(
            self, workflow_task: WorkflowTask, workflow_output: WorkflowOutput
        ) -> tuple[float, bool]:
            return await ask(function, workflow_task, workflow_output)

    FunctionJudge.__name__ = function.__name__
    return FunctionJudge


async def _run_ours(
    function: Callable[..., Any], workflow_task: WorkflowTask, model_tuner: ModelTuner
) -> Any:
    return await called(function, workflow_task=workflow_task, model_tuner=model_tuner)


async def _run_agentscope(
    function: Callable[..., Any], workflow_task: WorkflowTask, model_tuner: ModelTuner
) -> Any:
    output = await called(function, task=_task_dict(workflow_task.task), model=model_tuner)
    if isinstance(output, WorkflowOutput) or not hasattr(output, "response"):
        return output
    metadata = {"response": output.response, "metrics": dict(output.metrics or {})}
    text = _text_of(output.response)
    if text is not None:
        metadata["final_answer"] = text
    return WorkflowOutput(reward=output.reward, metadata=metadata)


async def _ask_ours(
    function: Callable[..., Any], workflow_task: WorkflowTask, workflow_output: WorkflowOutput
) -> Any:
    return await called(function, workflow_task=workflow_task, workflow_output=workflow_output)


async def _ask_agentscope(
    function: Callable[..., Any], workflow_task: WorkflowTask, workflow_output: WorkflowOutput
) -> Any:
    metadata = workflow_output.metadata
    result = await called(
        function,
        task=_task_dict(workflow_task.task),
        response=metadata.get("response", metadata.get("final_answer")),
    )
    if not hasattr(result, "reward"):
        return result
    metadata["judge_metrics"] = dict(getattr(result, "metrics", None) or {})
    return result.reward, None


_RUNNERS: Mapping[tuple[str, ...], Callable[..., Any]] = {
    ("workflow_task", "model_tuner"): _run_ours,
    ("task", "model"): _run_agentscope,
}
_ASKERS: Mapping[tuple[str, ...], Callable[..., Any]] = {
    ("workflow_task", "workflow_output"): _ask_ours,
    ("task", "response"): _ask_agentscope,
}
"""By the names of the parameters without a default."""


def _parameters(function: Callable[..., Any], where: str, shapes: str) -> tuple[str, ...]:
    """Names of the parameters that have no default."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is inspect.Parameter.POSITIONAL_ONLY for p in parameters):
        raise ConfigError(
            f"{where}: {function.__qualname__} has parameters that cannot be named; "
            f"write it with the parameters {shapes}"
        )
    return tuple(p.name for p in parameters if p.kind in kinds and p.default is p.empty)


def _other_shape(
    function: Callable[..., Any], where: str, names: tuple[str, ...], shapes: str
) -> str:
    return (
        f"{where}: {function.__qualname__} takes ({', '.join(names)}); expected {shapes}; "
        "further parameters need a default"
    )


def _task_dict(task: Task) -> dict[str, Any]:
    """The row of the data set that the task was read from, with the task's own fields."""
    own = {"main_query": task.main_query, "task_id": task.task_id}
    return {**task.metadata, **own}


def _text_of(response: Any) -> str | None:
    """The text of a string or of an AgentScope message; None for anything else."""
    if isinstance(response, str):
        return response
    get_text: Any = getattr(response, "get_text_content", None)
    text = get_text() if callable(get_text) else None
    return text if isinstance(text, str) else None
