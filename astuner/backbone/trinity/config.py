"""From astuner's settings to Trinity's: one line each, in the order of Trinity's configuration.

The section `trinity:` of the user's file goes on top (`cluster/mapping.py`). Trinity-RFT 0.6.0.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astuner.backbone.cluster.mapping import (
    NEEDS_FLASH_ATTENTION,
    NEEDS_FREE_PORT,
    Line,
    compute_dtype,
    line,
    merge,
    mixed_precision,
    nested,
)
from astuner.config.schema import Settings
from astuner.config.sections.trainer_common import FEWEST_TOKENS, START
from astuner.errors import ConfigError

_PACKAGE = "astuner.backbone.trinity"
_LOSSES = {"ppo_clip": "ppo", "gspo": "gspo", "cispo": "cispo"}
_MODES = ("both", "colocate")
_NO_DUAL_CLIP = 1e6
"""Trinity bounds the loss of negative advantages a second time, at 3 by default; ours has no such
bound, so it is put out of reach."""
_SLACK_SECONDS = 60.0
"""Beyond the time limits of an episode: for the engine's queue and the network."""
_NEVER_SECONDS = 10 * 24 * 3600
"""For waits inside of Trinity that the command bounds: the hub tells it when nothing happens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrinityFacts:
    """What the mapping needs beside the settings."""

    model: str
    """Folder or hub name."""
    checkpoint_dir: Path
    """Trinity's own state of this run, absolute."""
    namespace: str
    """Of the run's actors in Ray."""
    num_steps: int
    num_validation_tasks: int
    is_resumed: bool
    has_flash_attention: bool


def trinity_settings(
    settings: Settings, facts: TrinityFacts, *, own: Mapping[str, Any], explicit: frozenset[str]
) -> dict[str, Any]:
    """All settings that are not Trinity's defaults, as sections of sections.

    `own` is the user's section `trinity`, `explicit` the keys that the user wrote. Raises
    ConfigError where the two contradict each other, and for what Trinity cannot do.
    """
    _check(settings, facts)
    lines = [
        *_run(settings, facts),
        *_algorithm(settings),
        *_model(settings, facts),
        *_cluster(settings),
        *_buffer(settings, facts),
        *_explorer(settings, facts),
        *_trainer(settings, facts),
    ]
    merged = merge(lines, own, section="trinity", explicit=explicit)
    if merged["mode"] not in _MODES:
        raise ConfigError(
            f"trinity.mode is {merged['mode']!r}; a run of astuner has Trinity's explorer and its "
            f"trainer, so use {' or '.join(_MODES)}. That neither waits for the other is "
            "trinity.synchronizer.sync_style: fully_async"
        )
    return nested(merged)


def num_runners(s: Settings) -> int:
    """Processes that run episodes for one engine, each all attempts at a task at a time."""
    engines = s.trainer_common.trinity_only__n_vllm_engine
    wanted = s.rollout.max_env_worker / (engines * s.rollout.num_repeat)
    return max(1, min(math.ceil(wanted), math.ceil(s.data.train_batch_size / engines)))


def update_size(s: Settings) -> int:
    """Experiences of one update, a multiple of the trainer's GPUs."""
    episodes = s.data.train_batch_size * s.rollout.num_repeat
    wanted = episodes * s.rollout.multi_turn.expected_steps / s.trainer_common.mini_batch_num
    return math.ceil(wanted / num_trainer_gpus(s)) * num_trainer_gpus(s)


def num_trainer_gpus(s: Settings) -> int:
    """Those that no engine has; one GPU alone is shared."""
    common = s.trainer_common
    engines = common.trinity_only__n_vllm_engine * s.rollout.tensor_model_parallel_size
    return max(1, _num_gpus(s) - engines)


def _num_gpus(s: Settings) -> int:
    per_node = s.trainer_common.n_gpus_per_node
    assert per_node is not None  # with_num_gpus
    return s.trainer_common.nnodes * per_node


