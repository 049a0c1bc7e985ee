"""Imports the workflow and the judge that the settings name, here or on another machine."""

import inspect
from functools import partial
from pathlib import Path
from typing import Any

from astuner.config.schema import Settings
from astuner.errors import ConfigError
from astuner.function_workflow import judge_class_of, workflow_class_of
from astuner.imports import load_class, load_object, make_object
from astuner.task_judge.base_judge import BaseJudge, GroupJudge
from astuner.workflow import Workflow

AnyJudge = BaseJudge | GroupJudge
"""What `task_judge.judge_protocol` may name."""


def load_workflow(
    settings: Settings, search_dirs: tuple[Path, ...], *, where: str
) -> type[Workflow]:
    """Import the workflow class or function.

    Raises ConfigError with what its module does contain, or with `where` it should be set.
    """
    path = settings.rollout.agentscope_workflow
    if path is None:
        raise ConfigError(
            f"{where}: rollout.agentscope_workflow is not set; "
            "name your workflow class, for example my_agent.my_agent->MyWorkflow"
        )
    found = load_object(path, search_dirs=search_dirs)
    if inspect.isfunction(found):
        return workflow_class_of(found, where=repr(path))
    return load_class(path, base=Workflow, search_dirs=search_dirs)


def make_judge(
    settings: Settings,
    config: Any,
    search_dirs: tuple[Path, ...],
    judge_class: type[AnyJudge] | None = None,
) -> AnyJudge | None:
    """Make the configured judge, of either kind; None when none is named.

    `judge_class` stands in for the path of the settings, `config` is what a judge reads. Raises
    ConfigError for a class or function that cannot be imported or made.
    """
    path = settings.task_judge.judge_protocol
    if path is None:
        return None
    made = judge_class or load_judge(path, search_dirs)
    return make_object(path, partial(made, config), search_dirs=search_dirs)


def load_judge(path: str, search_dirs: tuple[Path, ...]) -> type[AnyJudge]:
    """Import the judge's class or function. Raises ConfigError where it is none."""
    found = load_object(path, search_dirs=search_dirs)
    if inspect.isfunction(found):
        return judge_class_of(found, where=repr(path))
    compares = inspect.isclass(found) and issubclass(found, GroupJudge)
    return load_class(path, base=GroupJudge if compares else BaseJudge, search_dirs=search_dirs)
