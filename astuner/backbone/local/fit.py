"""Does a run with these settings fit on its device, and how does it use it? Asked before anything
is loaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedConfig

from astuner.backbone.local.settings import adapter_settings
from astuner.config.schema import Settings
from astuner.config.sections.trainer_common import FEWEST_TOKENS
from astuner.errors import ConfigError
from astuner.inference.shapes.routed import REFERENCE
from astuner.models.device import available_bytes, choose_device, choose_dtype
from astuner.models.fused_layers import has_liger
from astuner.models.source import load_config
from astuner.training.footprint import Footprint, measure_footprint, suggested_footprint
from astuner.training.memory import (
    GIB,
    MemoryPlan,
    estimate_need,
    remedies,
    with_larger_batch,
)
from astuner.training.packed_attention import stores_scores_on_gpu
from astuner.training.score import num_logit_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFit:
    """How a run uses the memory of its device."""

    masters_in_host_memory: bool
    moments_in_host_memory: bool
    """What rests in host memory between updates."""
    micro_batch_tokens: int
    """Most tokens of one training pass."""
    summary: str | None
    """The estimate in one line; None where there is none."""


def fit_to_device(settings: Settings, source: str, *, reference: str | None = None) -> DeviceFit:
    """Estimate what the run of the model in the folder, or of the hub name, `source` needs.

    `reference` is the folder or hub name of frozen weights, where they are not `source`'s.

    Where fsdp_config leaves it open, masters and moments rest in host memory if the run does not
    fit otherwise. Where the size of a micro-batch is left open, it has `FEWEST_TOKENS` where these
    fit, and grows on a GPU into memory that nobody uses, since the host takes as long to launch a
    small pass as a large one; not for attention that stores scores, which are not counted.
    Raises ConfigError, with what would make it fit, when it does not and detectors.memory is
    "stop".
    """
    model, common = settings.model, settings.trainer_common
    device = choose_device(model.device)
    dtype = choose_dtype(model.dtype, device)
    asked = (common.fsdp_config.param_offload, common.fsdp_config.optimizer_offload)
    config = load_config(source)
    footprint = config and measure_footprint(config, dtype, adapter=adapter_settings(model.lora))
    if config is None or footprint is None:
        return DeviceFit(
            masters_in_host_memory=bool(asked[0]),
            moments_in_host_memory=bool(asked[1]),
            micro_batch_tokens=_least_tokens(settings),
            summary=None,
        )
    available = available_bytes(device)
    has_reference = _has_reference(settings, is_another=reference is not None)
    plans = list(_plans(settings, device, dtype, asked, has_reference=has_reference))
    if reference is not None:
        num_parameters = _num_parameters(reference, dtype) or footprint.num_parameters
        plans = [replace(plan, reference_parameters=num_parameters) for plan in plans]
    plan = _choose(plans, footprint, available)
    if common.max_token_len_per_gpu is None:
        may_grow = device.type == "cuda" and _is_all_counted(settings, config, dtype)
        plan = _with_size_chosen(plan, footprint, available, settings, may_grow=may_grow)
    found = estimate_need(footprint, plan)
    summary = f"memory: at most {found} of {available / GIB:.1f} GiB free on {device}"
    if found.peak > available and common.detectors.memory != "off":
        small = suggested_footprint(config, dtype) if model.lora.rank is None else None
        advice = [r.text for r in remedies(footprint, plan, available, with_adapter=small)]
        message = (
            f"the run needs about {found}, and {available / GIB:.2f} GiB are free on {device}. "
            + (f"It fits with {'; or '.join(advice)}" if advice else "Take a smaller model")
        )
        if common.detectors.memory == "stop":
            raise ConfigError(f"{message}. Or start it as it is: detectors.memory: warn")
        summary = f"warning: {message}"
    return DeviceFit(
        masters_in_host_memory=plan.masters_in_host_memory,
        moments_in_host_memory=plan.moments_in_host_memory,
        micro_batch_tokens=plan.micro_batch_tokens,
        summary=summary,
    )


def _plans(
    settings: Settings,
    device: torch.device,
    dtype: torch.dtype,
    asked: tuple[bool | None, bool | None],
    *,
    has_reference: bool,
) -> Iterator[MemoryPlan]:
    """As the settings ask, the fastest first; on a CPU there is only host memory."""
    rollout, common = settings.rollout, settings.trainer_common
    is_cuda = device.type == "cuda"
    choices = [(False, False), (False, True), (True, True)] if is_cuda else [(False, False)]
    for masters, moments in choices:
        if is_cuda and (asked[0] not in (None, masters) or asked[1] not in (None, moments)):
            continue
        yield MemoryPlan(
            itemsize=dtype.itemsize,
            has_reference=has_reference,
            micro_batch_tokens=_least_tokens(settings),
            is_checkpointed=common.enable_gradient_checkpointing,
            has_fused_layers=is_cuda and settings.model.use_liger is not False and has_liger(),
            masters_in_host_memory=masters,
            moments_in_host_memory=moments,
            max_model_len=rollout.max_model_len,
            logit_bytes=num_logit_bytes(device),
        )


def _least_tokens(settings: Settings) -> int:
    return settings.trainer_common.max_token_len_per_gpu or settings.rollout.max_model_len


def _with_size_chosen(
    plan: MemoryPlan,
    footprint: Footprint,
    available: int,
    settings: Settings,
    *,
    may_grow: bool,
) -> MemoryPlan:
    rollout = settings.rollout
    step_tokens = settings.data.train_batch_size * rollout.num_repeat * rollout.max_model_len
    if may_grow:
        return with_larger_batch(footprint, plan, available, step_tokens=step_tokens)
    # Not what is free by chance, but for want of it: a run on a CPU repeats to the bit.
    enough = max(plan.micro_batch_tokens, min(step_tokens, FEWEST_TOKENS))
    return _choose([replace(plan, micro_batch_tokens=enough), plan], footprint, available)


def _is_all_counted(settings: Settings, config: PreTrainedConfig, dtype: torch.dtype) -> bool:
    """Whether the estimate for a GPU holds, by what it counts and by what the user thinks of it:
    vLLM takes its own share, and some attention stores scores."""
    if settings.trainer_common.detectors.memory == "off" or settings.rollout.name == "vllm":
        return False
    return not stores_scores_on_gpu(config, dtype, longest=settings.rollout.max_model_len)


def _has_reference(settings: Settings, *, is_another: bool) -> bool:
    """Whether frozen weights are kept; with LoRA a divergence from the start needs none."""
    common = settings.trainer_common
    measures_divergence = common.use_kl_loss or common.algorithm.use_kl_in_reward
    if measures_divergence and (settings.model.lora.rank is None or is_another):
        return True
    return settings.rollout.untrained_model.model == REFERENCE


def _num_parameters(source: str, dtype: torch.dtype) -> int | None:
    config = load_config(source)
    footprint = config and measure_footprint(config, dtype, adapter=None)
    return footprint.num_parameters if footprint else None


def _choose(plans: Sequence[MemoryPlan], footprint: Footprint, available: int) -> MemoryPlan:
    """The first that fits, else the last."""
    fitting = (plan for plan in plans if estimate_need(footprint, plan).peak <= available)
    return next(fitting, plans[-1])
