"""Policy losses per token, and how tokens add up to the loss of one update.

Owns no model and no batch. Shapes: N trained tokens.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Bound on |log ratio| before `exp`: e^20 is far outside any clip range and still finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """What a policy loss sees of N trained tokens."""

    logprobs_N: Tensor
    """Of the policy as it is, differentiable; natural log."""
    old_logprobs_N: Tensor
    """Of the policy that the ratio is taken against."""
    advantages_N: Tensor
    clip_low: float
    clip_high: float
    sequence_log_ratio_N: Tensor | None = None
    """The mean of the log ratios over the token's whole sample, not differentiable; given to the
    losses in NEEDS_SEQUENCE_RATIO."""

    @property
    def log_ratio_N(self) -> Tensor:
        """log(new probability / old probability), within MAX_LOG_RATIO; differentiable."""
        return (self.logprobs_N - self.old_logprobs_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLoss:
    """The policy loss of N tokens."""

    loss_N: Tensor
    """Differentiable, before any weighting."""
    is_clipped_N: Tensor
    """True where a bound decided."""


PolicyLoss = Callable[[LossInputs], TokenLoss]


def ppo_clip(inputs: LossInputs) -> TokenLoss:
    """Clipped surrogate: max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)), r = exp(new - old).

    A clipped token gives no gradient. Source: PPO, arXiv 1707.06347, equation 7; two separate
    bounds: DAPO, arXiv 2503.14476, equation 10.
    """
    return _clipped_surrogate(inputs.log_ratio_N.exp(), inputs)


def gspo(inputs: LossInputs) -> TokenLoss:
    """As `ppo_clip` with one ratio for a whole sample: the geometric mean of its tokens' ratios.

    The bounds are those of a mean, so they are much narrower: the paper uses 3e-4 and 4e-4.
    Source: GSPO, arXiv 2507.18071, equations 5 and 7; per token as in its section 4.3.
    """
    assert inputs.sequence_log_ratio_N is not None
    ratio_N = inputs.sequence_log_ratio_N.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    # The value of the sample's ratio with the gradient of the token's own.
    return _clipped_surrogate(
        ratio_N * (inputs.logprobs_N - inputs.logprobs_N.detach()).exp(), inputs
    )


def cispo(inputs: LossInputs) -> TokenLoss:
    """-A sg(clip(r, 1 - clip_low, 1 + clip_high)) log p: a bounded weight, and no token is dropped.

    Source: CISPO of MiniMax-M1, arXiv 2506.13585, equations 4 and 5.
    """
    ratio_N = inputs.log_ratio_N.detach().exp()
    weight_N = ratio_N.clamp(1 - inputs.clip_low, 1 + inputs.clip_high)
    return TokenLoss(
        loss_N=-inputs.advantages_N * weight_N * inputs.logprobs_N,
        is_clipped_N=weight_N != ratio_N,
    )


def reinforce(inputs: LossInputs) -> TokenLoss:
    """-A log p, whatever the ratio. Right for one update a step; see also importance weights.

    Source: R. J. Williams 1992, "Simple statistical gradient-following algorithms for
    connectionist reinforcement learning", equation 11.
    """
    return TokenLoss(
        loss_N=-inputs.advantages_N * inputs.logprobs_N,
        is_clipped_N=torch.zeros_like(inputs.advantages_N, dtype=torch.bool),
    )


def negative_log_likelihood(inputs: LossInputs) -> TokenLoss:
    """-log p of replies that are to be learned as they are: no advantage, no ratio.

    In no table: it has no rewards, so no step of a run can use it. Source: supervised fine-tuning
    of InstructGPT, arXiv 2203.02155, section 3.5.
    """
    return TokenLoss(
        loss_N=-inputs.logprobs_N,
        is_clipped_N=torch.zeros_like(inputs.logprobs_N, dtype=torch.bool),
    )


def _clipped_surrogate(ratio_N: Tensor, inputs: LossInputs) -> TokenLoss:
    free_N = -inputs.advantages_N * ratio_N
    clipped_N = -inputs.advantages_N * ratio_N.clamp(1 - inputs.clip_low, 1 + inputs.clip_high)
    return TokenLoss(loss_N=torch.maximum(free_N, clipped_N), is_clipped_N=clipped_N > free_N)


LOSSES: dict[str, PolicyLoss] = {
    "ppo_clip": ppo_clip,
    "gspo": gspo,
    "cispo": cispo,
    "reinforce": reinforce,
}
"""By the name in `algorithm.policy_loss`."""

NEEDS_SEQUENCE_RATIO = frozenset({"gspo"})


ImportanceWeight = Callable[[Tensor, float], Tensor]
"""Log ratios [N] of trainer to sampler, and a bound, to weights of the tokens' losses, [N]."""


