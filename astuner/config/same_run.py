"""Which settings make another run of it, so that a start may not go on where an earlier one stood.

Compares the settings of two starts. Knows no checkpoints and no run directories.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from astuner.config.accepted import without_accepted
from astuner.config.load import packaged_values
from astuner.config.paths import make_absolute
from astuner.config.schema import Settings
from astuner.config.secret import SHOWN_AS_IS, shown_settings, without_secrets
from astuner.config.source import flatten

_MUST_AGREE = (
    "backbone",
    "model.path",
    "model.revision",
    "model.dtype",
    "model.lora",
    "data.train_batch_size",
    "rollout.num_repeat",
    "rollout.seed",
    "rollout.gamma",
    "trainer_common.seed",
    "trainer_common.mini_batch_num",
    "trainer_common.warm_start",
    "trainer_common.algorithm",
    "trainer_common.optim",
    "trainer_common.use_kl_loss",
    "trainer_common.reference",
)
"""Settings and sections that make another run of it."""

_OF_MODELS = ("model.path", "trainer_common.reference")
"""Of these, those that may be folders."""

_BEFORE_IT_WAS_THERE = {"trainer_common.reference": "start"}
"""What a release did that did not have the setting, where that is not its default."""

_MAY_DIFFER = (
    "project_name",
    "experiment_name",
    "experiment_dir",
    "log",
    "metrics",
    "debug",
    "evaluation",
    "rollout.max_failed_fraction",
    "trainer_common.total_epochs",
    "trainer_common.total_training_steps",
    "trainer_common.save_freq",
    "trainer_common.keep_checkpoints",
    "trainer_common.save_optimizer",
    "trainer_common.max_records_mb",
    "trainer_common.record_training",
    "trainer_common.checkpoint_base_dir",
    "trainer_common.grace_seconds",
    "trainer_common.logger",
    "trainer_common.detectors",
)
"""Settings that change nothing of what is learned in a step; all others are told."""


_EMBEDDED_ADDRESS = re.compile("http://embedded:[^@]*@")


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingChanges:
    """What differs between two starts, a line for each setting: "key: before → now"."""

    refused: tuple[str, ...]
    """Those that make it another run."""
    told: tuple[str, ...]
    """Those that may matter."""


def compare_settings(
    before: Mapping[str, Any],
    now: Settings,
    *,
    shown_as: Mapping[str, Any] = SHOWN_AS_IS,
    digests: Mapping[str, str] = MappingProxyType({}),
) -> SettingChanges:
    """Compare the `astuner` section that an earlier start wrote with the settings of this one.

    Secrets may differ: what is written holds none. `shown_as` says how this start writes what it
    does not show, `digests` what `hidden_digests` gave at the earlier one.
    """
    # Releases that still had settings without effect wrote them too, and paths as they were given.
    earlier = without_secrets(without_accepted(before, "astuner"))
    make_absolute(earlier)
    old, new = flatten(earlier), flatten(now.model_dump(mode="json"))
    shown = flatten(shown_settings(now, shown_as))
    without = packaged_values() | _BEFORE_IT_WAS_THERE

    def is_same(key: str) -> bool:
        if key in digests:
            return digests[key] == _digest(new.get(key))
        was = _embedded(old.get(key, without.get(key)))
        return was in (_embedded(new.get(key)), _embedded(shown.get(key)))

    def describe(key: str) -> str:
        if f"astuner.{key}" in shown_as:
            return f"{key}: {shown.get(key)!r} is another value than it was"
        return f"{key}: {old.get(key)!r} → {shown.get(key)!r}"

    differing = [key for key in sorted(old.keys() | new) if not is_same(key)]
    lines = {key: describe(key) for key in differing}
    refused = [
        key
        for key in differing
        if _is_below(key, _MUST_AGREE)
        and not (key in _OF_MODELS and _has_moved(old.get(key), new.get(key)))
    ]
    return SettingChanges(
        refused=tuple(lines[key] for key in refused),
        told=tuple(
            lines[key]
            for key in differing
            if key not in refused and not _is_below(key, _MAY_DIFFER)
        ),
    )


def hidden_digests(settings: Settings, shown_as: Mapping[str, Any]) -> dict[str, str]:
    """Of the settings that must agree and are not shown, so that they can be compared."""
    values = flatten(settings.model_dump(mode="json"))
    return {
        key: _digest(value)
        for key, value in values.items()
        if f"astuner.{key}" in shown_as and _is_below(key, _MUST_AGREE)
    }


def read_saved_settings(config_file: Path) -> dict[str, Any] | None:
    """The `astuner` section of a config.yaml that a run wrote; None where it cannot be read."""
    try:
        config = OmegaConf.to_container(OmegaConf.load(config_file))
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException):
        return None
    section = config.get("astuner") if isinstance(config, dict) else None
    return section if isinstance(section, dict) else None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _embedded(value: Any) -> Any:
    """An environment server beside the run has another address each time."""
    is_address = isinstance(value, str) and _EMBEDDED_ADDRESS.match(value)
    return "embedded" if is_address else value


def _has_moved(old: Any, new: Any) -> bool:
    """Whether the folder of a model may be the one that lay elsewhere: a project was moved."""
    if not (isinstance(old, str) and isinstance(new, str)):
        return False
    before, now = Path(old), Path(new)
    return before.is_absolute() and not before.exists() and now.name == before.name


def _is_below(key: str, sections: Sequence[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)
