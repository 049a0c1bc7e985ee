"""LoRA: a small trained addition to the frozen linear layers of a model.

The adapter is put into the very module that generates, by transformers' own integration of peft,
so that generation uses it without a copy. Owns how it is attached, switched off for the reference,
merged and saved. Source: LoRA, arXiv 2106.09685.
"""

import contextlib
import difflib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from astuner.errors import BackboneError, ConfigError
from astuner.models.manifest import read_object
from astuner.models.seeded import seeded_draws
from astuner.models.source import ADAPTER_CONFIG_NAME

ADAPTER_WEIGHTS_NAME = "adapter_model.safetensors"
MERGED_NAME = "merged"

_LARGEST_GAP = {torch.float32: 1e-3, torch.bfloat16: 1.0, torch.float16: 0.2}
"""Between logits of the policy and of the merged model: rounding of the weights to that dtype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """Which layers get an adapter, and of what size."""

    rank: int
    alpha: float | None
    """The adapter's output is scaled by alpha / rank; None: twice the rank."""
    target_modules: Sequence[str] | None
    """Last parts of the names of linear layers; None: all of the decoder."""
    dropout: float
    """Of the adapter's input while training."""


def attach_adapter(model: PreTrainedModel, settings: AdapterSettings, *, seed: int = 0) -> None:
    """Freeze the model and add an adapter that computes nothing yet; `seed` gives its weights.

    Raises ConfigError when peft is not installed, or a target names no linear layer.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ConfigError(
            "model.lora.rank is set, but peft is not installed: pip install 'astuner[lora]'"
        ) from error
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=cast(int, 2 * settings.rank if settings.alpha is None else settings.alpha),
        target_modules=_targets(model, settings.target_modules),
        lora_dropout=settings.dropout,
        task_type="CAUSAL_LM",
    )
    with seeded_draws(seed):
        cast(Any, model).add_adapter(config)


def has_adapter(model: PreTrainedModel) -> bool:
    return bool(getattr(model, "_hf_peft_config_loaded", False))


@contextlib.contextmanager
def adapter_off(model: PreTrainedModel) -> Iterator[None]:
    """The model computes as the base does."""
    cast(Any, model).disable_adapters()
    try:
        yield
    finally:
        cast(Any, model).enable_adapters()


def switch_dropout(model: PreTrainedModel, *, is_on: bool) -> None:
    """Only the adapter's."""
    for name, module in model.named_modules():
        if "lora_dropout" in name and isinstance(module, nn.Dropout):
            module.train(is_on)


def merged_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """The weights of a plain model that computes the same, by their names in a checkpoint.

    A shared tensor comes under each of its names. Without an adapter, the model's own.
    """
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if "lora_" in name:
            continue
        owner, is_wrapped, kind = name.rpartition(".base_layer.")
        if not is_wrapped:
            yield name, parameter.detach()
        elif kind == "weight":
            layer: Any = modules[owner]
            delta = sum(layer.get_delta_weight(adapter) for adapter in layer.active_adapters)
            merged = parameter.detach().float() + cast(Tensor, delta).detach().float()
            yield f"{owner}.{kind}", merged.to(parameter.dtype)
        else:
            yield f"{owner}.{kind}", parameter.detach()


@torch.no_grad()
def save_merged(folder: Path, model: PreTrainedModel) -> None:
    """Write a plain model to `folder`, and read it again to see that it computes the same.

    Raises BackboneError when it does not.
    """
    with seeded_draws(0):  # what it draws is overwritten
        merged = cast(nn.Module, AutoModelForCausalLM.from_config(model.config, dtype=model.dtype))
    merged.load_state_dict(dict(merged_weights(model)), strict=True)
    cast(PreTrainedModel, merged).save_pretrained(folder)
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype)
    loaded = loaded.to(model.device).eval()
    vocabulary = model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (2, 24), generator=generator).to(model.device)
    ours, theirs = (m(input_ids=ids, use_cache=False).logits.float() for m in (model, loaded))
    gap = (ours.log_softmax(-1) - theirs.log_softmax(-1)).abs().mean().item()
    if not gap <= _LARGEST_GAP[model.dtype]:
        raise BackboneError(
            f"saving the merged model failed: its log-probabilities are {gap:.3g} nats from those "
            f"of the policy on made-up tokens, at most {_LARGEST_GAP[model.dtype]} is rounding; "
            "nothing was saved. Save the adapter alone: trainer_common.save_merged: false"
        )


