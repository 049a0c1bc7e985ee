"""How much memory a run will take, estimated from the model's configuration before it is loaded.

Counts what lasts (weights, optimizer) and the largest thing that comes and goes (a micro-batch's
activations, the cache), and knows what would make a run fit; loads nothing. What a layer keeps for
its backward pass is not a formula: a forward pass over tensors without storage is asked what it
saves.
"""

import copy
import dataclasses
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from astuner.models.adapter import AdapterSettings, attach_adapter

logger = logging.getLogger(__name__)

GIB = 2**30
_ATTENTION_NAME = "astuner_storageless"
_PROBE_TOKENS = 64
_FUSED_SHARE = 0.7
"""Of what transformers' own layers keep, Liger's keep so much (68% measured at 1.5B)."""
_STEP_OF_TOKENS = 256
_SUGGESTED_RANK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What a model takes, per part, in bytes."""

    num_parameters: int
    num_trained: int
    kept_per_token: float
    """For the backward pass."""
    kept_per_token_checkpointed: float
    """The same when layers are computed again: their inputs, and one layer's own."""
    cache_per_token: float
    """Keys and values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The settings that memory depends on."""

    itemsize: int
    """Bytes of a weight."""
    has_reference: bool
    """A frozen copy of the weights, for the divergence."""
    micro_batch_tokens: int
    is_checkpointed: bool
    has_fused_layers: bool
    masters_in_host_memory: bool
    moments_in_host_memory: bool
    max_model_len: int
    logit_bytes: int
    """Of a chunk of logits with its gradient."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes on the device, by what they are for."""

    lasting: dict[str, int]
    """All the time."""
    training: dict[str, int]
    """During a training pass, beside them."""
    rollout: dict[str, int]
    """During rollouts, beside them."""

    @property
    def peak(self) -> int:
        passing = max(sum(self.training.values()), sum(self.rollout.values()))
        return sum(self.lasting.values()) + passing

    def __str__(self) -> str:
        is_training = sum(self.training.values()) >= sum(self.rollout.values())
        parts = self.lasting | (self.training if is_training else self.rollout)
        listed = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items() if size)
        return f"{self.peak / GIB:.2f} GiB ({listed})"


def need(footprint: Footprint, plan: Plan) -> Need:
    """Bytes that a run with these settings takes on its device at most."""
    weights = footprint.num_parameters * plan.itemsize
    trained = footprint.num_trained
    has_masters = plan.itemsize < 4 and not plan.masters_in_host_memory
    if plan.is_checkpointed:
        kept = footprint.kept_per_token_checkpointed
    else:
        kept = footprint.kept_per_token
    if plan.has_fused_layers:
        kept *= _FUSED_SHARE
    return Need(
        lasting={
            "weights": weights,
            "reference": weights if plan.has_reference else 0,
            "float32 weights": 4 * trained if has_masters else 0,
            "moments": 0 if plan.moments_in_host_memory else 8 * trained,
        },
        training={
            "gradients": 4 * trained,
            f"micro-batch of {plan.micro_batch_tokens} tokens": int(kept * plan.micro_batch_tokens),
            "logits": plan.logit_bytes,
        },
        rollout={"cache of one sequence": int(footprint.cache_per_token * plan.max_model_len)},
    )


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change of settings that lowers the need."""

    text: str
    """The keys and their new values."""
    footprint: Footprint
    plan: Plan


def remedies(
    footprint: Footprint, plan: Plan, available: int, *, with_adapter: Footprint | None
) -> list[Remedy]:
    """What makes the run fit, with as few changes of settings as possible; empty if nothing does.

    `with_adapter` is the model with a small adapter, unless it has one.
    """
    changes = list(_changes(plan, with_adapter))
    for num_changes in range(len(changes) + 1):
        found = []
        for chosen in combinations(changes, num_changes):
            remedy = Remedy(", ".join(text for text, _ in chosen), footprint, plan)
            for _, change in chosen:
                remedy = Remedy(remedy.text, *change(remedy.footprint, remedy.plan))
            for candidate in (remedy, _with_fewer_tokens(remedy, available)):
                if need(candidate.footprint, candidate.plan).peak <= available:
                    found.append(candidate)
                    break
        if found:
            return found
    return []


_Change = Callable[[Footprint, Plan], tuple[Footprint, Plan]]


def _changes(plan: Plan, with_adapter: Footprint | None) -> Iterator[tuple[str, _Change]]:
    def plan_with(**fields: Any) -> _Change:
        return lambda footprint, plan: (footprint, dataclasses.replace(plan, **fields))

    if not plan.is_checkpointed:
        yield (
            "trainer_common.enable_gradient_checkpointing: true",
            plan_with(is_checkpointed=True),
        )
    if plan.has_reference:
        yield (
            "trainer_common.use_kl_loss: false (and algorithm.use_kl_in_reward: false)",
            plan_with(has_reference=False),
        )
    if with_adapter is not None:
        yield (
            f"model.lora.rank: {_SUGGESTED_RANK}",
            lambda _, plan: (with_adapter, dataclasses.replace(plan, has_reference=False)),
        )


def _with_fewer_tokens(remedy: Remedy, available: int) -> Remedy:
    """The same with micro-batches as large as there is room for; unchanged where there is none."""
    plan = remedy.plan
    empty = need(remedy.footprint, dataclasses.replace(plan, micro_batch_tokens=0))
    room = available - sum(empty.lasting.values()) - sum(empty.training.values())
    whole = need(remedy.footprint, plan).training
    per_token = (sum(whole.values()) - sum(empty.training.values())) / plan.micro_batch_tokens
    num_tokens = int(room / per_token) // _STEP_OF_TOKENS * _STEP_OF_TOKENS
    if not 0 < num_tokens < plan.micro_batch_tokens:
        return remedy
    keys = [f"trainer_common.max_token_len_per_gpu: {num_tokens}"]
    if num_tokens < plan.max_model_len:  # a longer sample would go alone
        keys.append(f"rollout.max_model_len: {num_tokens}")
    text = " with ".join(filter(None, [remedy.text, " and ".join(keys)]))
    fewer = dataclasses.replace(plan, micro_batch_tokens=num_tokens)
    return Remedy(text, remedy.footprint, fewer)


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
    """The model with a small adapter."""
    adapter = AdapterSettings(rank=_SUGGESTED_RANK, alpha=None, target_modules=None, dropout=0.0)
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
