"""`astuner.rollout`: how episodes run and how their tokens are sampled."""

from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from astuner.config.section import Section, UsedBy, setting


class MultiTurnSettings(Section):
    max_sample_per_task: PositiveInt = setting(
        UsedBy.TRAINING,
        "Most samples kept of one episode: of each agent by turns, its longest first.",
    )
    max_steps: PositiveInt = setting(
        UsedBy.ALL, "Most environment steps of one episode, which is over after them."
    )
    expected_steps: PositiveInt = setting(
        UsedBy.TRINITY, "Samples that one episode is expected to give; sizes Trinity's batch."
    )


class ValidationSamplingSettings(Section):
    temperature: NonNegativeFloat = setting(UsedBy.TRAINING, "0 is greedy.")
    top_k: int = setting(UsedBy.TRAINING, "Most likely tokens to sample from; -1: all.", ge=-1)
    top_p: float = setting(UsedBy.TRAINING, "Probability mass to sample from; 1: all.", gt=0, le=1)
    do_sample: bool = setting(UsedBy.TRAINING, "False is greedy, whatever the temperature.")
    num_repeat: PositiveInt = setting(UsedBy.TRAINING, "Episodes of one validation task.")
    chat_template_kwargs: dict[str, Any] | None = setting(
        UsedBy.TRAINING,
        "In place of rollout.chat_template_kwargs; null: the same values.",
    )


class UntrainedModelSettings(Section):
    model: str | None = setting(
        UsedBy.ALL,
        "Answers agents outside trainable_targets that have no debug_model: reference, "
        "the frozen starting weights, or a model of base_url; null: each needs a debug_model.",
    )
    base_url: str | None = setting(
        UsedBy.ALL, "OpenAI-compatible server that untrained agents may ask."
    )
    api_key_env: str = setting(UsedBy.ALL, "Environment variable that holds its key.")


class RolloutSettings(Section):
    agentscope_workflow: str | None = setting(
        UsedBy.ALL, 'The workflow class or function: "pkg.mod->Name" or "path/file.py->Name".'
    )
    trainable_targets: list[str] | None = setting(
        UsedBy.ALL,
        "Target tags of the agents that are trained, in place of the workflow's own "
        "list; null: the workflow decides, by default every agent.",
        min_length=1,
    )
    untrained_model: UntrainedModelSettings
    agentscope_disable_toolcalls: bool = setting(UsedBy.ALL, "Send no tools to the model.")
    num_repeat: PositiveInt = setting(UsedBy.ALL, "Episodes of one task, its group.")
    max_env_worker: PositiveInt = setting(UsedBy.TRAINING, "Episodes that run at the same time.")
    num_workers: NonNegativeInt = setting(
        UsedBy.LOCAL,
        "Processes in which agents run, beside the one that has the model; 0: they run in that "
        "one. On clusters the engine decides.",
    )
    episode_timeout_seconds: PositiveFloat = setting(
        UsedBy.ALL,
        "An episode that takes longer has failed, or keeps others waiting for a quarter of it; in "
        "debug, where somebody may stand at a breakpoint, only the latter, and by computing.",
    )
    lock_timeout_seconds: PositiveFloat | None = setting(
        UsedBy.ALL,
        "A run ends when code holds the interpreter lock for longer, since nothing else runs "
        "meanwhile; null: task_judge.judge_timeout_seconds, within 10 and 60.",
    )
    max_failed_fraction: float = setting(
        UsedBy.ALL, "Stop the run when more of a step's episodes failed.", ge=0, le=1
    )
    seed: NonNegativeInt = setting(UsedBy.ENGINE, "Seed of the sampling.")
    temperature: NonNegativeFloat = setting(UsedBy.ALL, "Of training episodes; 0 is greedy.")
    top_p: float = setting(UsedBy.ENGINE, "Probability mass to sample from; 1: all.", gt=0, le=1)
    gamma: float = setting(
        UsedBy.ALL,
        "Discount over the calls of an episode; below 1 with return_to_go and gigpo.",
        ge=0,
        le=1,
    )
    max_model_len: PositiveInt = setting(UsedBy.ENGINE, "Most tokens in the model's context.")
    max_response_length_in_one_turn: PositiveInt = setting(
        UsedBy.ALL, "Most new tokens of one model call."
    )
    chat_template_kwargs: dict[str, Any] = setting(
        UsedBy.ENGINE,
        "Values that the model's chat template reads beside the conversation, such as "
        "enable_thinking: false; a call may give more. What a template does not read is refused.",
    )
    max_num_seqs: PositiveInt = setting(
        UsedBy.ENGINE, "Sequences that one engine samples together."
    )
    multi_turn: MultiTurnSettings
    compute_madness_checklist: list[Literal["nonsense", "wrong_toolcall"]] = setting(
        UsedBy.ENGINE, "Checks for gibberish after each model call, by name."
    )
    agent_madness_termination: bool = setting(
        UsedBy.ENGINE, "End the episode after a failed check."
    )
    agent_madness_reward: float = setting(
        UsedBy.ENGINE, "Replaces the reward of an episode with a failed check."
    )
    val_kwargs: ValidationSamplingSettings
    name: Literal["auto", "transformers", "vllm", "sglang"] = setting(
        UsedBy.ALL, "Engine; auto: on local transformers, on clusters vllm; sglang: clusters only."
    )
    gpu_memory_utilization: float = setting(
        UsedBy.ALL, "Share of the GPU's free memory that generation may use as cache.", gt=0, lt=1
    )
    settle_seconds: NonNegativeFloat | None = setting(
        UsedBy.LOCAL | UsedBy.DEBUG,
        "Longest wait of a forward pass for episodes that are about to call, which "
        "makes runs repeatable; null: 2 on a CPU, none on a GPU.",
    )
    speculation: bool = setting(
        UsedBy.LOCAL | UsedBy.DEBUG,
        "Guess tokens from what was written before and check several in one pass, where that is "
        "measured to be faster; on a GPU. What is sampled stays the same.",
    )
    tensor_model_parallel_size: PositiveInt = setting(UsedBy.CLUSTER, "GPUs of one engine.")
