"""`astuner.trainer_common.algorithm`: from rewards to a loss."""

from typing import Annotated, Literal

from pydantic import AfterValidator, NonNegativeFloat, NonNegativeInt, PositiveInt

from astuner.config.section import Section, UsedBy, setting

ADVANTAGE_NAMES = (
    "grpo",
    "dr_grpo",
    "rloo",
    "reinforce_plus_plus",
    "reinforce_plus_plus_baseline",
)
STEP_ADVANTAGE_NAMES = ("return_to_go", "gigpo")
"""Those that give each call an advantage of its own."""
POLICY_LOSS_NAMES = ("ppo_clip", "gspo", "cispo", "reinforce")


def _named_or_path(names: tuple[str, ...]) -> AfterValidator:
    """A name of a table, or the user's own function as "module->function"."""

    def check(value: str) -> str:
        if value not in names and "->" not in value:
            raise ValueError(
                f"expected {', '.join(names)}, or a function of your own as module->function"
            )
        return value

    return AfterValidator(check)


class AlgorithmSettings(Section):
    adv_estimator: Annotated[str, _named_or_path(ADVANTAGE_NAMES + STEP_ADVANTAGE_NAMES)] = setting(
        UsedBy.TRAINING, "How rewards become advantages: a name, or your own module->function."
    )
    step_advantage_weight: NonNegativeFloat = setting(
        UsedBy.TRAINING, "With gigpo: of what calls in an equal state are worth to each other."
    )
    policy_loss: Annotated[str, _named_or_path(POLICY_LOSS_NAMES)] = setting(
        UsedBy.TRAINING, "The loss of a token: a name, or your own module->function."
    )
    clip_ratio_low: float = setting(
        UsedBy.TRAINING, "The ratio is clipped below 1 - this.", ge=0, lt=1
    )
    clip_ratio_high: NonNegativeFloat = setting(
        UsedBy.TRAINING, "The ratio is clipped above 1 + this."
    )
    loss_agg_mode: Literal[
        "token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"
    ] = setting(UsedBy.TRAINING, "How the losses of tokens become one number.")
    loss_unit: Literal["episode", "sequence"] = setting(
        UsedBy.TRAINING,
        "What counts as one in a mean over sequences: a whole episode, or each of its sequences.",
    )
    rollout_importance_weight: Literal["truncated", "masked"] | None = setting(
        UsedBy.LOCAL | UsedBy.VERL,
        "Correct for the gap between sampler and trainer; null: the clipped ratio does.",
    )
    rollout_importance_bound: float = setting(
        UsedBy.LOCAL | UsedBy.VERL, "Largest such weight.", ge=1
    )
    use_kl_in_reward: bool = setting(
        UsedBy.TRAINING, "Subtract kl_loss_coef times the divergence of an episode from its reward."
    )
    overlong_buffer_length: PositiveInt | None = setting(
        UsedBy.TRAINING,
        "Last tokens of data.max_response_length in which a penalty grows; null: none.",
    )
    overlong_penalty_factor: NonNegativeFloat = setting(
        UsedBy.TRAINING, "The largest such penalty."
    )
    dynamic_sampling_max_batches: NonNegativeInt = setting(
        UsedBy.LOCAL | UsedBy.VERL,
        "Further batches that may be rolled out to replace groups without spread.",
    )
