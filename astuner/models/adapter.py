"""LoRA: a small trained addition to the frozen linear layers of a model.

The adapter is put into the very module that generates, by transformers' own integration of peft,
so that generation uses it without a copy. Owns how it is attached, switched off for the reference,
merged and saved. Source: LoRA, arXiv 2106.09685.
"""

import contextlib
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from astuner.errors import BackboneError, ConfigError
from astuner.models.seeded import seeded_draws

ADAPTER_CONFIG_NAME = "adapter_config.json"
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
