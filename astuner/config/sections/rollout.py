"""`astuner.rollout`: how episodes run and how their tokens are sampled."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from astuner.config.section import Section


class MultiTurnSettings(Section):
    max_sample_per_task: PositiveInt = Field(
        description="Most samples kept of one episode: of each agent by turns, its longest first."
    )
    max_steps: PositiveInt = Field(
        description="Most environment steps of one episode; read by workflows."
    )
    expected_steps: PositiveInt = Field(
        description="Samples that one episode is expected to give; sizes Trinity's batch."
    )


class ValidationSamplingSettings(Section):
    temperature: NonNegativeFloat = Field(description="0 is greedy.")
    top_k: int = Field(ge=-1, description="Most likely tokens to sample from; -1: all.")
    top_p: float = Field(gt=0, le=1, description="Probability mass to sample from; 1: all.")
    do_sample: bool = Field(description="False is greedy, whatever the temperature.")
    num_repeat: PositiveInt = Field(description="Episodes of one validation task.")


class UntrainedModelSettings(Section):
    model: str | None = Field(
        description="Answers agents outside trainable_targets that have no debug_model: reference, "
        "the frozen starting weights, or a model of base_url; null: each needs a debug_model."
    )
    base_url: str | None = Field(
        description="OpenAI-compatible server that untrained agents may ask."
    )
    api_key_env: str = Field(description="Environment variable that holds its key.")


class RolloutSettings(Section):
    agentscope_workflow: str | None = Field(
        description='The workflow class or function: "pkg.mod->Name" or "path/file.py->Name".'
    )
    trainable_targets: list[str] | None = Field(
        min_length=1,
        description="Target tags of the agents that are trained, in place of the workflow's own "
        "list; null: the workflow decides, by default every agent.",
    )
    untrained_model: UntrainedModelSettings
    agentscope_disable_toolcalls: bool = Field(description="Send no tools to the model.")
    num_repeat: PositiveInt = Field(description="Episodes of one task, its group.")
    max_env_worker: PositiveInt = Field(description="Episodes that run at the same time.")
    episode_timeout_seconds: PositiveFloat = Field(
        description="An episode that takes longer has failed."
    )
    max_failed_fraction: float = Field(
        ge=0, le=1, description="Stop the run when more of a step's episodes failed."
    )
    seed: NonNegativeInt = Field(description="Seed of the sampling.")
    temperature: NonNegativeFloat = Field(description="Of training episodes; 0 is greedy.")
    top_p: float = Field(gt=0, le=1, description="Probability mass to sample from; 1: all.")
    gamma: float = Field(ge=0, le=1, description="Discount over the calls of an episode; only 1.")
    max_model_len: PositiveInt = Field(description="Most tokens in the model's context.")
    max_response_length_in_one_turn: PositiveInt = Field(
        description="Most new tokens of one model call."
    )
    max_num_seqs: PositiveInt = Field(description="Sequences that one engine samples together.")
    multi_turn: MultiTurnSettings
    compute_madness_checklist: list[Literal["nonsense", "wrong_toolcall"]] = Field(
        description="Checks for gibberish after each model call, by name."
    )
    agent_madness_termination: bool = Field(description="End the episode after a failed check.")
    agent_madness_reward: float = Field(
        description="Replaces the reward of an episode with a failed check."
    )
    val_kwargs: ValidationSamplingSettings
    name: Literal["auto", "transformers", "vllm", "sglang"] = Field(
        description="Engine; auto: on local transformers, on clusters vllm; sglang: clusters only."
    )
    gpu_memory_utilization: float = Field(
        gt=0, lt=1, description="Share of the GPU's free memory that generation may use as cache."
    )
    settle_seconds: NonNegativeFloat | None = Field(
        description="Longest wait of a forward pass for episodes that are about to call, which "
        "makes runs repeatable; null: 2 on a CPU, none on a GPU."
    )
    tensor_model_parallel_size: PositiveInt = Field(description="GPUs of one engine.")
