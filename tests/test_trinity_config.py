"""From our settings to Trinity's: each line, the user's own section over it, what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from astuner.backbone.cluster.mapping import nested
from astuner.backbone.trinity.config import TrinityFacts, num_runners, trinity_settings, update_size
from astuner.backbone.validation import is_validation_due
from astuner.config.load import load_mapping
from astuner.config.source import flatten
from astuner.config.usage import unused_keys
from astuner.errors import ConfigError

PLACE = TrinityFacts(
    model="some/model",
    checkpoint_dir=Path("/shared/sums/start"),
    namespace="astuner-sums-start",
    num_steps=25,
    num_validation_tasks=7,
    is_resumed=False,
    has_flash_attention=True,
)


def load(changed, own=None):
    """`changed` are our settings by dotted key, `own` is the section `trinity`."""
    needed = {
        "backbone": "trinity",
        "model.path": "some/model",
        "rollout.agentscope_workflow": "a->B",
    }
    content = {"astuner": nested(needed | dict(changed)), "trinity": own or {}}
    loaded = load_mapping(content, name="test")
    common = loaded.settings.trainer_common
    if common.n_gpus_per_node is None:  # all of this machine, of which the mapping knows nothing
        common = common.model_copy(update={"n_gpus_per_node": 8})
    settings = loaded.settings.model_copy(update={"trainer_common": common})
    return replace(loaded, settings=settings)


def trinity(changed=None, own=None, *, place=PLACE):
    """Trinity's settings by dotted key."""
    loaded = load(changed or {}, own)
    made = trinity_settings(
        loaded.settings, place, own=loaded.config.trinity, explicit=loaded.explicit_keys
    )
    return flatten(made)


COMMON, MODEL = "trainer_common", "explorer.rollout_model"
LOSS = "algorithm.policy_loss_fn_args"
VERL = "trainer.trainer_config"


@pytest.mark.parametrize(
    ("ours", "value", "theirs", "expected"),
    [
        (f"{COMMON}.n_gpus_per_node", 1, "mode", "colocate"),
        (f"{COMMON}.n_gpus_per_node", 2, "mode", "both"),
        (f"{COMMON}.use_kl_loss", True, "algorithm.algorithm_type", "grpo"),
        (f"{COMMON}.use_kl_loss", False, "algorithm.algorithm_type", "dapo"),
        (f"{COMMON}.use_kl_loss", False, "algorithm.kl_loss_fn", "none"),
        (f"{COMMON}.kl_loss_type", "k1", "algorithm.kl_loss_fn", "k1"),
        (f"{COMMON}.kl_loss_coef", 0.01, "algorithm.kl_loss_fn_args.kl_coef", 0.01),
        ("rollout.num_repeat", 6, "algorithm.repeat_times", 6),
        ("rollout.num_repeat", 6, "algorithm.advantage_fn_args.multiple_of", 196),
        (f"{COMMON}.algorithm.policy_loss", "ppo_clip", "algorithm.policy_loss_fn", "ppo"),
        (f"{COMMON}.algorithm.policy_loss", "gspo", "algorithm.policy_loss_fn", "gspo"),
        (f"{COMMON}.algorithm.policy_loss", "cispo", "algorithm.policy_loss_fn", "cispo"),
        (f"{COMMON}.algorithm.clip_ratio_low", 0.1, f"{LOSS}.clip_range_low", 0.1),
        (f"{COMMON}.algorithm.clip_ratio_high", 0.3, f"{LOSS}.clip_range_high", 0.3),
        (
            f"{COMMON}.algorithm.loss_agg_mode",
            "seq-mean-token-mean",
            "algorithm.loss_agg_mode",
            "seq-mean-token-mean",
        ),
        (f"{COMMON}.optim.lr", 3e-5, "algorithm.optimizer.lr", 3e-5),
        (f"{COMMON}.optim.weight_decay", 0.2, "algorithm.optimizer.weight_decay", 0.2),
        (f"{COMMON}.optim.warmup_steps", 4, "algorithm.optimizer.lr_warmup_steps", 4),
        (f"{COMMON}.optim.grad_clip", 0.5, "algorithm.optimizer.clip_grad", 0.5),
        (f"{COMMON}.optim.grad_clip", 0.5, "trainer.grad_clip", 0.5),
        ("rollout.max_model_len", 20000, "model.max_model_len", 20000),
        ("rollout.temperature", 0.7, "model.temperature", 0.7),
        (f"{COMMON}.nnodes", 4, "cluster.node_num", 4),
        (f"{COMMON}.n_gpus_per_node", 2, "cluster.gpu_per_node", 2),
        ("data.train_batch_size", 48, "buffer.batch_size", 48),
        ("data.train_batch_size", 49, "buffer.train_batch_size", 196),
        (f"{COMMON}.mini_batch_num", 4, "buffer.train_batch_size", 35),
        ("rollout.multi_turn.expected_steps", 3, "buffer.train_batch_size", 385),
        (f"{COMMON}.total_epochs", 3, "buffer.total_epochs", 3),
        ("rollout.val_kwargs.num_repeat", 3, "buffer.explorer_input.eval_tasksets", 3),
        ("rollout.max_env_worker", 16, "explorer.runner_per_model", 4),
        ("rollout.max_env_worker", 10_000, "explorer.runner_per_model", 32),
        ("rollout.episode_timeout_seconds", 100, "explorer.max_timeout", 660),
        (f"{COMMON}.test_freq", 5, "explorer.eval_interval", 5),
        (f"{COMMON}.val_before_train", True, "explorer.eval_on_startup", True),
        (f"{COMMON}.trinity_only__n_vllm_engine", 2, f"{MODEL}.engine_num", 2),
        ("rollout.tensor_model_parallel_size", 2, f"{MODEL}.tensor_parallel_size", 2),
        ("rollout.gpu_memory_utilization", 0.6, f"{MODEL}.gpu_memory_utilization", 0.6),
        ("rollout.seed", 3, f"{MODEL}.seed", 3),
        ("rollout.max_num_seqs", 40, f"{MODEL}.extra_engine_args.max_num_seqs", 40),
        ("model.dtype", "float32", f"{MODEL}.dtype", "float32"),
        ("model.dtype", "auto", f"{VERL}.actor.fsdp_config.dtype", "bfloat16"),
        ("model.dtype", "float32", f"{VERL}.ref.fsdp_config.mixed_precision.param_dtype", "fp32"),
        (f"{COMMON}.save_freq", 5, "trainer.save_interval", 5),
        (f"{COMMON}.keep_checkpoints", 2, "trainer.max_checkpoints_to_keep", 3),
        (f"{COMMON}.keep_checkpoints", None, "trainer.max_checkpoints_to_keep", 0),
        (f"{COMMON}.max_token_len_per_gpu", 4096, "trainer.max_token_len_per_gpu", 4096),
        ("rollout.max_model_len", 20000, "trainer.max_token_len_per_gpu", 20000),
        (
            f"{COMMON}.ulysses_sequence_parallel_size",
            2,
            "trainer.ulysses_sequence_parallel_size",
            2,
        ),
        (f"{COMMON}.fsdp_config.param_offload", None, "trainer.param_offload", True),
        (f"{COMMON}.fsdp_config.optimizer_offload", False, "trainer.optimizer_offload", False),
        (
            f"{COMMON}.enable_gradient_checkpointing",
            True,
            f"{VERL}.model.enable_gradient_checkpointing",
            True,
        ),
    ],
)
def test_each_setting_reaches_trinity(ours, value, theirs, expected):
    found = trinity({ours: value})[theirs]
    assert (found[0]["repeat_times"] if isinstance(found, list) else found) == expected


