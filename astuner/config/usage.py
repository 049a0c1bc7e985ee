"""Which settings a backbone does not use, so that a run can say so when it starts.

A new setting counts as used. A piece that starts to honour a setting takes its pattern out here.
"""

from collections.abc import Collection, Iterator, Mapping, Set
from fnmatch import fnmatchcase

from astuner.config.accepted import what_became_of
from astuner.config.schema import Settings

_CLUSTER = (
    "astuner.rollout.tensor_model_parallel_size",
    "astuner.rollout.multi_turn.expected_steps",
    "astuner.trainer_common.nnodes",
    "astuner.trainer_common.n_gpus_per_node",
    "astuner.trainer_common.trinity_only__n_vllm_engine",
    "astuner.trainer_common.ulysses_sequence_parallel_size",
    "astuner.trainer_common.checkpoint_base_dir",
    "astuner.trainer_common.phase_timeout_seconds",
)
_ONE_MACHINE = (
    "astuner.model.device",
    "astuner.model.use_liger",
    "astuner.rollout.settle_seconds",
    "astuner.trainer_common.save_merged",
    "astuner.trainer_common.detectors.memory",
)
"""What neither verl nor Trinity-RFT has a counterpart for."""
_DEBUG = "astuner.debug.*"
_UNUSED_WITH_SERVER = (
    "astuner.model.dtype",
    "astuner.data.max_prompt_length",
    "astuner.data.max_response_length",
    "astuner.rollout.seed",
    "astuner.rollout.top_p",
    "astuner.rollout.max_model_len",
    "astuner.rollout.max_num_seqs",
    "astuner.rollout.compute_madness_checklist",
    "astuner.context_tracker.*",
    "astuner.rollout.agent_madness_*",
)
"""What `debug` leaves to the server behind debug.openai_base_url."""

UNUSED_KEYS: Mapping[str, tuple[str, ...]] = {
    "local": (*_CLUSTER, _DEBUG, "verl.*", "trinity.*"),
    "debug": (
        *(pattern for pattern in _CLUSTER if not pattern.startswith("astuner.trainer_common.")),
        "astuner.trainer_common.*",
        "astuner.data.train_batch_size",
        "astuner.data.max_validation_tasks",
        "astuner.rollout.max_env_worker",
        "astuner.rollout.episode_timeout_seconds",
        "astuner.rollout.multi_turn.max_sample_per_task",
        "astuner.rollout.val_kwargs.*",
        "verl.*",
        "trinity.*",
    ),
    "verl": (
        _DEBUG,
        *_ONE_MACHINE,
        "astuner.rollout.multi_turn.expected_steps",
        "astuner.trainer_common.trinity_only__n_vllm_engine",
        "trinity.*",
    ),
    "trinity": (
        _DEBUG,
        *_ONE_MACHINE,
        "astuner.trainer_common.algorithm.dynamic_sampling_max_batches",
        "astuner.trainer_common.algorithm.rollout_importance_*",
        "astuner.trainer_common.detectors.logprob_gap",
        "astuner.trainer_common.detectors.max_logprob_gap",
        "verl.*",
    ),
}
"""Backbone -> patterns of the keys that it does not use; `*` stands for any ending."""

_READER_SECTIONS = {
    "jsonl_dataset_file": "jsonl_dataset_file",
    "huggingface_dat_repo": "huggingface_dat_repo",
    "env_service": "env_service",
    "random_dummy": "random_dummy",
    "data_generation": "data_generation",
    "tracing": "feedback_tracing",
}


def unused_keys(explicit_keys: Collection[str], settings: Settings) -> tuple[str, ...]:
    """The keys among `explicit_keys` that the backbone does not use, in alphabetical order."""
    patterns = UNUSED_KEYS[settings.backbone]
    if settings.backbone == "debug" and settings.debug.openai_base_url is not None:
        patterns += _UNUSED_WITH_SERVER
    return tuple(k for k in sorted(explicit_keys) if any(fnmatchcase(k, p) for p in patterns))


def unselected_keys(explicit_keys: Collection[str], settings: Settings) -> tuple[str, ...]:
    """The keys among `explicit_keys` below a reader or judge that is not the chosen one."""
    prefixes = tuple(f"{section}." for section in _unselected_sections(settings))
    return tuple(k for k in sorted(explicit_keys) if k.startswith(prefixes))


def describe_unused(explicit_keys: Set[str], settings: Settings) -> tuple[str, ...]:
    """One line for each reason why settings have no effect; empty when all have one."""
    accepted = {key: fate for key in sorted(explicit_keys) if (fate := what_became_of(key))}
    keys = explicit_keys - accepted.keys()
    unused = unused_keys(keys, settings)
    unselected = tuple(k for k in unselected_keys(keys, settings) if k not in unused)
    lines = []
    if unused:
        lines.append(f"not used by backbone {settings.backbone}: {', '.join(unused)}")
    if unselected:
        lines.append(
            f"not used with task_reader.type {settings.task_reader.type} and "
            f"task_judge.judge_type {settings.task_judge.judge_type}: {', '.join(unselected)}"
        )
    for fate in dict.fromkeys(accepted.values()):
        names = ", ".join(key for key in accepted if accepted[key] == fate)
        lines.append(f"without effect: {names}: {fate}")
    return tuple(lines)


def _unselected_sections(settings: Settings) -> Iterator[str]:
    for reader_type, section in _READER_SECTIONS.items():
        if reader_type != settings.task_reader.type:
            yield f"astuner.task_reader.{section}"
    if settings.task_judge.judge_type != "rubrics_auto_grader":
        yield "astuner.task_judge.rubrics_auto_grader"
