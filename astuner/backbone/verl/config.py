"""From astuner's settings to verl's: one line each, in the order of verl's own configuration.

The section `verl:` of the user's file goes on top (`cluster/mapping.py`). verl 0.9.1.
"""

import math
from collections.abc import Iterator, Mapping
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
)
from astuner.config.schema import Settings
from astuner.config.sections.trainer_common import FEWEST_TOKENS, START
from astuner.errors import ConfigError

NUM_BATCHES = "astuner_num_batches"
"""Key of `data` where tasks are mixed or a curriculum deals them: how many batches there are for
verl, which knows neither and reads them one after the other."""
TRAINER_NAME = "astuner"
_LOSSES = {"ppo_clip": "vanilla", "gspo": "gspo", "cispo": "cispo"}
_EPISODES_OF_A_WORKER = 32
"""At once: about what one process of Python serves without slowing them."""
_NO_DUAL_CLIP = 1e6
"""verl bounds the loss of negative advantages a second time, at 3 by default; ours has no such
bound, so it is put out of reach."""


def verl_settings(
    settings: Settings,
    *,
    own: Mapping[str, Any],
    explicit: frozenset[str],
    model: str,
    checkpoint_dir: Path,
    loop_file: Path,
    has_validation: bool,
    has_flash_attention: bool,
    is_resumed: bool,
) -> dict[str, Any]:
    """All settings that are not verl's defaults, by dotted key.

    `own` is the user's section `verl`, `explicit` the keys that the user wrote. Raises ConfigError
    where the two contradict each other, and for what verl cannot do.
    """
    _check(settings, has_flash_attention)
    lines = [
        *_data(settings),
        *_model(settings, model, has_flash_attention),
        *_actor(settings),
        *_rollout(settings, loop_file),
        *_algorithm(settings),
        *_trainer(settings, checkpoint_dir, has_validation, is_resumed),
    ]
    return merge(lines, own, section="verl", explicit=explicit)


def _data(s: Settings) -> Iterator[Line]:
    yield line("data.train_files", "train")
    yield line("data.val_files", "validation")
    yield line("data.custom_cls.path", "pkg://astuner.backbone.verl.dataset")
    yield line("data.custom_cls.name", "TaskDataset")
    yield line("data.train_batch_size", s.data.train_batch_size, "data.train_batch_size")
    refills = s.trainer_common.algorithm.dynamic_sampling_max_batches
    refill_key = "trainer_common.algorithm.dynamic_sampling_max_batches"
    yield line("data.gen_batch_size", 1 if refills else s.data.train_batch_size, refill_key)
    yield line("data.max_prompt_length", s.data.max_prompt_length, "data.max_prompt_length")
    yield line("data.max_response_length", s.data.max_response_length, "data.max_response_length")
    yield line("data.seed", s.trainer_common.seed, "trainer_common.seed")
    yield line("data.dataloader_num_workers", 0)  # tasks are in memory
    yield line("data.return_raw_chat", True)


def _model(s: Settings, model: str, has_flash_attention: bool) -> Iterator[Line]:
    yield line("actor_rollout_ref.model.path", model, "model.path")
    common = s.trainer_common
    yield line(
        "actor_rollout_ref.model.enable_gradient_checkpointing",
        common.enable_gradient_checkpointing,
        "trainer_common.enable_gradient_checkpointing",
    )
    yield line("actor_rollout_ref.model.use_remove_padding", True)
    if not has_flash_attention:  # which verl asks for; torch's own masks what is packed as well
        yield line("actor_rollout_ref.model.override_config.attn_implementation", "sdpa")


