"""What somebody asked to be evaluated."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astuner.config.load import LoadedConfig
from astuner.errors import ConfigError
from astuner.task_judge.base_judge import BaseJudge
from astuner.workflow import Workflow

LoadSettings = Callable[[Mapping[str, Any]], LoadedConfig]
"""The configuration, with these dotted settings below `astuner` over it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOrder:
    """Of one call; each None stands for what the configuration says."""

    load: LoadSettings
    models: Sequence[str] = ()
    """As they were named; empty: model.path."""
    split: str | None = None
    num_repeat: int | None = None
    max_tasks: int | None = None
    by: str | None = None
    """Field of the tasks by which the scores are told apart."""
    is_again: bool = False
    """Whether an evaluation that is there is left alone."""
    retries_failed: bool = False
    api_key_env: str = "OPENAI_API_KEY"
    workflow_class: type[Workflow] | None = None
    judge_class: type[BaseJudge] | None = None
    search_dirs: tuple[Path, ...] | None = None

    def __post_init__(self) -> None:
        if self.is_again and self.retries_failed:
            raise ConfigError(
                "evaluate: --again begins anew, so there are no failed episodes to retry; leave "
                "out one of --again and --retry-failed"
            )
