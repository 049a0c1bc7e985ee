"""`astuner.trainer_common`: steps, updates, checkpoints and the machines that train."""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    create_model,
)

from astuner.config.section import Section, UsedBy, setting
from astuner.config.sections.algorithm import AlgorithmSettings

FEWEST_TOKENS = 2_048
"""Of a training pass whose size is left open, where they fit: with a few hundred, launching its
kernels takes longer than their work."""


class OptimSettings(Section):
    lr: PositiveFloat = setting(UsedBy.TRAINING, "Learning rate.")
    weight_decay: NonNegativeFloat = setting(UsedBy.TRAINING)
    warmup_steps: NonNegativeInt = setting(UsedBy.TRAINING, "Updates with a rising learning rate.")
    grad_clip: PositiveFloat = setting(UsedBy.TRAINING, "Largest norm of the gradient.")


class DetectorSettings(Section):
    not_finite: Literal["stop", "warn", "off"] = setting(
        UsedBy.TRAINING, "A loss, gradient or weight is not a finite number."
    )
    logprob_gap: Literal["stop", "warn", "off"] = setting(
        UsedBy.LOCAL | UsedBy.VERL, "Sampler and trainer disagree by more than max_logprob_gap."
    )
    no_spread: Literal["stop", "warn", "off"] = setting(
        UsedBy.TRAINING, "No group had two different rewards for no_spread_steps steps."
    )
    all_failed: Literal["stop", "warn", "off"] = setting(
        UsedBy.TRAINING, "All episodes of two steps in a row failed."
    )
    nothing_trained: Literal["stop", "warn", "off"] = setting(
        UsedBy.TRAINING,
        "Steps in a row end well without a trained token: two, or no_spread_steps where groups "
        "were too small.",
    )
    entropy: Literal["stop", "warn", "off"] = setting(
        UsedBy.TRAINING, "Answers hardly vary any more; never stops."
    )
    memory: Literal["stop", "warn", "off"] = setting(
        UsedBy.LOCAL, "Before the model is loaded: the run is estimated to need more than is free."
    )
    no_spread_steps: PositiveInt = setting(UsedBy.TRAINING, "See no_spread and nothing_trained.")
    max_logprob_gap: PositiveFloat = setting(
        UsedBy.LOCAL | UsedBy.VERL, "Nats a token, mean of a step."
    )


LOGGER_NAMES = ("console", "tensorboard", "wandb", "swanlab", "mlflow", "trackio")


def _known_loggers(value: str | list[str]) -> str | list[str]:
    for name in [value] if isinstance(value, str) else value:
        if name not in LOGGER_NAMES:
            raise ValueError(f"{name} is not one of {', '.join(LOGGER_NAMES)}")
    return value


START = "start"
"""In place of a reference's path: the weights that the run starts from."""


class FsdpSettings(Section):
    param_offload: bool | None = setting(
        UsedBy.TRAINING,
        "Keep idle weights in host memory, on local the float32 ones of the optimizer; "
        "null: on local where the run does not fit otherwise, on a cluster yes.",
    )
    optimizer_offload: bool | None = setting(
        UsedBy.TRAINING, "The same for the optimizer's moments."
    )


class CurriculumWeights(Section):
    unknown: NonNegativeFloat = setting(UsedBy.TRAINING, "Tasks of which nothing is known yet.")
    easy: NonNegativeFloat = setting(UsedBy.TRAINING)
    medium: NonNegativeFloat = setting(UsedBy.TRAINING)
    hard: NonNegativeFloat = setting(UsedBy.TRAINING)


class CurriculumSettings(Section):
    enabled: bool = setting(
        UsedBy.TRAINING, "Deal tasks by how often they were solved, in place of passes."
    )
    easy_above: float = setting(
        UsedBy.TRAINING, "Pass rate above which a task is in the pool easy.", ge=0, le=1
    )
    hard_below: float = setting(
        UsedBy.TRAINING, "Pass rate below which a task is in the pool hard.", ge=0, le=1
    )
    weights: CurriculumWeights
    memory: float = setting(
        UsedBy.TRAINING,
        "Share of what was known of a task that stays at each new measurement.",
        ge=0,
        lt=1,
    )


_From = create_model(
    "_From",
    __base__=Section,
    **{
        "from": (
            Literal["traces", "tasks"] | None,
            setting(
                UsedBy.LOCAL,
                "Train on known good replies before the first rollout: traces, conversations of "
                "path, or tasks made of traces; tasks, all training tasks with a reference answer; "
                "null: no warm start.",
            ),
        )
    },  # type: ignore[call-overload]  # a keyword, which no class body can have as a field
)


