"""The configuration while one model is evaluated: on the local engine, without training."""

from collections.abc import Mapping
from typing import Any

from astuner.config.load import LoadedConfig
from astuner.evaluating.named_model import NamedModel
from astuner.pins.install import PINS

LOCAL = "local"


def engine_settings(loaded: LoadedConfig) -> dict[str, Any]:
    """What makes the settings of a run ones of this machine's engine.

    Empty where they are ones already. An engine that only clusters have is not asked for.
    """
    backbone, engine = loaded.settings.backbone, loaded.settings.rollout.name
    changed: dict[str, Any] = {} if backbone == LOCAL else {"backbone": LOCAL}
    if backbone in PINS and engine == "sglang":
        changed["rollout.name"] = "auto"
    return changed


def model_settings(model: NamedModel, *, is_own: bool) -> Mapping[str, Any]:
    """What makes it the model that is loaded; `is_own` is the one that the configuration names.

    No adapter is put on it, since that of a checkpoint is merged when it is loaded.
    """
    changed: dict[str, Any] = {"model.path": model.path, "model.lora.rank": None}
    if not is_own:
        changed["model.revision"] = None
    return changed
