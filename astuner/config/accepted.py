"""Settings of other releases that do nothing here, and what became of each.

A file that sets one loads as before, and `run.config` keeps the value that it wrote; the typed
settings do not have them.
"""

from collections.abc import Mapping
from typing import Any

_DEBUG_SERVER = "debug starts no server: it loads model.path itself or asks debug.openai_base_url"
_OVERSAMPLING = (
    "no episodes are started in excess; "
    "trainer_common.algorithm.dynamic_sampling_max_batches replaces groups without spread"
)
_TOOL_FORMAT = "wrong_toolcall in rollout.compute_madness_checklist finds broken tool calls"
_TRACKER_MODEL = "the model that judges ask is task_judge.alien_llm_model"
_GATEWAY = "the gateway serves agents over HTTP whenever a workflow asks; see the section gateway"
_OWN_TESTS = "it was for that release's own tests"
_RUBRICS = "later releases of the grader do without"

ACCEPTED: Mapping[str, str] = {
    "astuner.rollout.mode": "engines are always driven asynchronously",
    "astuner.rollout.enable_oversample": _OVERSAMPLING,
    "astuner.rollout.submit_oversample_multiplier": _OVERSAMPLING,
    "astuner.rollout.step_skip_action": "no step of an episode is skipped",
    "astuner.task_judge.rubrics_auto_grader.sampling_mode": _RUBRICS,
    "astuner.task_judge.rubrics_auto_grader.generate_number": _RUBRICS,
    "astuner.task_judge.rubrics_auto_grader.aggregation_mode": _RUBRICS,
    "astuner.task_judge.rubrics_auto_grader.num_reference_samples": _RUBRICS,
    "astuner.debug.debug_vllm_port": _DEBUG_SERVER,
    "astuner.debug.debug_vllm_seed": _DEBUG_SERVER,
    "astuner.debug.debug_tensor_parallel_size": _DEBUG_SERVER,
    "astuner.trainer_common.val_pass_n": "rollout.val_kwargs.num_repeat episodes validate a task",
    "astuner.trainer_common.algorithm.task_norm_patch": (
        "an episode counts once in its group, however many samples it gives"
    ),
    "astuner.trainer_common.save_trajectory_as_json_file": (
        "every episode is written to the run directory"
    ),
    "astuner.context_tracker.fix_retokenization_drift": "sampled text is never tokenized again",
    "astuner.context_tracker.log_tool_format_check": _TOOL_FORMAT,
    "astuner.context_tracker.log_tool_format_error_detail": _TOOL_FORMAT,
    "astuner.context_tracker.context_tracker_type": "one recorder serves one agent and several",
    "astuner.context_tracker.max_env_len": "what an environment says is never cut",
    "astuner.context_tracker.alien_llm_model": _TRACKER_MODEL,
    "astuner.context_tracker.alien_llm_response_length": _TRACKER_MODEL,
    "astuner.enable_experimental_interchange_server": _GATEWAY,
    "astuner.interchange_server.*": _GATEWAY,
    "astuner.task_runner.*": "rollout.max_env_worker bounds the episodes at once, and "
    "rollout.num_workers says in how many processes",
    "astuner.execute_test": _OWN_TESTS,
    "astuner.execute_testing_lambda": _OWN_TESTS,
}
"""Key -> what became of it; `*` stands for every key of a section."""

ACCEPTED_SECTIONS = tuple(key.removesuffix(".*") for key in ACCEPTED if key.endswith(".*"))


def what_became_of(key: str) -> str | None:
    """What ACCEPTED says about `key` or a section around it; None for any other key."""
    for accepted, fate in ACCEPTED.items():
        name = accepted.removesuffix(".*")
        if key == name or key.startswith(f"{name}."):
            return fate
    return None


def without_accepted(section: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """A copy of the section called `prefix`, and of those in it, without the accepted keys."""
    return {
        name: without_accepted(value, f"{prefix}.{name}") if isinstance(value, dict) else value
        for name, value in section.items()
        if what_became_of(f"{prefix}.{name}") is None
    }
