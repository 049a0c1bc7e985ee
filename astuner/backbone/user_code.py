"""Imports the workflow and the judge that the settings name, here or on another machine."""

import inspect
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pydantic import ValidationError

from astuner.config.resolved import overlaid
from astuner.config.schema import Settings
from astuner.config.sections.task_judge import TaskJudgeSettings
from astuner.errors import ConfigError
from astuner.function_workflow import judge_class_of, workflow_class_of
from astuner.imports import load_class, load_object, make_object
from astuner.task_judge.base_judge import BaseJudge, GroupJudge
from astuner.task_judge.combined_group_judge import CombinedGroupJudge
from astuner.task_judge.combined_judge import CombinedJudge
from astuner.task_judge.combined_parts import CombinedPartSettings, JudgePart, read_parts
from astuner.task_reader.sources import task_sources
from astuner.workflow import Workflow

AnyJudge = BaseJudge | GroupJudge
"""What `task_judge.judge_protocol` may name."""
_GRADERS = {
    "pointwise": "astuner.task_judge.rubrics_judge->RubricsJudge",
    "listwise": "astuner.task_judge.ranking_judge->RankingJudge",
}


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
    return _workflow_at(path, search_dirs)


def load_own_workflows(
    settings: Settings, search_dirs: tuple[Path, ...]
) -> dict[str, type[Workflow]]:
    """Import the workflows of those sources that name one. Raises as `load_workflow`."""
    return {
        name: _workflow_at(source.workflow, search_dirs)
        for name, source in task_sources(settings.task_reader).items()
        if source.workflow is not None
    }


def settings_of_own_judges(settings: Settings) -> dict[str, Settings]:
    """For those sources that name a judge, settings whose judge that is."""
    return {
        name: settings.model_copy(
            update={
                "task_judge": settings.task_judge.model_copy(
                    update={"judge_type": "customized_protocol", "judge_protocol": source.judge}
                )
            }
        )
        for name, source in task_sources(settings.task_reader).items()
        if source.judge is not None
    }


def judge_path(settings: Settings) -> str | None:
    """Where the judge is imported from; None where workflows give every reward."""
    judge = settings.task_judge
    if judge.judge_type == "rubrics_auto_grader":
        return _GRADERS[judge.rubrics_auto_grader.grader_mode]
    return judge.judge_protocol


def _workflow_at(path: str, search_dirs: tuple[Path, ...]) -> type[Workflow]:
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
    path = judge_path(settings)
    if path is None:
        return None
    made = judge_class or load_judge(path, search_dirs)
    if issubclass(made, CombinedJudge | CombinedGroupJudge):
        parts = _make_parts(settings, config, search_dirs)
        return make_object(path, partial(made, config, parts=parts), search_dirs=search_dirs)
    return make_object(path, partial(made, config), search_dirs=search_dirs)


def _make_parts(
    settings: Settings, config: Any, search_dirs: tuple[Path, ...]
) -> dict[str, JudgePart]:
    return {
        name: JudgePart(
            judge=_make_part(name, part, settings, config, search_dirs),
            weight=part.weight,
            is_gate=part.gate,
            least=part.least,
        )
        for name, part in read_parts(settings.task_judge.combined.parts).items()
    }


def _make_part(
    name: str,
    part: CombinedPartSettings,
    settings: Settings,
    config: Any,
    search_dirs: tuple[Path, ...],
) -> AnyJudge:
    """With the settings of task_judge as they are for this part."""
    where = f"task_judge.combined.parts.{name}"
    kind = load_judge(part.judge_protocol, search_dirs)
    if issubclass(kind, CombinedJudge | CombinedGroupJudge):
        raise ConfigError(f"{where}: a combined judge cannot be a part; name its parts here")
    overlay = {**part.settings, "judge_protocol": part.judge_protocol}
    own_config = overlaid(config, {"astuner": {"task_judge": overlay}}, where=f"{where}.settings")
    plain = OmegaConf.to_container(own_config.astuner.task_judge, resolve=True)
    try:
        section = TaskJudgeSettings.model_validate(plain)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{where}.settings.{key}: {first['msg']}") from error
    own_settings = settings.model_copy(update={"task_judge": section})
    made = make_judge(own_settings, own_config, search_dirs, kind)
    assert made is not None
    return made


def load_judge(path: str, search_dirs: tuple[Path, ...]) -> type[AnyJudge]:
    """Import the judge's class or function. Raises ConfigError where it is none."""
    found = load_object(path, search_dirs=search_dirs)
    if inspect.isfunction(found):
        return judge_class_of(found, where=repr(path))
    compares = inspect.isclass(found) and issubclass(found, GroupJudge)
    return load_class(path, base=GroupJudge if compares else BaseJudge, search_dirs=search_dirs)