def _run(s: Settings, facts: TrinityFacts) -> Iterator[Line]:
    gpus = ("trainer_common.nnodes", "trainer_common.n_gpus_per_node")
    yield line("mode", "colocate" if _num_gpus(s) == 1 else "both", *gpus)
    yield line("project", facts.checkpoint_dir.parent.name)
    yield line("name", facts.checkpoint_dir.name)
    yield line("checkpoint_root_dir", str(facts.checkpoint_dir.parent.parent))
    yield line("ray_namespace", facts.namespace)
    yield line("continue_from_checkpoint", facts.is_resumed)
    yield line("monitor.monitor_type", f"{_PACKAGE}.monitor.HubMonitor")
    # The run directory has the episodes already.
    yield line("data_processor.experience_pipeline.save_input", False)


def _algorithm(s: Settings) -> Iterator[Line]:
    common, algorithm = s.trainer_common, s.trainer_common.algorithm
    ours = "trainer_common.algorithm"
    kl = ("trainer_common.use_kl_loss",)
    # Trinity's names for the same with a reference model and without.
    yield line("algorithm.algorithm_type", "grpo" if common.use_kl_loss else "dapo", *kl)
    yield line("algorithm.repeat_times", s.rollout.num_repeat, "rollout.num_repeat")
    yield line("algorithm.advantage_fn", f"{_PACKAGE}.advantage.HubAdvantage")
    yield line("algorithm.advantage_fn_args.multiple_of", update_size(s))
    yield line("algorithm.sample_strategy", f"{_PACKAGE}.sampling.WholeStep")
    yield line("algorithm.policy_loss_fn", _LOSSES[algorithm.policy_loss], f"{ours}.policy_loss")
    args = "algorithm.policy_loss_fn_args"
    yield line(f"{args}.clip_range_low", algorithm.clip_ratio_low, f"{ours}.clip_ratio_low")
    yield line(f"{args}.clip_range_high", algorithm.clip_ratio_high, f"{ours}.clip_ratio_high")
    if algorithm.policy_loss == "ppo_clip":
        yield line(f"{args}.clip_ratio_c", _NO_DUAL_CLIP)
    yield line(f"{args}.loss_agg_mode", algorithm.loss_agg_mode, f"{ours}.loss_agg_mode")
    yield line("algorithm.loss_agg_mode", algorithm.loss_agg_mode, f"{ours}.loss_agg_mode")
    kl_type = common.kl_loss_type if common.use_kl_loss else "none"
    yield line("algorithm.kl_loss_fn", kl_type, "trainer_common.kl_loss_type", *kl)
    yield line(
        "algorithm.kl_loss_fn_args.kl_coef", common.kl_loss_coef, "trainer_common.kl_loss_coef"
    )
    yield line("algorithm.kl_penalty_fn", "none")
    yield line("algorithm.entropy_loss_fn", "default")  # for its metric
    yield line("algorithm.entropy_loss_fn_args.entropy_coef", 0.0)
    optim = "trainer_common.optim"
    yield line("algorithm.optimizer.lr", common.optim.lr, f"{optim}.lr")
    yield line(
        "algorithm.optimizer.weight_decay", common.optim.weight_decay, f"{optim}.weight_decay"
    )
    yield line(
        "algorithm.optimizer.lr_warmup_steps", common.optim.warmup_steps, f"{optim}.warmup_steps"
    )
    yield line("algorithm.optimizer.clip_grad", common.optim.grad_clip, f"{optim}.grad_clip")
    yield line("trainer.grad_clip", common.optim.grad_clip, f"{optim}.grad_clip")


def _model(s: Settings, facts: TrinityFacts) -> Iterator[Line]:
    yield line("model.model_path", facts.model, "model.path")
    yield line("model.max_model_len", s.rollout.max_model_len, "rollout.max_model_len")
    yield line("model.temperature", s.rollout.temperature, "rollout.temperature")
    yield line("model.top_p", s.rollout.top_p, "rollout.top_p")


def _cluster(s: Settings) -> Iterator[Line]:
    common = s.trainer_common
    yield line("cluster.node_num", common.nnodes, "trainer_common.nnodes")
    yield line("cluster.gpu_per_node", common.n_gpus_per_node, "trainer_common.n_gpus_per_node")


