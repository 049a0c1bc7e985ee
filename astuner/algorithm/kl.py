"""Estimates of KL(policy || reference) per token, from tokens that the policy sampled.

Source: J. Schulman, "Approximating KL divergence", http://joschu.net/blog/kl-approx.html, with
r = reference probability / policy probability. Shapes: N trained tokens.
"""

from collections.abc import Callable

from torch import Tensor

from astuner.algorithm.loss import MAX_LOG_RATIO

KLEstimator = Callable[[Tensor, Tensor], Tensor]
"""Log-probabilities of policy and reference, [N] each, to the estimate, [N]."""


def k1(logprobs_N: Tensor, reference_logprobs_N: Tensor) -> Tensor:
    """-log r. Unbiased and often negative; as a loss its expected gradient is zero."""
    return logprobs_N - reference_logprobs_N


def k2(logprobs_N: Tensor, reference_logprobs_N: Tensor) -> Tensor:
    """(log r)^2 / 2. Biased, never negative, low variance."""
    return (logprobs_N - reference_logprobs_N).square() / 2


def k3(logprobs_N: Tensor, reference_logprobs_N: Tensor) -> Tensor:
    """(r - 1) - log r. Unbiased, never negative, low variance. GRPO's choice, 2402.03300 eq. 4."""
    log_ratio_N = (reference_logprobs_N - logprobs_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return log_ratio_N.exp() - 1 - log_ratio_N


KL_ESTIMATORS: dict[str, KLEstimator] = {"k1": k1, "k2": k2, "k3": k3, "low_var_kl": k3}
"""By the name in `kl_loss_type`; `low_var_kl` is verl's name of k3."""
