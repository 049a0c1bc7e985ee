"""What a model takes of memory, asked from its configuration: no weights are loaded.

What a layer keeps for its backward pass is not a formula: a forward pass over tensors without
storage is asked what it saves.
"""

import copy
import logging
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from astuner.models.adapter import AdapterSettings, attach_adapter

logger = logging.getLogger(__name__)

SUGGESTED_RANK = 16
"""Of the adapter that is advised where all weights do not fit."""

_ATTENTION_NAME = "astuner_storageless"
_PROBE_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What a model takes, per part, in bytes."""

    num_parameters: int
    num_trained: int
    kept_per_token: float
    """What the forward pass keeps for the backward pass."""
    kept_per_token_checkpointed: float
    """What it keeps when layers are computed again: their inputs, and all of one layer."""
    cache_per_token: float
    """Keys and values of all layers."""


def measure_footprint(
    config: PreTrainedConfig, dtype: torch.dtype, *, adapter: AdapterSettings | None
) -> Footprint | None:
    """Ask a model without storage; None for one that cannot be run so."""
    try:
        return _measure(config, dtype, adapter)
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        logger.debug("no estimate of memory for %s: %r", type(config).__name__, error)
        return None


def suggested_footprint(config: PreTrainedConfig, dtype: torch.dtype) -> Footprint | None:
    """Ask the model with a small adapter, as `measure_footprint` asks one."""
    adapter = AdapterSettings(rank=SUGGESTED_RANK, alpha=None, target_modules=None, dropout=0.0)
    return measure_footprint(config, dtype, adapter=adapter)


def _measure(
    config: PreTrainedConfig, dtype: torch.dtype, adapter: AdapterSettings | None
) -> Footprint:
    # Registered here, so that no model can use it by accident.
    ALL_ATTENTION_FUNCTIONS.register(_ATTENTION_NAME, _attention)
    with torch.device("meta"):
        # A copy: the attention of a model is a field of its configuration.
        model = AutoModelForCausalLM.from_config(
            copy.deepcopy(config), dtype=dtype, attn_implementation=_ATTENTION_NAME
        )
        if adapter is not None:
            attach_adapter(model, adapter)
        cast(nn.Module, model).to(dtype)
    text = config.get_text_config()
    parameters = list(cast(nn.Module, model).parameters())
    kept = _kept_bytes(model, {_storage_id(p) for p in parameters}) / _PROBE_TOKENS
    inputs = text.num_hidden_layers * text.hidden_size * dtype.itemsize
    num_heads = text.num_attention_heads
    num_key_heads = getattr(text, "num_key_value_heads", None) or num_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // num_heads
    return Footprint(
        num_parameters=sum(p.numel() for p in parameters),
        num_trained=sum(p.numel() for p in parameters if p.requires_grad),
        kept_per_token=kept,
        kept_per_token_checkpointed=inputs + kept / text.num_hidden_layers,
        cache_per_token=2 * text.num_hidden_layers * num_key_heads * head_size * dtype.itemsize,
    )


def _kept_bytes(model: Any, known: set[int]) -> int:
    """Of the storages that a forward pass saves, those that are not the model's own."""
    kept: dict[int, tuple[int, Tensor]] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _storage_id(tensor) not in known:
            # The tensor too: another storage would get its address.
            kept[_storage_id(tensor)] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    ids = torch.zeros((1, _PROBE_TOKENS), dtype=torch.long, device="meta")
    with saved_tensors_hooks(keep, lambda tensor: tensor), torch.enable_grad():
        model.get_decoder()(input_ids=ids, use_cache=False)
    return sum(size for size, _ in kept.values())


def _storage_id(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _Attention(torch.autograd.Function):
    """Computes nothing, and keeps what a kernel without stored scores keeps."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, result)
        return result


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    """With the signature that transformers calls."""
    result: Tensor = _Attention.apply(query, key, value)  # type: ignore[assignment]  # untyped
    return result.transpose(1, 2).contiguous(), None