def _buffer(s: Settings, facts: TrinityFacts) -> Iterator[Line]:
    common = s.trainer_common
    yield line("buffer.batch_size", s.data.train_batch_size, "data.train_batch_size")
    yield line(
        "buffer.train_batch_size",
        update_size(s),
        "data.train_batch_size",
        "rollout.num_repeat",
        "rollout.multi_turn.expected_steps",
        "trainer_common.mini_batch_num",
    )
    yield line("buffer.total_epochs", common.total_epochs, "trainer_common.total_epochs")
    yield line("buffer.total_steps", facts.num_steps, "trainer_common.total_training_steps")
    for key, value in _task_set(s, "train").items():
        yield line(f"buffer.explorer_input.taskset.{key}", value)
    validation = {**_task_set(s, "validation"), "repeat_times": s.rollout.val_kwargs.num_repeat}
    yield line(
        "buffer.explorer_input.eval_tasksets", [validation] if facts.num_validation_tasks else []
    )
    yield line("buffer.trainer_input.experience_buffer.name", "experiences")
    yield line("buffer.trainer_input.experience_buffer.storage_type", "queue")
    yield line("buffer.trainer_input.experience_buffer.max_read_timeout", _NEVER_SECONDS)


def _task_set(s: Settings, split: str) -> dict[str, Any]:
    engines = s.trainer_common.trinity_only__n_vllm_engine
    return {
        "name": split,
        "storage_type": f"{_PACKAGE}.reader.TaskSet",
        "path": split,
        "default_workflow_type": f"{_PACKAGE}.workflow.EpisodeWorkflow",
        "workflow_args": {"num_processes": engines * num_runners(s)},
    }


def _explorer(s: Settings, facts: TrinityFacts) -> Iterator[Line]:
    common, rollout = s.trainer_common, s.rollout
    yield line("explorer.runner_per_model", num_runners(s), "rollout.max_env_worker")
    # What fails is recorded; trying again would train on luck.
    yield line("explorer.max_retry_times", 0)
    yield line("explorer.max_timeout", _group_seconds(s, facts), "rollout.episode_timeout_seconds")
    yield line("explorer.eval_interval", common.test_freq, "trainer_common.test_freq")
    yield line(
        "explorer.eval_on_startup",
        common.val_before_train and facts.num_validation_tasks > 0,
        "trainer_common.val_before_train",
    )
    model = "explorer.rollout_model"
    yield line(f"{model}.engine_type", "vllm")
    yield line(f"{model}.enable_openai_api", True)
    yield line(
        f"{model}.engine_num",
        common.trinity_only__n_vllm_engine,
        "trainer_common.trinity_only__n_vllm_engine",
    )
    yield line(
        f"{model}.tensor_parallel_size",
        rollout.tensor_model_parallel_size,
        "rollout.tensor_model_parallel_size",
    )
    yield line(
        f"{model}.gpu_memory_utilization",
        rollout.gpu_memory_utilization,
        "rollout.gpu_memory_utilization",
    )
    yield line(f"{model}.dtype", compute_dtype(s.model), "model.dtype")
    yield line(f"{model}.seed", rollout.seed, "rollout.seed")
    yield line(
        f"{model}.extra_engine_args.max_num_seqs", rollout.max_num_seqs, "rollout.max_num_seqs"
    )


def _group_seconds(s: Settings, facts: TrinityFacts) -> int:
    """How long the attempts at one task may take, those before it in the same process included."""
    episode = s.rollout.episode_timeout_seconds + s.task_judge.judge_timeout_seconds
    processes = s.trainer_common.trinity_only__n_vllm_engine * num_runners(s)
    tasks = s.data.train_batch_size + facts.num_validation_tasks
    return math.ceil((episode + _SLACK_SECONDS) * math.ceil(tasks / processes))


