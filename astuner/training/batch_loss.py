"""The loss of one micro-batch: policy loss, importance weights and divergence, put together.

The formulas are in `algorithm/`.
Shapes: S samples of a mini-batch, N trained tokens of a micro-batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from astuner.algorithm.kl import KL_ESTIMATORS
from astuner.algorithm.loss import (
    IMPORTANCE_WEIGHTS,
    LOSSES,
    LossInputs,
    PolicyLoss,
    TokenLoss,
)
from astuner.errors import BackboneError
from astuner.training.packing import PackedBatch
from astuner.training.score import TokenScores
from astuner.training.settings import PolicyTrainerSettings
from astuner.training.step_record import StepRecord
from astuner.trajectory.samples import TrainSample


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniBatch:
    """The samples of one update."""

    samples: Sequence[TrainSample]
    batches: list[PackedBatch]
    temperature_S: Tensor
    weights: Sequence[float]
    """Of each trained token of the sample in the loss."""
    weight_S: Tensor
    """The same on the device."""
    old_logprobs: list[Tensor] = field(default_factory=list)
    """Of the policy at the start of the step, by batch; empty where that still is the policy."""


class BatchLoss:
    """The `ChunkLoss` of one micro-batch; tells the record what it sees.

    Before the first chunk it is given what the settings ask for: `reference_logprob_N` for a
    divergence in the loss, and the sequences' ratios for losses in NEEDS_SEQUENCE_RATIO.
    """

    def __init__(
        self,
        settings: PolicyTrainerSettings,
        mini_batch: MiniBatch,
        batch: PackedBatch,
        record: StepRecord,
    ) -> None:
        self._settings = settings
        self._record = record
        self._sampled_logprob_N = batch.sampled_logprob_N
        self._advantage_N = batch.advantage_N
        self._weight_N = mini_batch.weight_S[batch.sample_N]
        self.temperature_N = mini_batch.temperature_S[batch.sample_N]
        self.reference_logprob_N: Tensor | None = None
        self._sample_N = batch.sample_N
        self._old_logprob_N = None
        if mini_batch.old_logprobs:
            index = next(i for i, other in enumerate(mini_batch.batches) if other is batch)
            self._old_logprob_N = mini_batch.old_logprobs[index]
        self._sequence_log_ratio_N: Tensor | None = None
        self._logprobs: list[Tensor] = []

    @property
    def logprob_N(self) -> Tensor:
        """Of the policy, as the chunks so far were scored."""
        return torch.cat(self._logprobs)

    def set_sequence_ratios(self, current_logprob_N: Tensor, *, num_samples: int) -> None:
        """Tell the mean log ratio of each sample, from its log-probabilities as they are now."""
        log_ratio_N = current_logprob_N - self._old(slice(None), current_logprob_N)
        sums_S = torch.zeros(num_samples, device=log_ratio_N.device)
        sums_S.index_add_(0, self._sample_N, log_ratio_N)
        num_tokens_S = torch.bincount(self._sample_N, minlength=num_samples).clamp_min(1)
        self._sequence_log_ratio_N = (sums_S / num_tokens_S)[self._sample_N]

    def _old(self, chunk: slice, logprob_N: Tensor) -> Tensor:
        """Log-probabilities that ratios are taken against, of the tokens of a chunk."""
        if self._settings.importance_weight is None:
            return self._sampled_logprob_N[chunk]
        if self._old_logprob_N is None:
            return logprob_N.detach()
        return self._old_logprob_N[chunk]

    def _policy_loss(self, chunk: slice, scores: TokenScores) -> TokenLoss:
        settings, ratios_N = self._settings, self._sequence_log_ratio_N
        inputs = LossInputs(
            logprobs_N=scores.logprob_N,
            old_logprobs_N=self._old(chunk, scores.logprob_N),
            advantages_N=self._advantage_N[chunk],
            clip_low=settings.clip_low,
            clip_high=settings.clip_high,
            sequence_log_ratio_N=None if ratios_N is None else ratios_N[chunk],
        )
        if callable(settings.policy_loss):
            return checked_loss(settings.policy_loss, inputs)
        return LOSSES[settings.policy_loss](inputs)

    def __call__(self, chunk: slice, scores: TokenScores) -> Tensor:
        settings = self._settings
        sampled_N, weight_N = self._sampled_logprob_N[chunk], self._weight_N[chunk]
        policy = self._policy_loss(chunk, scores)
        token_loss_N = policy.loss_N
        if settings.importance_weight is not None:
            log_ratio_N = self._old(chunk, scores.logprob_N) - sampled_N
            weigh = IMPORTANCE_WEIGHTS[settings.importance_weight]
            importance_N = weigh(log_ratio_N, settings.importance_bound)
            self._record.add_importance(importance_N, settings.importance_bound)
            token_loss_N = token_loss_N * importance_N
        if self.reference_logprob_N is not None:
            estimator = KL_ESTIMATORS[settings.kl_loss_type]
            kl_N = estimator(scores.logprob_N, self.reference_logprob_N[chunk])
            token_loss_N = token_loss_N + settings.kl_loss_coef * kl_N
            self._record.add_kl(kl_N)
        loss = (weight_N * token_loss_N).sum()
        self._record.add(loss, policy.is_clipped_N, scores, sampled_N)
        self._logprobs.append(scores.logprob_N.detach())
        return loss


def checked_loss(function: PolicyLoss, inputs: LossInputs) -> TokenLoss:
    """What a user's loss gives. Raises BackboneError unless that is one loss for each token."""
    name = getattr(function, "__qualname__", repr(function))
    found = function(inputs)
    if not isinstance(found, TokenLoss):
        raise BackboneError(
            f"policy loss {name}: found {type(found).__name__}, expected TokenLoss of "
            "astuner.algorithm.loss"
        )
    shape = inputs.logprobs_N.shape
    if found.loss_N.shape != shape or found.is_clipped_N.shape != shape:
        raise BackboneError(
            f"policy loss {name}: loss_N has shape {tuple(found.loss_N.shape)} and is_clipped_N "
            f"{tuple(found.is_clipped_N.shape)}, expected {tuple(shape)}, one for each token"
        )
    if not found.loss_N.requires_grad:
        raise BackboneError(f"policy loss {name}: loss_N does not depend on logprobs_N")
    return found
