"""From our settings to verl's: each line, the user's own section over it, and what is refused."""

from pathlib import Path

import pytest

from astuner.backbone.cluster.mapping import line, merge, nested
from astuner.backbone.verl.config import verl_settings
from astuner.config.load import load_mapping
from astuner.config.source import flatten
from astuner.config.usage import describe_unused
from astuner.errors import ConfigError


def verl(own=None, has_flash_attention=True, **changed):
    """verl's settings by dotted key; `changed` are ours, with `__` for a dot."""
    settings = {key.replace("__", "."): value for key, value in changed.items()}
    needed = {"model.path": "some/model", "rollout.agentscope_workflow": "a->B"}
    content = {"astuner": nested(needed | settings), "verl": own or {}}
    loaded = load_mapping(content, name="test")
    return verl_settings(
        loaded.settings,
        own=loaded.config.verl,
        explicit=loaded.explicit_keys,
        model="some/model",
        checkpoint_dir=Path("/shared/run/start"),
        loop_file=Path("/loop.yaml"),
        has_validation=True,
        has_flash_attention=has_flash_attention,
        is_resumed=False,
    )


ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
COMMON = "trainer_common"


@pytest.mark.parametrize(
    ("ours", "value", "theirs", "expected"),
    [
        ("data.train_batch_size", 48, "data.train_batch_size", 48),
        ("data.max_prompt_length", 77, "data.max_prompt_length", 77),
        ("data.max_response_length", 99, "data.max_response_length", 99),
        (f"{COMMON}.seed", 5, "data.seed", 5),
        (f"{COMMON}.seed", 5, f"{ACTOR}.data_loader_seed", 5),
        (f"{COMMON}.seed", 5, f"{ACTOR}.fsdp_config.seed", 5),
        (f"{COMMON}.algorithm.dynamic_sampling_max_batches", 3, "data.gen_batch_size", 1),
        (
            f"{COMMON}.enable_gradient_checkpointing",
            True,
            "actor_rollout_ref.model.enable_gradient_checkpointing",
            True,
        ),
        ("model.dtype", "float32", f"{ROLLOUT}.dtype", "float32"),
        ("model.dtype", "auto", f"{ROLLOUT}.dtype", "bfloat16"),
        (
            "model.dtype",
            "float32",
            f"{ACTOR}.fsdp_config.mixed_precision",
            {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
        ),
        (f"{COMMON}.fsdp_config.param_offload", None, f"{ACTOR}.fsdp_config.param_offload", True),
        (f"{COMMON}.fsdp_config.param_offload", False, f"{ACTOR}.fsdp_config.param_offload", False),
        (
            f"{COMMON}.fsdp_config.optimizer_offload",
            False,
            f"{ACTOR}.fsdp_config.optimizer_offload",
            False,
        ),
        (f"{COMMON}.optim.lr", 3e-5, f"{ACTOR}.optim.lr", 3e-5),
        (f"{COMMON}.optim.weight_decay", 0.2, f"{ACTOR}.optim.weight_decay", 0.2),
        (f"{COMMON}.optim.warmup_steps", 4, f"{ACTOR}.optim.lr_warmup_steps", 4),
        (f"{COMMON}.optim.grad_clip", 0.5, f"{ACTOR}.optim.clip_grad", 0.5),
        (f"{COMMON}.optim.grad_clip", 0.5, f"{ACTOR}.grad_clip", 0.5),
        (f"{COMMON}.mini_batch_num", 4, f"{ACTOR}.ppo_mini_batch_size", 8),
        (f"{COMMON}.max_token_len_per_gpu", 4096, f"{ACTOR}.ppo_max_token_len_per_gpu", 4096),
        ("rollout.max_model_len", 20000, f"{ACTOR}.ppo_max_token_len_per_gpu", 20000),
        ("rollout.max_model_len", 20000, f"{ROLLOUT}.max_model_len", 20000),
        ("rollout.max_model_len", 20000, f"{ROLLOUT}.max_num_batched_tokens", 20000),
        (
            f"{COMMON}.ulysses_sequence_parallel_size",
            2,
            f"{ACTOR}.ulysses_sequence_parallel_size",
            2,
        ),
        (f"{COMMON}.algorithm.clip_ratio_low", 0.1, f"{ACTOR}.clip_ratio_low", 0.1),
        (f"{COMMON}.algorithm.clip_ratio_high", 0.3, f"{ACTOR}.clip_ratio_high", 0.3),
        (
            f"{COMMON}.algorithm.policy_loss",
            "ppo_clip",
            f"{ACTOR}.policy_loss.loss_mode",
            "vanilla",
        ),
        (f"{COMMON}.algorithm.policy_loss", "gspo", f"{ACTOR}.policy_loss.loss_mode", "gspo"),
        (
            f"{COMMON}.algorithm.loss_agg_mode",
            "seq-mean-token-sum-norm",
            f"{ACTOR}.loss_scale_factor",
            15000,
        ),
        (f"{COMMON}.use_kl_loss", False, f"{ACTOR}.use_kl_loss", False),
        (f"{COMMON}.kl_loss_coef", 0.01, f"{ACTOR}.kl_loss_coef", 0.01),
        (f"{COMMON}.kl_loss_type", "k1", f"{ACTOR}.kl_loss_type", "k1"),
        ("rollout.name", "auto", f"{ROLLOUT}.name", "vllm"),
        ("rollout.name", "sglang", f"{ROLLOUT}.name", "sglang"),
        ("rollout.num_repeat", 6, f"{ROLLOUT}.n", 6),
        ("rollout.temperature", 0.7, f"{ROLLOUT}.temperature", 0.7),
        ("rollout.top_p", 1.0, f"{ROLLOUT}.top_p", 1.0),
        ("rollout.seed", 3, f"{ROLLOUT}.seed", 3),
        ("rollout.max_num_seqs", 40, f"{ROLLOUT}.max_num_seqs", 40),
        ("rollout.gpu_memory_utilization", 0.6, f"{ROLLOUT}.gpu_memory_utilization", 0.6),
        ("rollout.tensor_model_parallel_size", 2, f"{ROLLOUT}.tensor_model_parallel_size", 2),
        ("rollout.max_env_worker", 100, f"{ROLLOUT}.agent.num_workers", 4),
        ("rollout.val_kwargs.num_repeat", 3, f"{ROLLOUT}.val_kwargs.n", 3),
        ("rollout.val_kwargs.top_p", 0.5, f"{ROLLOUT}.val_kwargs.top_p", 0.5),
        ("rollout.val_kwargs.top_k", 9, f"{ROLLOUT}.val_kwargs.top_k", 9),
        (
            f"{COMMON}.algorithm.rollout_importance_weight",
            "truncated",
            "algorithm.rollout_correction.rollout_is_threshold",
            2.0,
        ),
        (
            f"{COMMON}.algorithm.rollout_importance_weight",
            "masked",
            "algorithm.rollout_correction.rollout_is_threshold",
            "0.5_2.0",
        ),
        (f"{COMMON}.nnodes", 4, "trainer.nnodes", 4),
        (
            f"{COMMON}.nnodes",
            4,
            "transfer_queue.backend.SimpleStorage.num_data_storage_units",
            4,
        ),
        (f"{COMMON}.n_gpus_per_node", 2, "trainer.n_gpus_per_node", 2),
        (f"{COMMON}.total_epochs", 7, "trainer.total_epochs", 7),
        (f"{COMMON}.total_training_steps", 25, "trainer.total_training_steps", 25),
        (f"{COMMON}.val_before_train", True, "trainer.val_before_train", True),
        (f"{COMMON}.test_freq", 5, "trainer.test_freq", 5),
        (f"{COMMON}.save_freq", 5, "trainer.save_freq", 5),
        (f"{COMMON}.keep_checkpoints", 2, "trainer.max_actor_ckpt_to_keep", 2),
        ("project_name", "sums", "trainer.project_name", "sums"),
    ],
)
def test_each_setting_reaches_verl(ours, value, theirs, expected):
    assert verl(**{ours: value})[theirs] == expected


def test_a_greedy_validation_has_temperature_zero():
    sampled = {"rollout.val_kwargs.do_sample": True, "rollout.val_kwargs.temperature": 0.6}
    assert verl()[f"{ROLLOUT}.val_kwargs.temperature"] == 0.0
    assert verl(**sampled)[f"{ROLLOUT}.val_kwargs.temperature"] == 0.6


def test_what_the_user_writes_for_verl_wins_over_what_stands_for_a_default():
    made = verl({"actor_rollout_ref": {"rollout": {"name": "own", "enforce_eager": True}}})
    assert made[f"{ROLLOUT}.name"] == "own"
    assert made[f"{ROLLOUT}.enforce_eager"] is True
    assert made[f"{ROLLOUT}.n"] == 4


def test_two_written_settings_that_say_different_things_are_refused_with_both_names():
    with pytest.raises(ConfigError) as caught:
        verl({"data": {"train_batch_size": 8}, "trainer": {"nnodes": 2}}, data__train_batch_size=6)
    text = str(caught.value)
    assert "verl.data.train_batch_size is 8" in text
    assert "astuner.data.train_batch_size makes it 6" in text
    assert "nnodes" not in text


def test_two_written_settings_that_agree_are_fine():
    assert verl({"data": {"train_batch_size": 6}}, data__train_batch_size=6)


def test_without_flash_attention_torch_attends_and_no_sequence_is_split_over_gpus():
    attention = "actor_rollout_ref.model.override_config.attn_implementation"
    assert verl(has_flash_attention=False)[attention] == "sdpa"
    assert attention not in verl()
    split = {f"{COMMON}.ulysses_sequence_parallel_size": 2}
    assert verl(**split)
    with pytest.raises(ConfigError, match="install it"):
        verl(has_flash_attention=False, **split)


@pytest.mark.parametrize(
    ("ours", "value", "found"),
    [
        ("trainer_common.algorithm.policy_loss", "reinforce", "policy_loss: reinforce"),
        ("trainer_common.algorithm.policy_loss", "my.module->loss", "my.module->loss"),
        ("trainer_common.algorithm.use_kl_in_reward", True, "use trainer_common.use_kl_loss"),
        ("rollout.name", "transformers", "vllm or sglang"),
        ("model.lora.rank", 8, "trained by the backbone local only"),
        ("gateway.port", 8080, "gateway.port: every process"),
        ("trainer_common.reference", "some/model", "trainer_common.reference: verl measures"),
    ],
)
def test_what_verl_cannot_do_is_refused(ours, value, found):
    with pytest.raises(ConfigError, match=found):
        verl(**{ours: value})


def test_what_verl_has_no_counterpart_for_is_named_at_start():
    without = {
        "backbone": "verl",
        "model.path": "some/model",
        "model.device": "cpu",
        "rollout.agentscope_workflow": "a->B",
        "rollout.settle_seconds": 1.0,
        "rollout.num_repeat": 8,
    }
    loaded = load_mapping({"astuner": nested(without)}, name="test")
    (said,) = describe_unused(loaded.explicit_keys, loaded.settings)
    assert said == (
        "not used by backbone verl: astuner.model.device, astuner.rollout.settle_seconds"
    )


def test_a_section_under_a_line_of_ours_stands_in_for_it():
    ours = [line("a.b", {"c": 1}), line("a.d", 2)]
    explicit = frozenset({"verl.a.b.c"})
    assert merge(ours, {"a": {"b": {"c": 5}}}, section="verl", explicit=explicit) == {
        "a.b.c": 5,
        "a.d": 2,
    }


def test_sections_and_dotted_keys_are_the_same():
    flat = {"a.b.c": 1, "a.d": [2], "e": None}
    assert flatten(nested(flat)) == flat