def _actor(s: Settings) -> Iterator[Line]:
    common, algorithm = s.trainer_common, s.trainer_common.algorithm
    actor = "actor_rollout_ref.actor"
    yield line(f"{actor}.strategy", "fsdp2")
    yield line(f"{actor}.fsdp_config.strategy", "fsdp2")
    yield line(f"{actor}.fsdp_config.dtype", compute_dtype(s.model), "model.dtype")
    yield line(f"{actor}.fsdp_config.mixed_precision", mixed_precision(s.model), "model.dtype")
    yield line("actor_rollout_ref.ref.fsdp_config.mixed_precision", mixed_precision(s.model))
    yield line(f"{actor}.fsdp_config.use_torch_compile", False)  # costs minutes before step 1
    yield line(f"{actor}.use_torch_compile", False)
    # Null means yes on a cluster (sections/trainer_common.py).
    is_offloaded = common.fsdp_config.param_offload is not False
    moments_offloaded = common.fsdp_config.optimizer_offload is not False
    yield line(
        f"{actor}.fsdp_config.param_offload",
        is_offloaded,
        "trainer_common.fsdp_config.param_offload",
    )
    yield line(
        f"{actor}.fsdp_config.optimizer_offload",
        moments_offloaded,
        "trainer_common.fsdp_config.optimizer_offload",
    )
    yield line("actor_rollout_ref.ref.fsdp_config.param_offload", is_offloaded)
    for part in (actor, "actor_rollout_ref.ref"):
        yield line(f"{part}.fsdp_config.seed", common.seed, "trainer_common.seed")
    yield line("actor_rollout_ref.ref.fsdp_config.dtype", compute_dtype(s.model), "model.dtype")
    yield line("actor_rollout_ref.ref.strategy", "fsdp2")
    yield line(f"{actor}.optim.lr", common.optim.lr, "trainer_common.optim.lr")
    yield line(
        f"{actor}.optim.weight_decay",
        common.optim.weight_decay,
        "trainer_common.optim.weight_decay",
    )
    yield line(
        f"{actor}.optim.lr_warmup_steps",
        common.optim.warmup_steps,
        "trainer_common.optim.warmup_steps",
    )
    yield line(f"{actor}.optim.clip_grad", common.optim.grad_clip, "trainer_common.optim.grad_clip")
    yield line(f"{actor}.grad_clip", common.optim.grad_clip, "trainer_common.optim.grad_clip")
    yield line(
        f"{actor}.ppo_mini_batch_size",
        math.ceil(s.data.train_batch_size / common.mini_batch_num),
        "data.train_batch_size",
        "trainer_common.mini_batch_num",
    )
    yield line(f"{actor}.use_dynamic_bsz", True)
    yield line(
        f"{actor}.ppo_max_token_len_per_gpu",
        common.max_token_len_per_gpu or max(FEWEST_TOKENS, s.rollout.max_model_len),
        "trainer_common.max_token_len_per_gpu",
        "rollout.max_model_len",
    )
    yield line(
        f"{actor}.ulysses_sequence_parallel_size",
        common.ulysses_sequence_parallel_size,
        "trainer_common.ulysses_sequence_parallel_size",
    )
    clip = "trainer_common.algorithm.clip_ratio"
    yield line(f"{actor}.clip_ratio", algorithm.clip_ratio_low, f"{clip}_low")
    yield line(f"{actor}.clip_ratio_low", algorithm.clip_ratio_low, f"{clip}_low")
    yield line(f"{actor}.clip_ratio_high", algorithm.clip_ratio_high, f"{clip}_high")
    yield line(f"{actor}.clip_ratio_c", _NO_DUAL_CLIP)
    yield line(
        f"{actor}.policy_loss.loss_mode",
        _LOSSES[algorithm.policy_loss],
        "trainer_common.algorithm.policy_loss",
    )
    yield line(
        f"{actor}.loss_agg_mode", algorithm.loss_agg_mode, "trainer_common.algorithm.loss_agg_mode"
    )
    if algorithm.loss_agg_mode == "seq-mean-token-sum-norm":
        yield line(f"{actor}.loss_scale_factor", s.data.max_response_length)
    yield line(f"{actor}.use_kl_loss", common.use_kl_loss, "trainer_common.use_kl_loss")
    yield line(f"{actor}.kl_loss_coef", common.kl_loss_coef, "trainer_common.kl_loss_coef")
    yield line(f"{actor}.kl_loss_type", common.kl_loss_type, "trainer_common.kl_loss_type")
    yield line(f"{actor}.data_loader_seed", common.seed, "trainer_common.seed")
    yield line(f"{actor}.checkpoint.save_contents", ["model", "optimizer", "extra", "hf_model"])
    # What is saved of the weights twice is read once.
    yield line(f"{actor}.checkpoint.load_contents", ["model", "optimizer", "extra"])


