"""One training step: samples in, new weights and metrics out.

Owns the order of mini-batches, the loss and the reference policy. Packing, attention, scoring and
the optimizer are in the files beside it. Not safe while the same model generates.
"""

import copy
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from astuner.algorithm.kl import KL_ESTIMATORS
from astuner.algorithm.loss import (
    AGGREGATIONS,
    IMPORTANCE_WEIGHTS,
    LOSSES,
    NEEDS_SEQUENCE_RATIO,
    LossInputs,
    PolicyLoss,
    SampleSize,
    TokenLoss,
)
from astuner.errors import BackboneError
from astuner.models.adapter import adapter_off, has_adapter, switch_dropout
from astuner.models.device import is_out_of_memory
from astuner.training.optimizer import MasterAdamW, OptimizerSettings, Update
from astuner.training.packed_check import verify_packed_pass
from astuner.training.packing import PackedBatch, pack
from astuner.training.score import (
    TokenScores,
    backward_batch,
    enable_gradient_checkpointing,
    score_batch,
)
from astuner.trajectory.samples import TrainSample

Progress = Callable[[int, int], None]
"""Called between micro-batches with the packed tokens done and the total of this step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerSettings:
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


class PolicyTrainer:
    """Trains a model's weights in place. Owns the optimizer and the frozen reference."""

    def __init__(
        self,
        model: PreTrainedModel,
        settings: TrainerSettings,
        *,
        seed: int,
        reference: PreTrainedModel | None = None,
    ) -> None:
        """`seed` orders the mini-batches. `reference` is by default a copy of the weights as given;
        a continued run passes the weights that it started from.

        Raises BackboneError for a model that cannot be trained in packed form.
        """
        verify_packed_pass(model)
        model.eval()
        if settings.gradient_checkpointing:
            enable_gradient_checkpointing(model)
        self.model = model
        self.settings = settings
        self._seed = seed
        self._optimizer = MasterAdamW(model, settings.optimizer)
        self._reference = None
        needs_reference = settings.use_kl_loss or settings.kl_in_reward_coef > 0
        if needs_reference and not has_adapter(model):
            self._reference = _frozen(reference if reference is not None else copy.deepcopy(model))

    @property
    def reference(self) -> PreTrainedModel | None:
        """The frozen weights that training started from; None where no copy of them is kept."""
        return self._reference

    @property
    def num_updates(self) -> int:
        return self._optimizer.num_updates

    def train_step(
        self, samples: Sequence[TrainSample], *, on_progress: Progress | None = None
    ) -> dict[str, float | None]:
        """Make `mini_batch_num` updates from the samples and return the metrics of the step.

        Each sample is used once. Fewer samples than mini-batches make fewer updates; none make no
        update. What `on_progress` raises ends the step: updates that were made stay, gradients of
        an unfinished one are dropped. Raises BackboneError when a gradient is not finite.
        """
        started = time.monotonic()
        mini_batches = [self._packed(part) for part in self._mini_batches(samples)]
        record = _StepRecord(
            num_sample_tokens=sum(len(sample.ids) for sample in samples),
            num_packed_tokens=sum(b.num_tokens for mini in mini_batches for b in mini.batches),
            device=self.model.device,
            progress=on_progress,
        )
        # transformers keeps all layers in evaluation mode; dropout is off in either.
        self.model.train(self.settings.gradient_checkpointing)
        if switch_dropout(self.model, is_on=True):
            torch.manual_seed(self._seed * 1_000_003 + self.num_updates)
        try:
            self._score_before_updates(mini_batches)
            for mini_batch in mini_batches:
                self._accumulate(mini_batch, record)
                record.updates.append(self._optimizer.update())
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise self._out_of_memory(record) from error
        finally:
            self.model.eval()
            self._optimizer.discard_gradients()
        metrics = record.metrics(
            seconds=time.monotonic() - started,
            learning_rate=self.settings.optimizer.learning_rate,
            has_reference=self.settings.use_kl_loss,
        )
        return metrics | self._optimizer.fingerprint()

    def _out_of_memory(self, record: "_StepRecord") -> BackboneError:
        settings = self.settings
        advice = "" if settings.gradient_checkpointing else (
            ", or set trainer_common.enable_gradient_checkpointing: true"
        )  # fmt: skip
        return BackboneError(
            f"out of memory in the training pass on {self.model.device}, at {record.doing}; lower "
            f"trainer_common.max_token_len_per_gpu (now {settings.max_token_len_per_gpu}), which a "
            f"single longer sample exceeds, or rollout.max_model_len{advice}"
        )

    def tensors(self) -> dict[str, Tensor]:
        """With `num_updates`, what an exact continuation needs besides settings and reference."""
        return self._optimizer.tensors()

    def load_tensors(self, tensors: Mapping[str, Tensor], *, num_updates: int) -> None:
        """Continue from `tensors`; the model's weights become those of that moment.

        Raises BackboneError when they are of another model.
        """
        self._optimizer.load_tensors(tensors, num_updates=num_updates)

    def _mini_batches(self, samples: Sequence[TrainSample]) -> list[list[TrainSample]]:
        """Deal the samples at random into parts whose sizes differ by one at most."""
        count = min(self.settings.mini_batch_num, len(samples))
        if count < 2:
            return [list(samples)] * count
        # Named by what was done before, so that a continued run needs no state for it.
        rng = random.Random(f"{self._seed}/{self.num_updates}")
        order = rng.sample(range(len(samples)), len(samples))
        return [[samples[i] for i in sorted(order[part::count])] for part in range(count)]

    def _packed(self, samples: Sequence[TrainSample]) -> "_MiniBatch":
        device = self.model.device
        settings = self.settings
        sizes = [
            SampleSize(
                num_tokens=sum(sample.mask),
                unit=sample.episode_id if settings.counts_by_episode else str(index),
            )
            for index, sample in enumerate(samples)
        ]
        aggregate = AGGREGATIONS[settings.loss_aggregation]
        weights = aggregate(sizes, settings.max_response_tokens)
        return _MiniBatch(
            batches=pack(samples, max_tokens=self.settings.max_token_len_per_gpu, device=device),
            advantage_S=torch.tensor([s.advantage for s in samples], device=device),
            temperature_S=torch.tensor([s.temperature for s in samples], device=device),
            weight_S=torch.tensor(weights, device=device),
        )

    def _accumulate(self, mini_batch: "_MiniBatch", record: "_StepRecord") -> None:
        """Add up the gradients of one mini-batch."""
        for batch in mini_batch.batches:
            record.doing = f"a micro-batch of {batch.num_tokens} tokens"
            loss = _BatchLoss(self.settings, mini_batch, batch, record)
            if self.settings.use_kl_loss:
                loss.reference_logprob_N = self._reference_logprobs(batch, loss.temperature_N)
            if self.settings.policy_loss in NEEDS_SEQUENCE_RATIO:
                current_N = score_batch(self.model, batch, loss.temperature_N).logprob_N
                loss.set_sequence_ratios(current_N, num_samples=len(mini_batch.advantage_S))
            backward_batch(self.model, batch, loss.temperature_N, loss)
            record.finish(batch)
        record.doing = "the optimizer's update"

    def _score_before_updates(self, mini_batches: Sequence["_MiniBatch"]) -> None:
        """Where ratios are taken against the policy of the step's start, remember it.

        In the first mini-batch the policy still is that one.
        """
        if self.settings.importance_weight is None:
            return
        for mini_batch in mini_batches[1:]:
            for batch in mini_batch.batches:
                temperature_N = mini_batch.temperature_S[batch.sample_N]
                mini_batch.old_logprobs.append(
                    score_batch(self.model, batch, temperature_N).logprob_N
                )

    def _reference_logprobs(self, batch: PackedBatch, temperature_N: Tensor) -> Tensor:
        """Of the weights that training started from: with LoRA, the base."""
        if self._reference is not None:
            return score_batch(self._reference, batch, temperature_N).logprob_N
        with adapter_off(self.model):
            return score_batch(self.model, batch, temperature_N).logprob_N

    def reference_divergences(self, samples: Sequence[TrainSample]) -> dict[tuple[str, int], float]:
        """By episode and index of the sequence, the sum over its trained tokens of the estimated
        divergence from the reference, times `kl_in_reward_coef`, at the log-probabilities that were
        sampled.
        """
        totals = dict.fromkeys(((sample.episode_id, sample.sequence) for sample in samples), 0.0)
        if not self.settings.kl_in_reward_coef:
            return totals
        estimate = KL_ESTIMATORS[self.settings.kl_loss_type]
        device = self.model.device
        temperature_S = torch.tensor([sample.temperature for sample in samples], device=device)
        max_tokens = self.settings.max_token_len_per_gpu
        for batch in pack(samples, max_tokens=max_tokens, device=device):
            reference_N = self._reference_logprobs(batch, temperature_S[batch.sample_N])
            kl_N = estimate(batch.sampled_logprob_N, reference_N)
            kl_S = torch.zeros(len(samples), device=kl_N.device).index_add_(0, batch.sample_N, kl_N)
            for sample, divergence in zip(samples, kl_S.tolist(), strict=True):
                divergence_of = sample.episode_id, sample.sequence
                totals[divergence_of] += self.settings.kl_in_reward_coef * divergence
        return totals


