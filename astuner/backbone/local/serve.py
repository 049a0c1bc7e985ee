"""Loads a model with its template and the engine that samples from it."""

from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from astuner.backbone.local.settings import adapter_settings
from astuner.backbone.run import Run
from astuner.backbone.vocabulary_file import write_vocabulary
from astuner.config.sections.rollout import RolloutSettings
from astuner.engine.attendance import Attendance
from astuner.engine.continuous import ContinuousBatchingEngine
from astuner.engine.limits import EngineLimits
from astuner.engine.protocol import TrainedEngine
from astuner.errors import ConfigError, RequestError
from astuner.inference.template import ChatTemplate
from astuner.models.adapter import attach_adapter
from astuner.models.end_ids import end_ids
from astuner.models.load import LoadedModel, load_policy

_BATCH_TOKENS_ON_GPU = 16_384
"""Of prompts in one pass: enough to keep a large GPU busy."""

_SETTLE_SECONDS_ON_CPU = 2.0
"""Longer than an agent's own code takes between two calls; a slow tool costs at most this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPolicy:
    """A model with what puts conversations into its tokens."""

    policy: LoadedModel
    template: ChatTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEngine:
    """A model that can be asked; `policy.model` is the very module that training changes."""

    policy: LoadedModel
    template: ChatTemplate
    engine: TrainedEngine
    attendance: Attendance
    """Whom the passes of `engine` wait for, and of any other engine that shares it."""


def load_engine(run: Run, source: str, *, weight_version: int = 0) -> LoadedEngine:
    """Load the model in the folder, or of the hub name, `source`.

    Raises ConfigError or BackboneError when that is not a usable chat model.
    """
    rollout = run.settings.rollout
    loaded = load_chat_policy(run, source)
    policy = loaded.policy
    attendance = Attendance(wait_seconds=_settle_seconds(policy, rollout))
    engine = _make_engine(policy, rollout, source, attendance, weight_version)
    write_vocabulary(run.run_dir, policy.tokenizer)
    return LoadedEngine(
        policy=policy, template=loaded.template, engine=engine, attendance=attendance
    )


def load_chat_policy(run: Run, source: str) -> ChatPolicy:
    """Load the model in the folder, or of the hub name, `source`, with a new adapter where the
    settings want one. Raises as `load_engine` does."""
    model, rollout = run.settings.model, run.settings.rollout
    policy = load_policy(source, dtype=model.dtype, device=model.device, use_liger=model.use_liger)
    if (adapter := adapter_settings(model.lora)) is not None:
        attach_adapter(policy.model, adapter, seed=run.settings.trainer_common.seed)
    _check_context(policy, rollout.max_model_len)
    stop_ids = end_ids(policy.model.generation_config)
    try:
        template = ChatTemplate(policy.tokenizer, extra_stop_ids=stop_ids)
    except (ConfigError, RequestError) as error:  # whatever it makes of a first conversation
        raise ConfigError(
            f"the chat template of {source} cannot be used: {error}; correct its "
            "chat_template.jinja, or take another model"
        ) from error
    return ChatPolicy(policy=policy, template=template)


def _settle_seconds(policy: LoadedModel, rollout: RolloutSettings) -> float:
    if _engine_name(rollout) == "vllm":  # it passes when it wants
        return 0.0
    if rollout.settle_seconds is not None:
        return rollout.settle_seconds
    return _SETTLE_SECONDS_ON_CPU if policy.device.type == "cpu" else 0.0


def _make_engine(
    policy: LoadedModel,
    rollout: RolloutSettings,
    source: str,
    attendance: Attendance,
    weight_version: int,
) -> TrainedEngine:
    seed = rollout.seed
    limits = engine_limits(policy, rollout)
    if _engine_name(rollout) == "vllm":
        from astuner.engine.vllm import VLLMEngine

        return VLLMEngine(policy.model, source, limits, seed=seed, weight_version=weight_version)
    return ContinuousBatchingEngine(
        policy.model,
        limits,
        seed=seed,
        attendance=attendance,
        weight_version=weight_version,
    )


def make_reference_engine(
    run: Run, loaded: LoadedEngine, model: PreTrainedModel
) -> ContinuousBatchingEngine:
    """An engine over frozen weights beside the policy's, in step with it."""
    rollout = run.settings.rollout
    return ContinuousBatchingEngine(
        model,
        engine_limits(loaded.policy, rollout),
        seed=rollout.seed,
        attendance=loaded.attendance,
    )


def engine_limits(
    policy: LoadedModel, rollout: RolloutSettings, *, num_engines: int = 1
) -> EngineLimits:
    """Of one of so many engines that share the memory for keys and values."""
    limits = EngineLimits(
        max_num_seqs=rollout.max_num_seqs,
        max_model_len=rollout.max_model_len,
        speculates=rollout.speculation,
    )
    if policy.device.type != "cuda":
        return replace(limits, max_cache_bytes=limits.max_cache_bytes // num_engines)
    free, _ = torch.cuda.mem_get_info(policy.device)
    # What torch keeps without use, as behind a training pass.
    free += torch.cuda.memory_reserved(policy.device) - torch.cuda.memory_allocated(policy.device)
    return replace(
        limits,
        max_batch_tokens=_BATCH_TOKENS_ON_GPU,
        max_cache_bytes=int(free * rollout.gpu_memory_utilization) // num_engines,
        gpu_memory_utilization=rollout.gpu_memory_utilization,
    )


def _engine_name(rollout: RolloutSettings) -> str:
    """Unless one is named, our own: faster than vLLM in the shapes that were measured, repeatable,
    ready in seconds, and without a second copy of the weights (docs/performance.md)."""
    if rollout.name == "sglang":
        raise ConfigError(
            "rollout.name is sglang, which only the clustered backbones can use; the backbone "
            "local takes auto, transformers or vllm"
        )
    return "transformers" if rollout.name == "auto" else rollout.name


def _check_context(policy: LoadedModel, max_model_len: int) -> None:
    longest = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and max_model_len > longest:
        raise ConfigError(
            f"rollout.max_model_len is {max_model_len}, but {policy.name_or_path} was made for at "
            f"most {longest} tokens (max_position_embeddings); lower it"
        )