def _rollout(s: Settings, loop_file: Path) -> Iterator[Line]:
    rollout = "actor_rollout_ref.rollout"
    name = "vllm" if s.rollout.name == "auto" else s.rollout.name
    yield line(f"{rollout}.name", name, "rollout.name")
    yield line(f"{rollout}.n", s.rollout.num_repeat, "rollout.num_repeat")
    yield line(f"{rollout}.temperature", s.rollout.temperature, "rollout.temperature")
    yield line(f"{rollout}.top_p", s.rollout.top_p, "rollout.top_p")
    yield line(f"{rollout}.seed", s.rollout.seed, "rollout.seed")
    yield line(f"{rollout}.dtype", compute_dtype(s.model), "model.dtype")
    yield line(f"{rollout}.max_model_len", s.rollout.max_model_len, "rollout.max_model_len")
    # A prompt must fit into one pass.
    yield line(
        f"{rollout}.max_num_batched_tokens",
        max(8192, s.rollout.max_model_len),
        "rollout.max_model_len",
    )
    yield line(f"{rollout}.max_num_seqs", s.rollout.max_num_seqs, "rollout.max_num_seqs")
    yield line(
        f"{rollout}.gpu_memory_utilization",
        s.rollout.gpu_memory_utilization,
        "rollout.gpu_memory_utilization",
    )
    yield line(
        f"{rollout}.tensor_model_parallel_size",
        s.rollout.tensor_model_parallel_size,
        "rollout.tensor_model_parallel_size",
    )
    yield line(f"{rollout}.calculate_log_probs", True)
    yield line(f"{rollout}.log_prob_use_dynamic_bsz", True)
    yield line(f"{rollout}.agent.agent_loop_config_path", str(loop_file))
    yield line(f"{rollout}.agent.default_agent_loop", "astuner_episode")
    workers = max(
        s.trainer_common.nnodes, math.ceil(s.rollout.max_env_worker / _EPISODES_OF_A_WORKER)
    )
    sources = ("rollout.max_env_worker", "trainer_common.nnodes")
    yield line(f"{rollout}.agent.num_workers", workers, *sources)
    validation = s.rollout.val_kwargs
    temperature = validation.temperature if validation.do_sample else 0.0
    sources = ("rollout.val_kwargs.temperature", "rollout.val_kwargs.do_sample")
    yield line(f"{rollout}.val_kwargs.temperature", temperature, *sources)
    yield line(f"{rollout}.val_kwargs.do_sample", validation.do_sample, sources[1])
    yield line(f"{rollout}.val_kwargs.top_p", validation.top_p, "rollout.val_kwargs.top_p")
    yield line(f"{rollout}.val_kwargs.top_k", validation.top_k, "rollout.val_kwargs.top_k")
    yield line(f"{rollout}.val_kwargs.n", validation.num_repeat, "rollout.val_kwargs.num_repeat")


def _algorithm(s: Settings) -> Iterator[Line]:
    algorithm = s.trainer_common.algorithm
    # verl's own estimate is computed and then replaced by ours (trainer.py).
    yield line("algorithm.adv_estimator", "grpo")
    yield line("algorithm.use_kl_in_reward", False)
    if algorithm.rollout_importance_weight is not None:
        bound = algorithm.rollout_importance_bound
        key = "trainer_common.algorithm.rollout_importance"
        # As one number, a bound; as two, tokens outside are masked.
        is_masked = algorithm.rollout_importance_weight == "masked"
        threshold = f"{1 / bound}_{bound}" if is_masked else bound
        yield line("algorithm.rollout_correction.rollout_is", "token", f"{key}_weight")
        yield line(
            "algorithm.rollout_correction.rollout_is_threshold",
            threshold,
            f"{key}_bound",
            f"{key}_weight",
        )


