"""What a user chooses about training: how samples become updates."""

from dataclasses import dataclass

from astuner.algorithm.kl import KL_ESTIMATORS
from astuner.algorithm.loss import AGGREGATIONS, IMPORTANCE_WEIGHTS, LOSSES, PolicyLoss
from astuner.training.optimizer import OptimizerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTrainerSettings:
    """How samples become updates."""

    optimizer: OptimizerSettings
    mini_batch_num: int
    """Updates per step."""
    max_token_len_per_gpu: int
    """Most packed tokens of a micro-batch; a longer sample goes alone."""
    policy_loss: str | PolicyLoss
    """A name in LOSSES, or a function of the user's."""
    loss_aggregation: str
    """A name in AGGREGATIONS."""
    clip_low: float
    """The ratio of new to old probability counts from 1 - clip_low ..."""
    clip_high: float
    """... to 1 + clip_high."""
    use_kl_loss: bool
    """Whether the divergence from the starting weights is added to the loss."""
    kl_loss_coef: float
    kl_loss_type: str
    """A name in KL_ESTIMATORS."""
    kl_in_reward_coef: float = 0.0
    """Of `reference_divergences`; above 0 a reference is kept for them."""
    max_response_tokens: int = 1
    """The constant of aggregations that divide by one."""
    counts_by_episode: bool = True
    """Whether the samples of an episode count as one unit in aggregations over sequences."""
    importance_weight: str | None = None
    """A name in IMPORTANCE_WEIGHTS: weighs tokens by the ratio of the trainer's probability at the
    start of the step to the sampler's, and takes the loss's ratio against the former. None: the
    ratio is against the sampler's."""
    importance_bound: float = 2.0
    gradient_checkpointing: bool = False
    """Whether layers are computed again in the backward pass instead of kept."""

    def __post_init__(self) -> None:
        for name, table in (
            (self.policy_loss, LOSSES),
            (self.loss_aggregation, AGGREGATIONS),
            (self.kl_loss_type, KL_ESTIMATORS),
            (self.importance_weight, {None, *IMPORTANCE_WEIGHTS}),
        ):
            if not callable(name) and name not in table:
                raise ValueError(f"{name!r} is not one of {sorted(map(str, table))}")
        if self.mini_batch_num < 1 or self.max_token_len_per_gpu < 1:
            raise ValueError(f"out of range: {self}")
        if not 0 <= self.clip_low < 1 or self.clip_high < 0:
            raise ValueError(f"clip range is {1 - self.clip_low} to {1 + self.clip_high}")
        if self.importance_bound < 1 or self.max_response_tokens < 1:
            raise ValueError(f"out of range: {self}")
