"""Several LoRA adapters on one frozen base, of which one at a time computes, or none.

Owns that each of them fits the base, and which is switched on. They stay what they are: nothing is
merged, so that an adapter computes what it did in training.
"""

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from astuner.errors import ConfigError
from astuner.models.adapter import ADAPTER_WEIGHTS_NAME, has_adapter, read_adapter
from astuner.models.source import ADAPTER_CONFIG_NAME
from astuner.models.seeded import seeded_draws

_PREFIX = "base_model.model."
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


class AdapterSet:
    """The adapters of one model. Made by whoever owns the model; used by one thread at a time."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._layers: list[Any] = []
        self._names: dict[str, str] = {}
        self._is_on: str | None = None

    def add(self, name: str, folder: Path) -> None:
        """Load the adapter in a folder; none is switched on afterwards.

        Raises ConfigError where peft is not installed, and for an adapter that does not fit.
        """
        try:
            from peft.tuners.tuners_utils import BaseTunerLayer
        except ImportError as error:
            raise ConfigError(
                f"adapter {folder}: peft, which reads it, is not installed: "
                "pip install 'astuner[lora]'"
            ) from error
        _check_kind(folder, read_adapter_config(folder))
        _check_fits(folder, self._model)
        model: Any = self._model
        inner = f"served_{len(self._names)}"  # peft allows no dots
        _load(model, folder, inner)
        model.eval().requires_grad_(False)
        self._names[name] = inner
        self._layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
        self._is_on = name
        self.switch(None)

    def switch(self, name: str | None) -> None:
        """From here on the model computes with this adapter; None: as the base does."""
        if name == self._is_on or not has_adapter(self._model):
            return
        for layer in self._layers:
            layer.enable_adapters(enabled=name is not None)
            if name is not None:
                layer.set_adapter(self._names[name])
        if name is not None:
            self._model.requires_grad_(False)  # peft asks for gradients of what is switched on
        self._is_on = name


def read_adapter_config(folder: Path) -> Mapping[str, Any]:
    """Raises ConfigError for a folder that holds none that can be read."""
    path = folder / ADAPTER_CONFIG_NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"adapter {folder}: {ADAPTER_CONFIG_NAME} cannot be read ({error}); give the folder of "
            "a checkpoint that was trained with model.lora.rank, or of an adapter that peft wrote"
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("base_model_name_or_path"), str):
        raise ConfigError(
            f"adapter {folder}: {ADAPTER_CONFIG_NAME} names no base_model_name_or_path; write the "
            "model that it was trained on there"
        )
    return found


def _load(model: Any, folder: Path, name: str) -> None:
    from peft import PeftConfig

    try:
        weights = read_adapter(folder, name)
        config = PeftConfig.from_pretrained(str(folder))
        with warnings.catch_warnings(), seeded_draws(0):  # what it draws is overwritten
            # Several adapters in one model are meant.
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            model.add_adapter(config, adapter_name=name)
        found = model.load_state_dict(weights, strict=False)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        what = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"adapter {folder}: loading it failed with {type(error).__name__}: {what}; see whether "
            "its files are whole and of this model"
        ) from error
    own = [key for key in found.missing_keys if f".{name}." in key]
    if own or found.unexpected_keys:
        odd = (own or found.unexpected_keys)[0].replace(f".{name}", "")
        raise ConfigError(
            f"adapter {folder}: {ADAPTER_WEIGHTS_NAME} and {ADAPTER_CONFIG_NAME} do not go "
            f"together, as {odd} shows; see whether the folder is whole"
        )


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ConfigError(f"adapter {folder}: it is of the kind {kind}; only LORA can be served")
    if config.get("use_dora"):
        raise ConfigError(f"adapter {folder}: it is a DoRA; merge it, and serve the result")
    if config.get("modules_to_save"):
        raise ConfigError(
            f"adapter {folder}: it replaces whole layers (modules_to_save "
            f"{config['modules_to_save']}), which cannot be switched; merge it, and serve the result"
        )


def _check_fits(folder: Path, model: PreTrainedModel) -> None:
    """Each of its matrices has the size of the layer that it belongs to."""
    modules = dict(cast(nn.Module, model).named_modules())
    for name, shape in _shapes(folder).items():
        found = _LORA.fullmatch(name.removeprefix(_PREFIX))
        if found is None:
            continue
        layer: Any = modules.get(found["module"])
        layer = getattr(layer, "base_layer", layer)
        if not isinstance(layer, nn.Linear):
            raise _other_base(folder, f"that has no linear layer {found['module']}")
        ours = layer.in_features if found["side"] == "A" else layer.out_features
        its = shape[1] if found["side"] == "A" else shape[0]
        if ours != its:
            what = f"whose {found['module']} has the size {ours}, and the adapter's is {its}"
            raise _other_base(folder, what)


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    path = folder / ADAPTER_WEIGHTS_NAME
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"adapter {folder}: {ADAPTER_WEIGHTS_NAME} cannot be read ({error}); see whether the "
            "folder is whole"
        ) from error


def _other_base(folder: Path, found: str) -> ConfigError:
    named = read_adapter_config(folder)["base_model_name_or_path"]
    return ConfigError(
        f"adapter {folder}: it was trained on {named}, and is not for this model, {found}; serve it "
        "with the base that it was trained on"
    )