def _trainer(
    s: Settings, checkpoint_dir: Path, has_validation: bool, is_resumed: bool
) -> Iterator[Line]:
    common = s.trainer_common
    yield line("trainer.use_v1", True)
    yield line("trainer.v1.trainer_mode", TRAINER_NAME)
    sampler = "trainer.v1.sampler.custom_sampler"
    yield line(f"{sampler}.path", "pkg://astuner.backbone.verl.buffer")
    yield line(f"{sampler}.name", "EpisodeBuffer")
    yield line("reward.num_workers", 0)  # judges run with the episodes
    yield line("transfer_queue.backend.SimpleStorage.num_data_storage_units", common.nnodes)
    yield line("trainer.project_name", s.project_name, "project_name")
    yield line("trainer.experiment_name", checkpoint_dir.parent.name)
    yield line("trainer.logger", ["console"])  # ours are fed by the command
    yield line("trainer.nnodes", common.nnodes, "trainer_common.nnodes")
    yield line("trainer.n_gpus_per_node", common.n_gpus_per_node, "trainer_common.n_gpus_per_node")
    yield line("trainer.total_epochs", common.total_epochs, "trainer_common.total_epochs")
    yield line(
        "trainer.total_training_steps",
        common.total_training_steps,
        "trainer_common.total_training_steps",
    )
    yield line(
        "trainer.val_before_train",
        common.val_before_train and has_validation,
        "trainer_common.val_before_train",
    )
    test_freq = common.test_freq if has_validation else -1
    yield line("trainer.test_freq", test_freq, "trainer_common.test_freq")
    yield line("trainer.save_freq", common.save_freq, "trainer_common.save_freq")
    yield line(
        "trainer.max_actor_ckpt_to_keep", common.keep_checkpoints, "trainer_common.keep_checkpoints"
    )
    yield line("trainer.default_local_dir", str(checkpoint_dir))
    yield line("trainer.resume_mode", "auto" if is_resumed else "disable")


def _check(s: Settings, has_flash_attention: bool) -> None:
    """Raise ConfigError for what a setting asks of verl in vain, with what does it."""
    algorithm = s.trainer_common.algorithm
    problems = []
    if s.trainer_common.ulysses_sequence_parallel_size > 1 and not has_flash_attention:
        problems.append(NEEDS_FLASH_ATTENTION)
    if s.gateway.port:
        problems.append(NEEDS_FREE_PORT)
    if algorithm.policy_loss not in _LOSSES:
        problems.append(
            f"trainer_common.algorithm.policy_loss: {algorithm.policy_loss} is computed by the "
            f"backbone local only; on verl use one of {', '.join(_LOSSES)}"
        )
    if s.trainer_common.use_kl_loss and s.trainer_common.reference != START:
        problems.append(
            "trainer_common.reference: verl measures from the model that the run starts from; "
            f"leave it at {START}, or tune on the backbone local"
        )
    if algorithm.use_kl_in_reward:
        problems.append(
            "trainer_common.algorithm.use_kl_in_reward: rewards are compared before verl knows "
            "the divergence; use trainer_common.use_kl_loss"
        )
    if s.model.lora.rank is not None:
        problems.append(
            "model.lora.rank: adapters are trained by the backbone local only; leave it at null "
            "to train all weights"
        )
    if s.rollout.name == "transformers":
        problems.append(
            "rollout.name: transformers is the engine of the backbone local; verl takes vllm or "
            "sglang"
        )
    if problems:
        raise ConfigError("backbone verl: " + "\n  ".join(problems))
