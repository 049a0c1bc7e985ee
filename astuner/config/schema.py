"""All of `astuner:`, put together from its sections, and the names of its keys.

Holds no values: those live in `default_config/astuner_default.yaml` and in the user's file. Rules
that relate two settings are in `check.py`; which backbone uses which setting is in `usage.py`.
"""

from collections.abc import Iterator
from typing import Literal, get_args

from pydantic import Field

from astuner.config.section import Section
from astuner.config.sections.context_tracker import ContextTrackerSettings
from astuner.config.sections.data import DataSettings
from astuner.config.sections.debug import DebugSettings
from astuner.config.sections.gateway import GatewaySettings
from astuner.config.sections.model import ModelSettings
from astuner.config.sections.rollout import RolloutSettings
from astuner.config.sections.task_judge import TaskJudgeSettings
from astuner.config.sections.task_reader import TaskReaderSettings
from astuner.config.sections.trainer_common import TrainerSettings

BackboneName = Literal["local", "debug", "verl", "trinity"]
BACKBONE_NAMES: tuple[str, ...] = get_args(BackboneName)


class Settings(Section):
    """All of `astuner:`."""

    project_name: str = Field(description="Name of the project in records and loggers.")
    experiment_name: str = Field(
        description="Folder of the runs; read_yaml_name: the name of the YAML file."
    )
    experiment_dir: str = Field(
        description="Folder that holds the folders of runs; auto: launcher_record."
    )
    backbone: BackboneName = Field(description="What trains; the flag --backbone wins.")
    model: ModelSettings
    data: DataSettings
    rollout: RolloutSettings
    task_reader: TaskReaderSettings
    task_judge: TaskJudgeSettings
    gateway: GatewaySettings
    debug: DebugSettings
    trainer_common: TrainerSettings
    context_tracker: ContextTrackerSettings


def setting_keys() -> tuple[str, ...]:
    """Every setting as "astuner.section.key", sections left out, in the order of this file."""
    return tuple(key for key, section in _walk(Settings, "astuner") if section is None)


def section_keys() -> tuple[str, ...]:
    """Every section as "astuner.section", from the outermost, "astuner" itself first."""
    return ("astuner", *(key for key, section in _walk(Settings, "astuner") if section))


def _walk(section: type[Section], prefix: str) -> Iterator[tuple[str, type[Section] | None]]:
    for name, field in section.model_fields.items():
        key = f"{prefix}.{name}"
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield key, inner
            yield from _walk(inner, key)
        else:
            yield key, None
