"""Policy losses per token, and how tokens add up to the loss of one update.

Owns no model and no batch. Shapes: N trained tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Bound on |log ratio| before `exp`: e^20 is far outside any clip range and still finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLoss:
    """The policy loss of N tokens."""

    loss_N: Tensor
    """Differentiable, before any weighting."""
    is_clipped_N: Tensor
    """True where the clipped term decided, so that the token gives no gradient."""


class PolicyLoss(Protocol):
    """From log-probabilities and advantages, one each per token, to a loss per token."""

    def __call__(
        self,
        logprobs_N: Tensor,
        sampled_logprobs_N: Tensor,
        *,
        advantages_N: Tensor,
        clip_low: float,
        clip_high: float,
    ) -> TokenLoss: ...


def ppo_clip(
    logprobs_N: Tensor,
    sampled_logprobs_N: Tensor,
    *,
    advantages_N: Tensor,
    clip_low: float,
    clip_high: float,
) -> TokenLoss:
    """Clipped surrogate: max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)), r = exp(new - old).

    Source: PPO, arXiv 1707.06347, equation 7; two separate bounds: DAPO, arXiv 2503.14476,
    equation 10.
    """
    log_ratio_N = (logprobs_N - sampled_logprobs_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio_N = log_ratio_N.exp()
    free_N = -advantages_N * ratio_N
    clipped_N = -advantages_N * ratio_N.clamp(1 - clip_low, 1 + clip_high)
    return TokenLoss(loss_N=torch.maximum(free_N, clipped_N), is_clipped_N=clipped_N > free_N)


Aggregation = Callable[[Sequence[int]], list[float]]
"""Trained tokens of each sample of one update, to the weight of each token of that sample.

The loss of an update is the weighted sum over its tokens. The weights depend on the whole update
only, so micro-batches of any size add up to the same gradient.
"""


def token_mean(num_tokens: Sequence[int]) -> list[float]:
    """Every token of the update counts the same. Source: DAPO, arXiv 2503.14476, section 3.3."""
    total = sum(num_tokens)
    return [1 / total] * len(num_tokens)


def seq_mean_token_mean(num_tokens: Sequence[int]) -> list[float]:
    """Every sample counts the same: the mean over samples of the mean over each sample's tokens.

    Source: GRPO, arXiv 2402.03300, equation 3.
    """
    return [1 / (len(num_tokens) * count) for count in num_tokens]


LOSSES: dict[str, PolicyLoss] = {"ppo_clip": ppo_clip}
AGGREGATIONS: dict[str, Aggregation] = {
    "token-mean": token_mean,
    "seq-mean-token-mean": seq_mean_token_mean,
}
"""The names are verl's `loss_agg_mode`."""