def truncated(log_ratio_N: Tensor, bound: float) -> Tensor:
    """min(r, bound): the expectation under the trainer's policy, with bounded variance.

    Source: E. L. Ionides 2008, "Truncated importance sampling"; for the gap of sampler and trainer:
    F. Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training".
    """
    return log_ratio_N.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().clamp(max=bound)


def masked(log_ratio_N: Tensor, bound: float) -> Tensor:
    """r between 1 / bound and bound, else 0: tokens on which the two disagree teach nothing.

    Source: IcePop, in "Every step evolves", arXiv 2510.18855.
    """
    ratio_N = log_ratio_N.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return torch.where((ratio_N >= 1 / bound) & (ratio_N <= bound), ratio_N, 0.0)


IMPORTANCE_WEIGHTS: dict[str, ImportanceWeight] = {"truncated": truncated, "masked": masked}
"""By the name in `algorithm.rollout_importance_weight`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSize:
    """Trained tokens of one sample, and of the unit that it counts with: its episode, or itself."""

    num_tokens: int
    unit: str


Aggregation = Callable[[Sequence[SampleSize], int], list[float]]
"""Sizes of the samples of one update, and the most tokens of a response, to the weight of each
token of each sample.

The loss of an update is the weighted sum over its tokens. The weights depend on the whole update
only, so micro-batches of any size add up to the same gradient.
"""


def token_mean(sizes: Sequence[SampleSize], max_tokens: int) -> list[float]:
    """Every token of the update counts the same. Source: DAPO, arXiv 2503.14476, section 3.3."""
    total = sum(size.num_tokens for size in sizes)
    return [1 / total] * len(sizes)


def seq_mean_token_mean(sizes: Sequence[SampleSize], max_tokens: int) -> list[float]:
    """Every unit counts the same: the mean over units of the mean over each one's tokens.

    Source: GRPO, arXiv 2402.03300, equation 3.
    """
    tokens = _tokens_by_unit(sizes)
    return [1 / (len(tokens) * tokens[size.unit]) for size in sizes]


def seq_mean_token_sum(sizes: Sequence[SampleSize], max_tokens: int) -> list[float]:
    """The mean over units of the sum over each one's tokens: the plain policy gradient."""
    return [1 / len(_tokens_by_unit(sizes))] * len(sizes)


def seq_mean_token_sum_norm(sizes: Sequence[SampleSize], max_tokens: int) -> list[float]:
    """The same over a constant, so that the length of an answer does not scale its tokens.

    Source: Dr. GRPO, arXiv 2503.20783, section 3.2.
    """
    return [weight / max_tokens for weight in seq_mean_token_sum(sizes, max_tokens)]


def _tokens_by_unit(sizes: Sequence[SampleSize]) -> Counter[str]:
    tokens: Counter[str] = Counter()
    for size in sizes:
        tokens[size.unit] += size.num_tokens
    return tokens


AGGREGATIONS: dict[str, Aggregation] = {
    "token-mean": token_mean,
    "seq-mean-token-mean": seq_mean_token_mean,
    "seq-mean-token-sum": seq_mean_token_sum,
    "seq-mean-token-sum-norm": seq_mean_token_sum_norm,
}
"""The names are verl's `loss_agg_mode`."""