def test_the_run_s_own_parts_are_named_by_their_paths_and_can_be_found():
    made = trinity()
    named = [
        made["algorithm.advantage_fn"],
        made["algorithm.sample_strategy"],
        made["monitor.monitor_type"],
        made["buffer.explorer_input.taskset.storage_type"],
        made["buffer.explorer_input.taskset.default_workflow_type"],
    ]
    source = Path(__file__).parent.parent
    for path in named:
        module, _, name = path.rpartition(".")
        text = source.joinpath(*module.split(".")).with_suffix(".py").read_text()
        assert f"class {name}(" in text


def test_the_checkpoints_lie_where_the_run_says():
    made = trinity()
    folder = Path(made["checkpoint_root_dir"]) / made["project"] / made["name"]
    assert folder == PLACE.checkpoint_dir
    assert made["ray_namespace"] == PLACE.namespace
    assert made["continue_from_checkpoint"] is False
    assert trinity(place=replace(PLACE, is_resumed=True))["continue_from_checkpoint"] is True


def test_the_explorer_and_the_trainer_end_with_the_same_step():
    made = trinity()
    assert (made["buffer.total_steps"], made["trainer.total_steps"]) == (25, 25)


def test_without_validation_tasks_nothing_is_validated():
    place = replace(PLACE, num_validation_tasks=0)
    made = trinity({f"{COMMON}.val_before_train": True}, place=place)
    assert made["buffer.explorer_input.eval_tasksets"] == []
    assert made["explorer.eval_on_startup"] is False


def test_an_episode_that_failed_is_not_tried_again():
    assert trinity()["explorer.max_retry_times"] == 0


def test_neither_part_nor_engine_of_the_trainer_is_compiled():
    made = trinity()
    names = ("use_torch_compile", "fsdp_config.use_torch_compile")
    assert not any(made[f"{VERL}.{part}.{name}"] for part in ("actor", "ref") for name in names)


