"""What every backbone is handed and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from astuner.backbone.grace import Grace
from astuner.backbone.result_page import result_as_html
from astuner.backbone.user_code import AnyJudge
from astuner.config.schema import Settings
from astuner.console import RunConsole
from astuner.evaluation.comparison import ModelComparison, compare
from astuner.evaluation.read import FIRST, LAST, read_evaluated
from astuner.run_dir import RunDir
from astuner.workflow import Workflow


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One start of astuner."""

    settings: Settings
    """The `astuner` section, typed."""
    config: Any
    """The whole resolved configuration with attribute access, as workflows and judges read it."""
    run_dir: RunDir
    home: Path
    """The current directory of the start, whatever user code makes of it later."""
    search_dirs: tuple[Path, ...]
    """Where files that the configuration names are looked for."""
    workflow_class: type[Workflow]
    judge: AnyJudge | None
    """None when every workflow returns its reward."""
    own_workflows: Mapping[str, type[Workflow]] = field(default_factory=dict)
    """By `Task.source`, in place of `workflow_class`."""
    own_judges: Mapping[str, AnyJudge] = field(default_factory=dict)
    """By `Task.source`, in place of `judge`."""
    console: RunConsole
    conf_file: Path | None = None
    """What another command may be given for the same settings; None: what the run wrote of them."""
    overrides: tuple[str, ...] = ()
    """What the command line changed of it, without what is secret."""
    explicit_keys: frozenset[str] = frozenset()
    """Dotted keys, with their section, that the user set."""
    shown_as: Mapping[str, Any] = field(default_factory=dict)
    """What to show for the dotted keys whose values may not be shown."""
    with_ray: bool = False
    """Whether a cluster of this machine may be used, and started where there is none."""
    ray_address: str | None = None
    """Host and port of the cluster to join."""
    grace: Grace | None = None
    """Begins with a signal that asks for the end; None where nobody bounds that."""
    is_resumed: bool = False
    """Whether to go on from the newest checkpoint in `run_dir`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a run ended."""

    run_dir: Path
    checkpoint: Path | None = None
    """The last checkpoint that was saved."""
    best_checkpoint: Path | None = None
    """The one that did best in validation; None where none was validated."""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    """Of the last step and its validation, as in metrics.jsonl; None is not known."""
    exit_code: int = 0
    """Of the command: 0 where the run is done, 128 and the signal's number where one ended it."""

    @property
    def is_interrupted(self) -> bool:
        """Whether the user, or a signal, ended the run in order before it was done."""
        return self.exit_code != 0

    def compare(self, to: str = LAST, *, by: str | None = None) -> ModelComparison:
        """The first validation against another: last, best, or step_20.

        Raises NotFoundError where the records of one are not there.
        """
        return compare(read_evaluated(self.run_dir, FIRST), read_evaluated(self.run_dir, to), by=by)

    def _repr_html_(self) -> str:
        facts = {"run directory": self.run_dir, "checkpoint": self.checkpoint}
        ended = {"ended early, exit code": self.exit_code or None}
        return result_as_html(self.run_dir, facts | ended)


class Backbone(Protocol):
    """Runs the whole job; made by `launch` from the name in the configuration."""

    async def run(self, run: Run) -> RunResult: ...
