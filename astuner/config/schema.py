"""All of `astuner:`, put together from its sections, and what can be asked of a key.

Holds no values: those live in `default_config/astuner_default.yaml` and in the user's file. Rules
that relate two settings are in `check.py`.
"""

from collections.abc import Iterator
from functools import cache
from typing import Literal, get_args

from pydantic.fields import FieldInfo

from astuner.config.section import Section, UsedBy, read_used_by, setting
from astuner.config.sections.context_tracker import ContextTrackerSettings
from astuner.config.sections.data import DataSettings
from astuner.config.sections.debug import DebugSettings
from astuner.config.sections.evaluation import EvaluationSettings
from astuner.config.sections.gateway import GatewaySettings
from astuner.config.sections.llm import LlmSettings
from astuner.config.sections.log import LogSettings
from astuner.config.sections.metrics import MetricsSettings
from astuner.config.sections.model import ModelSettings
from astuner.config.sections.rollout import RolloutSettings
from astuner.config.sections.sandbox import SandboxSettings
from astuner.config.sections.task_judge import TaskJudgeSettings
from astuner.config.sections.task_reader import TaskReaderSettings
from astuner.config.sections.trainer_common import TrainerSettings

BackboneName = Literal["local", "debug", "verl", "trinity"]
BACKBONE_NAMES: tuple[str, ...] = get_args(BackboneName)


class Settings(Section):
    """All of `astuner:`."""

    project_name: str = setting(UsedBy.ALL, "Name of the project in records and loggers.")
    experiment_name: str = setting(
        UsedBy.ALL, "Folder of the runs; read_yaml_name: the name of the YAML file."
    )
    experiment_dir: str = setting(
        UsedBy.ALL, "Folder that holds the folders of runs; auto: launcher_record."
    )
    backbone: BackboneName = setting(UsedBy.ALL, "What trains; the flag --backbone wins.")
    model: ModelSettings
    data: DataSettings
    rollout: RolloutSettings
    task_reader: TaskReaderSettings
    task_judge: TaskJudgeSettings
    sandbox: SandboxSettings
    gateway: GatewaySettings
    llm: LlmSettings
    log: LogSettings
    metrics: MetricsSettings
    debug: DebugSettings
    trainer_common: TrainerSettings
    context_tracker: ContextTrackerSettings
    evaluation: EvaluationSettings


def setting_keys() -> tuple[str, ...]:
    """Every setting as "astuner.section.key", sections left out, in the order of this file."""
    return tuple(_users())


def section_keys() -> tuple[str, ...]:
    """Every section as "astuner.section", from the outermost, "astuner" itself first."""
    return ("astuner", *(key for key, field in _walk(Settings, "astuner") if _inner(field)))


def used_by(key: str) -> UsedBy:
    """Who uses the setting `key`, or the one that it lies below; nobody where there is none."""
    users = _users()
    while key and key not in users:
        key = key.rpartition(".")[0]
    return users.get(key, UsedBy(0))


@cache
def _users() -> dict[str, UsedBy]:
    return {
        key: read_used_by(field)
        for key, field in _walk(Settings, "astuner")
        if _inner(field) is None
    }


def _walk(section: type[Section], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        key = f"{prefix}.{name}"
        yield key, field
        if inner := _inner(field):
            yield from _walk(inner, key)


def _inner(field: FieldInfo) -> type[Section] | None:
    """The section that the field holds."""
    inner = field.annotation
    return inner if isinstance(inner, type) and issubclass(inner, Section) else None