class WarmStartSettings(_From):
    path: str | None = setting(
        UsedBy.LOCAL,
        "File or folder of conversations, JSON lines of {messages, tools} or of tasks; null: the "
        "tasks of the reader.",
    )
    answer_key: str | None = setting(
        UsedBy.LOCAL,
        "Key of the reference answer in the metadata of tasks; null: the first of answer, "
        "reference, reference_answer, ground_truth, solution.",
    )
    epochs: PositiveFloat = setting(UsedBy.LOCAL, "Passes over the conversations; 0.5 is half.")
    lr: PositiveFloat | None = setting(
        UsedBy.LOCAL, "Learning rate of the warm start; null: trainer_common.optim.lr."
    )
    warmup_share: float = setting(
        UsedBy.LOCAL, "Share of the updates with a rising learning rate.", ge=0, le=1
    )
    batch_size: PositiveInt = setting(UsedBy.LOCAL, "Conversations of an update.")
    max_length: PositiveInt | None = setting(
        UsedBy.LOCAL, "Most tokens of a conversation; null: rollout.max_model_len."
    )
    overlong: Literal["drop", "cut"] = setting(
        UsedBy.LOCAL, "What becomes of a longer one: it is left out, or loses its end."
    )
    validation_share: float = setting(
        UsedBy.LOCAL, "Share of the conversations that only measure the loss.", ge=0, lt=1
    )

    @property
    def source(self) -> Literal["traces", "tasks"] | None:
        """The setting `from`, whose name Python keeps to itself."""
        return getattr(self, "from")


class TrainerSettings(Section):
    total_epochs: PositiveInt = setting(UsedBy.TRAINING, "Passes over the training tasks.")
    total_training_steps: PositiveInt | None = setting(
        UsedBy.TRAINING, "Stop after so many steps; null: after total_epochs."
    )
    val_before_train: bool = setting(UsedBy.TRAINING, "Validate once before the first step.")
    test_freq: PositiveInt = setting(UsedBy.TRAINING, "Steps between validations.")
    save_freq: PositiveInt = setting(UsedBy.TRAINING, "Steps between checkpoints.")
    keep_checkpoints: PositiveInt | None = setting(
        UsedBy.TRAINING, "Newest checkpoints to keep, beside the best by validation; null: all."
    )
    save_optimizer: Literal["all", "latest", "never"] = setting(
        UsedBy.LOCAL,
        "Which checkpoints hold the training state, 12 bytes a trained weight, that going on "
        "exactly needs; from others the optimizer begins anew.",
    )
    max_records_mb: PositiveInt | None = setting(
        UsedBy.TRAINING,
        "Most megabytes of episodes/, training/ and set_aside/: beyond it the oldest records of "
        "training are deleted; null: all are kept.",
    )
    record_training: bool = setting(
        UsedBy.TRAINING,
        "Write what was trained of each episode to training/: advantages, and what the trainer "
        "thought of each token.",
    )
    save_merged: bool = setting(
        UsedBy.LOCAL, "With LoRA, write the merged model into each checkpoint too."
    )
    grace_seconds: PositiveFloat = setting(
        UsedBy.ALL,
        "A run that has not ended for so long after SIGTERM or SIGHUP says what is lost, and "
        "quits: a little less than what its system allows.",
    )
    seed: NonNegativeInt = setting(
        UsedBy.TRAINING, "Seed of the order of tasks and of new weights."
    )
    mini_batch_num: PositiveInt = setting(UsedBy.TRAINING, "Updates of one step.")
    warm_start: WarmStartSettings
    curriculum: CurriculumSettings
    max_token_len_per_gpu: PositiveInt | None = setting(
        UsedBy.TRAINING,
        "Most tokens of one training pass; null: rollout.max_model_len, at least 2,048, and on the "
        "GPU of the backbone local as many as half of what stays free holds.",
    )
    enable_gradient_checkpointing: bool = setting(
        UsedBy.TRAINING,
        "Compute layers again in the backward pass: less memory, about 1.3 times the time.",
    )
    algorithm: AlgorithmSettings
    optim: OptimSettings
    use_kl_loss: bool = setting(
        UsedBy.TRAINING, "Add the divergence from the reference to the loss."
    )
    kl_loss_coef: NonNegativeFloat = setting(UsedBy.TRAINING)
    kl_loss_type: Literal["k1", "k2", "k3", "low_var_kl"] = setting(
        UsedBy.TRAINING, "Estimator of the divergence; low_var_kl is verl's name of k3."
    )
    reference: str = setting(
        UsedBy.LOCAL,
        "The frozen weights that a divergence is measured from, and that answer agents whose model "
        "is 'reference'; start: those that the run starts from; or a folder or hub name, as that "
        "of the model which an earlier stage started from.",
        min_length=1,
    )
    detectors: DetectorSettings
    logger: Annotated[str | list[str], AfterValidator(_known_loggers)] = setting(
        UsedBy.TRAINING,
        "Where metrics are shown beside the run folder: one or several of console, "
        "tensorboard, wandb, swanlab, mlflow, trackio.",
    )
    nnodes: PositiveInt = setting(UsedBy.CLUSTER, "Machines of the cluster.")
    n_gpus_per_node: PositiveInt | None = setting(
        UsedBy.CLUSTER, "GPUs of each machine; null: as many as the one of the command has."
    )
    trinity_only__n_vllm_engine: PositiveInt = setting(UsedBy.TRINITY, "Engines of Trinity-RFT.")
    ulysses_sequence_parallel_size: PositiveInt = setting(
        UsedBy.CLUSTER, "GPUs that share a sequence."
    )
    fsdp_config: FsdpSettings
    checkpoint_base_dir: str = setting(
        UsedBy.CLUSTER,
        "Folder of a clustered backbone's own state; auto: saved_checkpoints, in the folder of the "
        "runs where that is named (--exp-dir), else where the command was started.",
    )
    phase_timeout_seconds: PositiveFloat = setting(
        UsedBy.CLUSTER,
        "A clustered run ends when a phase, such as loading the model or an update, "
        "gives no sign of life for so long.",
    )
