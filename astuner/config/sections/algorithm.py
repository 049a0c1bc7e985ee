"""`astuner.trainer_common.algorithm`: from rewards to a loss."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from astuner.config.section import Section

ADVANTAGE_NAMES = (
    "grpo",
    "dr_grpo",
    "rloo",
    "reinforce_plus_plus",
    "reinforce_plus_plus_baseline",
)
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
    adv_estimator: Annotated[str, _named_or_path(ADVANTAGE_NAMES)] = Field(
        description="How rewards become advantages: a name, or your own module->function."
    )
    policy_loss: Annotated[str, _named_or_path(POLICY_LOSS_NAMES)] = Field(
        description="The loss of a token: a name, or your own module->function."
    )
    clip_ratio_low: float = Field(ge=0, lt=1, description="The ratio is clipped below 1 - this.")
    clip_ratio_high: NonNegativeFloat = Field(description="The ratio is clipped above 1 + this.")
    loss_agg_mode: Literal[
        "token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"
    ] = Field(description="How the losses of tokens become one number.")
    loss_unit: Literal["episode", "sequence"] = Field(
        description="What counts as one in a mean over sequences: a whole episode, or each of its "
        "sequences."
    )
    rollout_importance_weight: Literal["truncated", "masked"] | None = Field(
        description="Correct for the gap between sampler and trainer; null: the clipped ratio does."
    )
    rollout_importance_bound: float = Field(ge=1, description="Largest such weight.")
    use_kl_in_reward: bool = Field(
        description="Subtract kl_loss_coef times the divergence of an episode from its reward."
    )
    overlong_buffer_length: PositiveInt | None = Field(
        description="Last tokens of data.max_response_length in which a penalty grows; null: none."
    )
    overlong_penalty_factor: NonNegativeFloat = Field(description="The largest such penalty.")
    dynamic_sampling_max_batches: NonNegativeInt = Field(
        description="Further batches that may be rolled out to replace groups without spread."
    )