@torch.no_grad()
def merge_in_place(model: PreTrainedModel) -> PreTrainedModel:
    """A plain model that computes the same and shares its storage, without a second copy.

    The layers' own weights are overwritten, and `model` is of no use behind it. Without an adapter
    it is the model itself.
    """
    if not has_adapter(model):
        return model
    modules = dict(model.named_modules())
    weights: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if "lora_" in name:
            continue
        owner, is_wrapped, kind = name.rpartition(".base_layer.")
        if is_wrapped and kind == "weight":
            layer: Any = modules[owner]
            deltas = [layer.get_delta_weight(adapter) for adapter in layer.active_adapters]
            merged = parameter.float() + cast(Tensor, sum(delta.float() for delta in deltas))
            parameter.copy_(merged)
        weights[f"{owner}.{kind}" if is_wrapped else name] = parameter.detach()
    with torch.device("meta"):
        plain: Any = AutoModelForCausalLM.from_config(model.config, dtype=model.dtype)
    plain.load_state_dict(weights, strict=True, assign=True)
    plain.generation_config = model.generation_config
    plain.tie_weights()
    return plain


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Raises BackboneError for one that is torn."""
    try:
        return read_object(folder / ADAPTER_CONFIG_NAME)
    except (OSError, ValueError, RecursionError) as error:
        raise BackboneError(f"{folder / ADAPTER_CONFIG_NAME} is damaged: {error}") from error


def put_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Give a base the trained adapter of a folder. Raises ConfigError for one of another base, or
    where peft is not installed."""
    try:
        import peft  # noqa: F401  # transformers asks for it with less to go on
    except ImportError as error:
        raise ConfigError(
            f"{folder} holds an adapter, and peft, which reads it, is not installed: "
            "pip install 'astuner[lora]'"
        ) from error
    weights = load_file(folder / ADAPTER_WEIGHTS_NAME)
    problem = _what_does_not_fit(model, weights, rank=read_adapter_config(folder)["r"])
    if problem is not None:
        raise ConfigError(
            f"the adapter in {folder} is of another base than {model.name_or_path}: {problem}; "
            "name the model that was tuned by --base"
        )
    with seeded_draws(0), peft_warnings_off():  # what it draws is overwritten
        cast(Any, model).load_adapter(str(folder))


@contextlib.contextmanager
def peft_warnings_off() -> Iterator[None]:
    """Without what peft makes transformers warn of, which is not the user's to mend."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        yield


def _what_does_not_fit(
    model: PreTrainedModel, weights: Mapping[str, Tensor], *, rank: int
) -> str | None:
    """The first pair of an adapter's matrices that no layer of the model could add."""
    layers = dict(cast(nn.Module, model).named_modules())
    for name, weight in weights.items():
        owner, is_pair, kind = name.removeprefix("base_model.model.").partition(".lora_")
        if not is_pair or kind not in ("A.weight", "B.weight"):
            continue
        layer = layers.get(owner)
        if not isinstance(layer, nn.Linear):
            return f"that has no linear layer {owner}"
        is_in = kind == "A.weight"
        expected = (rank, layer.in_features) if is_in else (layer.out_features, rank)
        if tuple(weight.shape) != expected:
            return f"{name} has the shape {list(weight.shape)}, its layer takes {list(expected)}"
    return None


def load_merged(folder: str, **options: Any) -> tuple[PreTrainedModel, str]:
    """The plain model that a saved adapter makes of its base, and the base's path.

    Raises ConfigError when peft is not installed.
    """
    try:
        from peft import PeftConfig, PeftModel
    except ImportError as error:
        raise ConfigError(
            f"model.path {folder} holds an adapter, and peft, which reads it, is not installed: "
            "pip install 'astuner[lora]'"
        ) from error
    base = str(PeftConfig.from_pretrained(folder).base_model_name_or_path)
    model = AutoModelForCausalLM.from_pretrained(base, **options)
    with seeded_draws(0):  # what it draws is overwritten
        merged: Any = PeftModel.from_pretrained(cast(Any, model), folder)
    return merged.merge_and_unload().requires_grad_(True), base


def read_adapter(folder: Path, name: str = "default") -> dict[str, Tensor]:
    """The weights of a saved adapter by the names of the parameters that `attach_adapter` makes,
    or that an adapter of another name has."""
    weights = load_file(folder / ADAPTER_WEIGHTS_NAME)
    return {
        re.sub(r"(\.lora_\w+)\.", rf"\1.{name}.", key.removeprefix("base_model.model.")): weight
        for key, weight in weights.items()
    }


@torch.no_grad()
def take_adapter_weights(model: PreTrainedModel, folder: Path) -> None:
    """Give the adapter that `attach_adapter` made the weights of a saved one of the same shape.

    Raises BackboneError where they are of other layers or another rank.
    """
    saved = read_adapter(folder)
    parameters = dict(cast(nn.Module, model).named_parameters())
    own = {name: p for name, p in parameters.items() if p.requires_grad}
    if {name: weight.shape for name, weight in saved.items()} != {n: p.shape for n, p in own.items()}:
        raise BackboneError(
            f"the adapter in {folder} has {len(saved)} weights of other names or shapes than the "
            f"{len(own)} of the run's adapter; start a new run"
        )
    for name, parameter in own.items():
        parameter.copy_(saved[name])


def _targets(model: PreTrainedModel, wanted: Sequence[str] | None) -> list[str]:
    decoder = set(cast(nn.Module, model.get_decoder()).modules())
    linear = [
        name
        for name, module in cast(nn.Module, model).named_modules()
        if isinstance(module, nn.Linear) and module in decoder
    ]
    known = sorted({name.rpartition(".")[2] for name in linear})
    if wanted is None:
        return known
    for target in wanted:
        # As peft matches them: the end of a name, at a dot.
        if not any(f".{name}".endswith(f".{target}") for name in linear):
            near = difflib.get_close_matches(target, [*known, *linear], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"model.lora.target_modules: {target} matches no linear layer of the model; it has "
                f"{', '.join(known)}{hint}"
            )
    return list(wanted)


def weights_dtype(folder: Path) -> str | None:
    """The type of an adapter's weights, such as "bfloat16"; None where there are none."""
    try:
        with safe_open(folder / ADAPTER_WEIGHTS_NAME, framework="pt") as file:
            dtypes = [file.get_tensor(name).dtype for name in list(file.keys())[:1]]
    except (OSError, SafetensorError) as error:
        raise BackboneError(f"{folder / ADAPTER_WEIGHTS_NAME} cannot be read: {error}") from error
    return str(dtypes[0]).removeprefix("torch.") if dtypes else None
