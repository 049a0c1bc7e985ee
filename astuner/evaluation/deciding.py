"""Which settings decide what an episode is worth: they must agree where two are compared."""

from collections.abc import Mapping
from typing import Any

from astuner.config.source import flatten

_DECIDING = (
    "rollout.agentscope_workflow",
    "rollout.trainable_targets",
    "rollout.untrained_model.model",
    "rollout.untrained_model.base_url",
    "rollout.agentscope_disable_toolcalls",
    "rollout.episode_timeout_seconds",
    "rollout.max_model_len",
    "rollout.max_response_length_in_one_turn",
    "rollout.chat_template_kwargs",
    "rollout.multi_turn",
    "rollout.compute_madness_checklist",
    "rollout.agent_madness_termination",
    "rollout.agent_madness_reward",
    "rollout.val_kwargs",
    "data.max_prompt_length",
    "data.max_response_length",
    "task_judge",
    "llm.model",
)
_NOT_DECIDING = (
    "rollout.val_kwargs.num_repeat",
    "task_judge.judge_in_process",
    "task_judge.code.num_parallel",
)
"""Parts of those that change no episode."""
_SOURCES = "task_reader.mixture.sources"
_OF_A_SOURCE = ("workflow", "judge")


def deciding_settings(shown: Mapping[str, Any]) -> dict[str, Any]:
    """Of an `astuner` section, as it may be shown, the dotted settings that decide: workflow,
    judge, sampling and limits. Those of a mixture's sources are among them."""
    flat = flatten(shown)
    return {key: value for key, value in sorted(flat.items()) if _decides(key)}


def _decides(key: str) -> bool:
    if key.startswith(f"{_SOURCES}."):
        _, _, below = key.removeprefix(f"{_SOURCES}.").partition(".")
        return below.split(".")[0] in _OF_A_SOURCE
    return _is_below(key, _DECIDING) and not _is_below(key, _NOT_DECIDING)


def _is_below(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)
