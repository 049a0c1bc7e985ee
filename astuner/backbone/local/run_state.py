"""Where a run stands between two steps, as JSON, and whether another start may go on from there.

Owns no tensors and no files: the tensors lie beside it in the checkpoint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from astuner.config.same_run import compare_settings, hidden_digests
from astuner.config.schema import Settings
from astuner.config.secret import SHOWN_AS_IS, shown_settings
from astuner.errors import BackboneError, ConfigError
from astuner.task_reader.same_tasks import fingerprint
from astuner.types import Task

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run after `step` steps."""

    step: int
    num_updates: int
    weight_version: int
    task_order: dict[str, Any]
    """State of the order of the tasks."""
    metrics: dict[str, float | None]
    """Of that step, as in metrics.jsonl."""
    is_logged: bool
    """Whether they are written, and the validation of that step is done if one is due."""
    validations: list[dict[str, Any]]
    """All of the run so far, as mappings."""
    health: dict[str, Any]
    """What the detectors remember."""
    best: dict[str, float] | None = None
    """Step and success rate of the best checkpoint that was validated."""


def to_record(
    state: RunState,
    settings: Settings,
    tasks: Sequence[Task],
    shown_as: Mapping[str, Any] = SHOWN_AS_IS,
) -> dict[str, Any]:
    """What a checkpoint holds of the run, without secrets and values of the environment."""
    shown = shown_settings(settings, shown_as)
    return {
        "format": _FORMAT,
        "step": state.step,
        "base_model": shown["model"]["path"],
        "tasks": fingerprint(tasks),
        "state": asdict(state),
        "settings": shown,
        "digests": hidden_digests(settings, shown_as),
    }


def from_record(record: Mapping[str, Any]) -> RunState:
    """Raises BackboneError for a record of another format, or without what it should hold."""
    if record.get("format") != _FORMAT:
        raise BackboneError(
            f"its format is {record.get('format')!r}, this version of astuner reads {_FORMAT}; go "
            "on with the version that wrote it, or start a new run with the checkpoint as "
            "model.path"
        )
    try:
        return RunState(**record["state"])
    except (KeyError, TypeError) as error:
        raise BackboneError(f"what it says of the run is not complete: {error}") from error


def check_can_go_on(
    record: Mapping[str, Any],
    settings: Settings,
    tasks: Sequence[Task],
    shown_as: Mapping[str, Any] = SHOWN_AS_IS,
) -> list[str]:
    """Compare the settings and tasks of a checkpoint with those of this start.

    Secrets may differ: a checkpoint holds none. Returns a line for each difference that may matter.
    Raises ConfigError for those that make it another run.
    """
    changes = compare_settings(
        record["settings"], settings, shown_as=shown_as, digests=record.get("digests", {})
    )
    if changes.refused:
        raise ConfigError(
            "cannot resume: the checkpoint was made with other settings: "
            f"{'; '.join(changes.refused)}. "
            "Resume with those it was made with, or start a new run without --resume (the "
            "checkpoint can be its model.path)"
        )
    if record["tasks"] != fingerprint(tasks):
        raise ConfigError(
            "cannot resume: the training tasks are not those of the checkpoint; resume with the "
            "same data, or start a new run without --resume"
        )
    return list(changes.told)