def _frozen(model: PreTrainedModel) -> PreTrainedModel:
    return model.eval().requires_grad_(False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _MiniBatch:
    """The samples of one update. Shapes: S samples."""

    batches: list[PackedBatch]
    advantage_S: Tensor
    temperature_S: Tensor
    weight_S: Tensor
    """Of each trained token of the sample in the loss."""
    old_logprobs: list[Tensor] = field(default_factory=list)
    """Of the policy at the start of the step, by batch; empty where that still is the policy."""


class _BatchLoss:
    """The loss of one micro-batch, chunk by chunk; tells the record what it sees."""

    def __init__(
        self,
        settings: TrainerSettings,
        mini_batch: _MiniBatch,
        batch: PackedBatch,
        record: "_StepRecord",
    ) -> None:
        self._settings = settings
        self._record = record
        self._sampled_logprob_N = batch.sampled_logprob_N
        self._advantage_N = mini_batch.advantage_S[batch.sample_N]
        self._weight_N = mini_batch.weight_S[batch.sample_N]
        self.temperature_N = mini_batch.temperature_S[batch.sample_N]
        self.reference_logprob_N: Tensor | None = None
        self._sample_N = batch.sample_N
        self._old_logprob_N = None
        if mini_batch.old_logprobs:
            index = next(i for i, other in enumerate(mini_batch.batches) if other is batch)
            self._old_logprob_N = mini_batch.old_logprobs[index]
        self._sequence_log_ratio_N: Tensor | None = None

    def set_sequence_ratios(self, current_logprob_N: Tensor, *, num_samples: int) -> None:
        """Tell the mean log ratio of each sample, from its log-probabilities as they are now."""
        log_ratio_N = current_logprob_N - self._old(slice(None), current_logprob_N)
        sums_S = torch.zeros(num_samples, device=log_ratio_N.device)
        sums_S.index_add_(0, self._sample_N, log_ratio_N)
        num_tokens_S = torch.bincount(self._sample_N, minlength=num_samples).clamp_min(1)
        self._sequence_log_ratio_N = (sums_S / num_tokens_S)[self._sample_N]

    def _old(self, chunk: slice, logprob_N: Tensor) -> Tensor:
        """What ratios are taken against."""
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


class _StepRecord:
    """Sums over the trained tokens of one step. They stay on the device until they are read."""

    def __init__(
        self,
        *,
        num_sample_tokens: int,
        num_packed_tokens: int,
        device: torch.device,
        progress: Progress | None,
    ) -> None:
        self.updates: list[Update] = []
        self.doing = "scoring before the first update"
        self._num_sample_tokens = num_sample_tokens
        self._num_packed_tokens = num_packed_tokens
        self._num_done_tokens = 0
        self._progress = progress
        self._num_tokens = 0
        self._num_gaps = 0
        self.has_importance = False
        names = ("loss", "kl", "clipped", "entropy", "gap", "gap_max", "importance", "bounded")
        self._sums = {name: torch.zeros((), dtype=torch.float64, device=device) for name in names}

    def add(
        self, loss: Tensor, is_clipped_N: Tensor, scores: TokenScores, sampled_logprob_N: Tensor
    ) -> None:
        self._num_tokens += len(is_clipped_N)
        self._sums["loss"] += loss.detach()
        self._sums["clipped"] += is_clipped_N.sum()
        self._sums["entropy"] += scores.entropy_N.double().sum()
        if not self.updates:
            gap_N = (scores.logprob_N.detach() - sampled_logprob_N).abs().double()
            self._num_gaps += len(gap_N)
            self._sums["gap"] += gap_N.sum()
            self._sums["gap_max"] = torch.maximum(self._sums["gap_max"], gap_N.max())

    def add_importance(self, importance_N: Tensor, bound: float) -> None:
        self.has_importance = True
        self._sums["importance"] += importance_N.double().sum()
        self._sums["bounded"] += ((importance_N == 0) | (importance_N >= bound)).sum()

    def add_kl(self, kl_N: Tensor) -> None:
        self._sums["kl"] += kl_N.detach().double().sum()

    def finish(self, batch: PackedBatch) -> None:
        self._num_done_tokens += batch.num_tokens
        if self._progress is not None:
            self._progress(self._num_done_tokens, self._num_packed_tokens)

    def metrics(
        self, *, seconds: float, learning_rate: float, has_reference: bool
    ) -> dict[str, float | None]:
        num_tokens, num_updates = max(1, self._num_tokens), max(1, len(self.updates))
        sums = {name: value.item() for name, value in self._sums.items()}
        metrics: dict[str, float | None] = {
            "train/loss": sums["loss"] / num_updates if self.updates else None,
            "train/grad_norm": sum(u.grad_norm for u in self.updates) / num_updates
            if self.updates
            else None,
            "train/clip_fraction": sums["clipped"] / num_tokens if self._num_tokens else None,
            "train/logprob_gap_mean": sums["gap"] / self._num_gaps if self._num_gaps else None,
            "train/logprob_gap_max": sums["gap_max"] if self._num_gaps else None,
            "train/entropy": sums["entropy"] / num_tokens if self._num_tokens else None,
            "train/tokens": float(self._num_tokens),
            "train/packed_tokens": float(self._num_packed_tokens),
            "train/sample_tokens": float(self._num_sample_tokens),
            "train/seconds": seconds,
            "train/updates": float(len(self.updates)),
            "train/lr": self.updates[-1].learning_rate if self.updates else 0.0,
        }
        if self.has_importance:
            metrics["train/importance_weight_mean"] = sums["importance"] / num_tokens
            metrics["train/importance_bounded_fraction"] = sums["bounded"] / num_tokens
        if has_reference:
            metrics["train/kl"] = sums["kl"] / num_tokens
        return metrics