def test_without_flash_attention_torch_attends():
    made = trinity(place=replace(PLACE, has_flash_attention=False))
    assert made[f"{VERL}.model.override_config.attn_implementation"] == "sdpa"
    assert f"{VERL}.model.override_config.attn_implementation" not in trinity()


def test_sequences_are_not_split_over_gpus_without_flash_attention():
    with pytest.raises(ConfigError, match="install it"):
        trinity(
            {f"{COMMON}.ulysses_sequence_parallel_size": 2},
            place=replace(PLACE, has_flash_attention=False),
        )


@pytest.mark.parametrize("num_repeat", [2, 3, 5, 8])
@pytest.mark.parametrize("num_gpus", [1, 2, 3, 8])
def test_an_update_divides_among_the_gpus_that_train(num_repeat, num_gpus):
    changed = {
        "data.train_batch_size": 3,
        "rollout.num_repeat": num_repeat,
        f"{COMMON}.n_gpus_per_node": num_gpus,
    }
    settings = load(changed).settings
    num_training = max(1, num_gpus - 1)
    assert update_size(settings) % num_training == 0
    assert update_size(settings) - 3 * num_repeat in range(num_training)


def test_all_processes_together_run_as_many_episodes_as_asked():
    changed = {
        "rollout.max_env_worker": 64,
        "rollout.num_repeat": 4,
        f"{COMMON}.trinity_only__n_vllm_engine": 2,
    }
    settings = load(changed).settings
    assert 2 * num_runners(settings) * 4 == 64


def test_what_the_user_writes_for_trinity_is_passed_on():
    own = {
        "synchronizer": {"sync_offset": 1, "sync_method": "nccl"},
        "trainer": {"max_token_len_per_gpu": 999},
        "explorer": {"rollout_model": {"enforce_eager": True}},
        "buffer": {"explorer_input": {"taskset": {"name": "mine"}}},
    }
    made = trinity({}, own)
    assert made["synchronizer.sync_offset"] == 1
    assert made["synchronizer.sync_method"] == "nccl"
    assert made["trainer.max_token_len_per_gpu"] == 999
    assert made[f"{MODEL}.enforce_eager"] is True
    assert made[f"{MODEL}.engine_type"] == "vllm"
    assert made["buffer.explorer_input.taskset.name"] == "mine"
    assert made["buffer.explorer_input.taskset.path"] == "train"


def test_two_written_settings_that_say_different_things_are_refused_with_both_names():
    with pytest.raises(ConfigError) as caught:
        trinity({f"{COMMON}.test_freq": 2}, {"explorer": {"eval_interval": 3}})
    text = str(caught.value)
    assert "trinity.explorer.eval_interval is 3" in text
    assert "astuner.trainer_common.test_freq makes it 2" in text


@pytest.mark.parametrize(
    ("ours", "value", "found"),
    [
        (f"{COMMON}.algorithm.policy_loss", "reinforce", "policy_loss: reinforce"),
        (f"{COMMON}.algorithm.use_kl_in_reward", True, "use trainer_common.use_kl_loss"),
        ("rollout.name", "transformers", "use vllm"),
        ("rollout.name", "sglang", "use vllm"),
        ("model.lora.rank", 8, "model.lora.rank"),
        ("gateway.port", 8080, "gateway.port: every process"),
        (f"{COMMON}.reference", "some/model", "trainer_common.reference: trinity measures"),
        (f"{COMMON}.trinity_only__n_vllm_engine", 8, "leaves none to train on"),
    ],
)
def test_what_trinity_cannot_do_is_refused(ours, value, found):
    with pytest.raises(ConfigError, match=found):
        trinity({ours: value})


def test_an_explorer_or_a_trainer_alone_is_refused_with_what_there_is_instead():
    with pytest.raises(ConfigError, match="fully_async"):
        trinity({}, {"mode": "explore"})


def test_what_has_no_counterpart_is_named_at_start():
    changed = {
        "model.device": "cpu",
        f"{COMMON}.algorithm.rollout_importance_bound": 3.0,
        f"{COMMON}.save_freq": 3,
    }
    loaded = load(changed, {"synchronizer": {"sync_offset": 1}})
    assert unused_keys(loaded.explicit_keys, loaded.settings) == (
        "astuner.model.device",
        "astuner.trainer_common.algorithm.rollout_importance_bound",
    )


@pytest.mark.parametrize(
    ("before", "version", "is_due"),
    [
        (-1, 0, False),  # val_before_train decides
        (-1, 4, False),  # resumed there
        (0, 1, False),
        (1, 2, True),
        (2, 2, False),  # nothing new came
        (1, 3, True),  # two at once
        (3, 7, True),
    ],
)
def test_new_weights_are_validated_once_the_interval_is_passed(before, version, is_due):
    assert is_validation_due(before, version, 2) is is_due