def _trainer(s: Settings, facts: TrinityFacts) -> Iterator[Line]:
    common = s.trainer_common
    yield line("trainer.total_steps", facts.num_steps, "trainer_common.total_training_steps")
    yield line("trainer.save_interval", common.save_freq, "trainer_common.save_freq")
    yield line("trainer.save_hf_checkpoint", "always")
    # One more, since a state is exported while the trainer is at the next; 0 keeps all.
    keep = common.keep_checkpoints + 1 if common.keep_checkpoints else 0
    yield line("trainer.max_checkpoints_to_keep", keep, "trainer_common.keep_checkpoints")
    yield line(
        "trainer.max_token_len_per_gpu",
        common.max_token_len_per_gpu or max(FEWEST_TOKENS, s.rollout.max_model_len),
        "trainer_common.max_token_len_per_gpu",
        "rollout.max_model_len",
    )
    yield line(
        "trainer.ulysses_sequence_parallel_size",
        common.ulysses_sequence_parallel_size,
        "trainer_common.ulysses_sequence_parallel_size",
    )
    # Null means yes on a cluster (sections/trainer_common.py).
    for name in ("param_offload", "optimizer_offload"):
        value = getattr(common.fsdp_config, name) is not False
        yield line(f"trainer.{name}", value, f"trainer_common.fsdp_config.{name}")
    yield line("trainer.use_remove_padding", True)
    verl = "trainer.trainer_config"
    yield line(
        f"{verl}.model.enable_gradient_checkpointing",
        common.enable_gradient_checkpointing,
        "trainer_common.enable_gradient_checkpointing",
    )
    if not facts.has_flash_attention:  # torch's own masks what is packed as well
        yield line(f"{verl}.model.override_config.attn_implementation", "sdpa")
    for part in ("actor", "ref"):
        yield line(f"{verl}.{part}.fsdp_config.dtype", compute_dtype(s.model), "model.dtype")
        yield line(f"{verl}.{part}.fsdp_config.mixed_precision", mixed_precision(s.model))
        yield line(f"{verl}.{part}.use_torch_compile", False)
        # This one compiles: minutes before step 1.
        yield line(f"{verl}.{part}.fsdp_config.use_torch_compile", False)


def _check(s: Settings, facts: TrinityFacts) -> None:
    """Raise ConfigError for what a setting asks of Trinity in vain, with what does it."""
    common, algorithm = s.trainer_common, s.trainer_common.algorithm
    problems = []
    if common.ulysses_sequence_parallel_size > 1 and not facts.has_flash_attention:
        problems.append(NEEDS_FLASH_ATTENTION)
    if s.gateway.port:
        problems.append(NEEDS_FREE_PORT)
    if algorithm.policy_loss not in _LOSSES:
        problems.append(
            f"trainer_common.algorithm.policy_loss: {algorithm.policy_loss} is computed by the "
            f"backbone local only; on trinity use one of {', '.join(_LOSSES)}"
        )
    if s.trainer_common.use_kl_loss and s.trainer_common.reference != START:
        problems.append(
            "trainer_common.reference: trinity measures from the model that the run starts from; "
            f"leave it at {START}, or tune on the backbone local"
        )
    if algorithm.use_kl_in_reward:
        problems.append(
            "trainer_common.algorithm.use_kl_in_reward: rewards are compared before Trinity knows "
            "the divergence; use trainer_common.use_kl_loss"
        )
    if s.rollout.name in ("transformers", "sglang"):
        problems.append(
            f"rollout.name: {s.rollout.name}: on trinity the episodes need the completions of "
            "token ids that vLLM's server has; use vllm"
        )
    if s.model.lora.rank is not None:
        problems.append(
            "model.lora.rank: adapters are trained by the backbone local only; set it to null"
        )
    engines = common.trinity_only__n_vllm_engine * s.rollout.tensor_model_parallel_size
    if 1 < _num_gpus(s) <= engines:
        problems.append(
            f"trainer_common.trinity_only__n_vllm_engine = {common.trinity_only__n_vllm_engine} "
            f"with rollout.tensor_model_parallel_size = {s.rollout.tensor_model_parallel_size} "
            f"takes all of the {_num_gpus(s)} GPUs and leaves none to train on; ask for fewer"
        )
    if problems:
        raise ConfigError("backbone trinity: " + "\n  ".join(problems))
