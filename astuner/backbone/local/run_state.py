"""Where a run stands between two steps, as JSON, and whether another start may go on from there.

Owns no tensors and no files: the tensors lie beside it in the checkpoint.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from astuner.config.accepted import without_accepted
from astuner.config.schema import Settings
from astuner.config.secret import SHOWN_AS_IS, shown_settings, without_secrets
from astuner.config.source import flatten
from astuner.errors import BackboneError, ConfigError
from astuner.types import Task

_FORMAT = 1

_MUST_AGREE = (
    "model.path",
    "model.dtype",
    "model.lora",
    "data.train_batch_size",
    "rollout.num_repeat",
    "rollout.seed",
    "trainer_common.seed",
    "trainer_common.mini_batch_num",
    "trainer_common.algorithm",
    "trainer_common.optim",
    "trainer_common.use_kl_loss",
)
"""Settings and sections that make another run of it."""

_MAY_DIFFER = (
    "project_name",
    "experiment_name",
    "experiment_dir",
    "debug",
    "rollout.max_failed_fraction",
    "trainer_common.total_epochs",
    "trainer_common.total_training_steps",
    "trainer_common.save_freq",
    "trainer_common.keep_checkpoints",
    "trainer_common.logger",
    "trainer_common.detectors",
)
"""Settings that change nothing of what is learned in a step; all others are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run after `step` steps."""

    step: int
    num_updates: int
    weight_version: int
    task_order: dict[str, int]
    """State of the TaskOrder."""
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
        "digests": _digests(settings, shown_as),
    }


def from_record(record: Mapping[str, Any]) -> RunState:
    """Raises BackboneError for a record of another format."""
    if record.get("format") != _FORMAT:
        raise BackboneError(
            f"its format is {record.get('format')!r}, this version of astuner reads {_FORMAT}; go "
            "on with the version that wrote it, or start a new run with the checkpoint as "
            "model.path"
        )
    return RunState(**record["state"])


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
    # Releases that still had settings without effect wrote them too.
    before = flatten(without_secrets(without_accepted(record["settings"], "astuner")))
    now = flatten(settings.model_dump(mode="json"))
    shown = flatten(shown_settings(settings, shown_as))
    digests = record.get("digests", {})

    def is_same(key: str) -> bool:
        if key in digests:
            return digests[key] == _digest(now.get(key))
        return before.get(key) in (now.get(key), shown.get(key))

    def describe(key: str) -> str:
        if f"astuner.{key}" in shown_as:
            return f"{key}: {shown.get(key)!r} is another value than it was"
        return f"{key}: {before.get(key)!r} → {shown.get(key)!r}"

    differing = [key for key in sorted(before.keys() | now) if not is_same(key)]
    lines = {key: describe(key) for key in differing}
    refused = [lines[key] for key in differing if _is_below(key, _MUST_AGREE)]
    if refused:
        raise ConfigError(
            f"cannot resume: the checkpoint was made with other settings: {'; '.join(refused)}. "
            "Resume with those it was made with, or start a new run without --resume (the "
            "checkpoint can be its model.path)"
        )
    if record["tasks"] != fingerprint(tasks):
        raise ConfigError(
            "cannot resume: the training tasks are not those of the checkpoint; resume with the "
            "same data, or start a new run without --resume"
        )
    return [lines[key] for key in differing if not _is_below(key, _MAY_DIFFER)]


def _digests(settings: Settings, shown_as: Mapping[str, Any]) -> dict[str, str]:
    """Of the settings that must agree and are not shown, so that they can be compared."""
    values = flatten(settings.model_dump(mode="json"))
    return {
        key: _digest(value)
        for key, value in values.items()
        if f"astuner.{key}" in shown_as and _is_below(key, _MUST_AGREE)
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def fingerprint(tasks: Iterable[Task]) -> str:
    """Differs where any task does, or their order."""
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(json.dumps(task.model_dump(mode="json"), sort_keys=True).encode())
    return digest.hexdigest()


def _is_below(key: str, sections: Sequence[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)
