"""`astuner.trainer_common`: steps, updates, checkpoints and the machines that train."""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from astuner.config.section import Section
from astuner.config.sections.algorithm import AlgorithmSettings


class OptimSettings(Section):
    lr: PositiveFloat = Field(description="Learning rate.")
    weight_decay: NonNegativeFloat
    warmup_steps: NonNegativeInt = Field(description="Updates with a rising learning rate.")
    grad_clip: PositiveFloat = Field(description="Largest norm of the gradient.")


class DetectorSettings(Section):
    not_finite: Literal["stop", "warn", "off"] = Field(
        description="A loss, gradient or weight is not a finite number."
    )
    logprob_gap: Literal["stop", "warn", "off"] = Field(
        description="Sampler and trainer disagree by more than max_logprob_gap."
    )
    no_spread: Literal["stop", "warn", "off"] = Field(
        description="No group had two different rewards for no_spread_steps steps."
    )
    all_failed: Literal["stop", "warn", "off"] = Field(
        description="All episodes of two steps in a row failed."
    )
    entropy: Literal["stop", "warn", "off"] = Field(
        description="Answers hardly vary any more; never stops."
    )
    memory: Literal["stop", "warn", "off"] = Field(
        description="Before the model is loaded: the run is estimated to need more than is free."
    )
    no_spread_steps: PositiveInt = Field(description="See no_spread.")
    max_logprob_gap: PositiveFloat = Field(description="Nats a token, mean of a step.")


LOGGER_NAMES = ("console", "tensorboard", "wandb", "swanlab", "mlflow", "trackio")


def _known_loggers(value: str | list[str]) -> str | list[str]:
    for name in [value] if isinstance(value, str) else value:
        if name not in LOGGER_NAMES:
            raise ValueError(f"{name} is not one of {', '.join(LOGGER_NAMES)}")
    return value


class FsdpSettings(Section):
    param_offload: bool | None = Field(
        description="Keep idle weights in host memory, on local the float32 ones of the optimizer; "
        "null: on local where the run does not fit otherwise, on a cluster yes."
    )
    optimizer_offload: bool | None = Field(description="The same for the optimizer's moments.")


class TrainerSettings(Section):
    total_epochs: PositiveInt = Field(description="Passes over the training tasks.")
    total_training_steps: PositiveInt | None = Field(
        description="Stop after so many steps; null: after total_epochs."
    )
    val_before_train: bool = Field(description="Validate once before the first step.")
    test_freq: PositiveInt = Field(description="Steps between validations.")
    save_freq: PositiveInt = Field(description="Steps between checkpoints.")
    keep_checkpoints: PositiveInt | None = Field(
        description="Newest checkpoints to keep, beside the best by validation; null: all."
    )
    save_merged: bool = Field(
        description="With LoRA, write the merged model into each checkpoint too."
    )
    seed: NonNegativeInt = Field(description="Seed of the order of tasks and of new weights.")
    mini_batch_num: PositiveInt = Field(description="Updates of one step.")
    max_token_len_per_gpu: PositiveInt | None = Field(
        description="Most tokens of one training pass; null: rollout.max_model_len."
    )
    enable_gradient_checkpointing: bool = Field(
        description="Compute layers again in the backward pass: less memory, about 1.3 times the "
        "time."
    )
    algorithm: AlgorithmSettings
    optim: OptimSettings
    use_kl_loss: bool = Field(description="Add the divergence from the initial model to the loss.")
    kl_loss_coef: NonNegativeFloat
    kl_loss_type: Literal["k1", "k2", "k3", "low_var_kl"] = Field(
        description="Estimator of the divergence; low_var_kl is verl's name of k3."
    )
    detectors: DetectorSettings
    logger: Annotated[str | list[str], AfterValidator(_known_loggers)] = Field(
        description="Where metrics are shown beside the run folder: one or several of console, "
        "tensorboard, wandb, swanlab, mlflow, trackio."
    )
    nnodes: PositiveInt = Field(description="Machines of the cluster.")
    n_gpus_per_node: PositiveInt | None = Field(
        description="GPUs of each machine; null: as many as the one of the command has."
    )
    trinity_only__n_vllm_engine: PositiveInt = Field(description="Engines of Trinity-RFT.")
    ulysses_sequence_parallel_size: PositiveInt = Field(description="GPUs that share a sequence.")
    fsdp_config: FsdpSettings
    checkpoint_base_dir: str = Field(description="Folder of a clustered backbone's checkpoints.")
    phase_timeout_seconds: PositiveFloat = Field(
        description="A clustered run ends when a phase, such as loading the model or an update, "
        "gives no sign of life for so long."
    )
