"""One training step: samples in, new weights and metrics out.

Owns the order of mini-batches, the loss and the reference policy. Packing, attention, scoring and
the optimizer are in the files beside it. Not safe while the same model generates.
"""

import copy
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from astuner.algorithm.kl import KL_ESTIMATORS
from astuner.algorithm.loss import AGGREGATIONS, LOSSES
from astuner.backbone.local.model import (
    TokenScores,
    backward_batch,
    enable_gradient_checkpointing,
    score_batch,
    verify_packed_pass,
)
from astuner.backbone.local.optimizer import MasterAdamW, OptimizerSettings, Update
from astuner.backbone.local.packing import PackedBatch, pack
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
    policy_loss: str
    """A name in LOSSES."""
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
    gradient_checkpointing: bool = False
    """Whether layers are computed again in the backward pass instead of kept."""

    def __post_init__(self) -> None:
        for name, table in (
            (self.policy_loss, LOSSES),
            (self.loss_aggregation, AGGREGATIONS),
            (self.kl_loss_type, KL_ESTIMATORS),
        ):
            if name not in table:
                raise ValueError(f"{name!r} is not one of {sorted(table)}")
        if self.mini_batch_num < 1 or self.max_token_len_per_gpu < 1:
            raise ValueError(f"out of range: {self}")
        if not 0 <= self.clip_low < 1 or self.clip_high < 0:
            raise ValueError(f"clip range is {1 - self.clip_low} to {1 + self.clip_high}")


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
        if settings.use_kl_loss:
            self._reference = _frozen(reference if reference is not None else copy.deepcopy(model))

    @property
    def num_updates(self) -> int:
        return self._optimizer.num_updates

    def train_step(
        self, samples: Sequence[TrainSample], *, on_progress: Progress | None = None
    ) -> dict[str, float]:
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
        try:
            for mini_batch in mini_batches:
                self._accumulate(mini_batch, record)
                record.updates.append(self._optimizer.update())
        finally:
            self.model.eval()
            self._optimizer.discard_gradients()
        return record.metrics(
            seconds=time.monotonic() - started,
            learning_rate=self.settings.optimizer.learning_rate,
            has_reference=self._reference is not None,
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
        weights = AGGREGATIONS[self.settings.loss_aggregation]([sum(s.mask) for s in samples])
        return _MiniBatch(
            batches=pack(samples, max_tokens=self.settings.max_token_len_per_gpu, device=device),
            advantage_S=torch.tensor([s.advantage for s in samples], device=device),
            temperature_S=torch.tensor([s.temperature for s in samples], device=device),
            weight_S=torch.tensor(weights, device=device),
        )

    def _accumulate(self, mini_batch: "_MiniBatch", record: "_StepRecord") -> None:
        """Add up the gradients of one mini-batch."""
        for batch in mini_batch.batches:
            loss = _BatchLoss(self.settings, mini_batch, batch, record)
            if self._reference is not None:
                loss.reference_logprob_N = score_batch(
                    self._reference, batch, loss.temperature_N
                ).logprob_N
            backward_batch(self.model, batch, loss.temperature_N, loss)
            record.finish(batch)


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

    def __call__(self, chunk: slice, scores: TokenScores) -> Tensor:
        settings = self._settings
        sampled_N, weight_N = self._sampled_logprob_N[chunk], self._weight_N[chunk]
        policy = LOSSES[settings.policy_loss](
            scores.logprob_N,
            sampled_N,
            advantages_N=self._advantage_N[chunk],
            clip_low=settings.clip_low,
            clip_high=settings.clip_high,
        )
        token_loss_N = policy.loss_N
        if self.reference_logprob_N is not None:
            estimator = KL_ESTIMATORS[settings.kl_loss_type]
            kl_N = estimator(scores.logprob_N, self.reference_logprob_N[chunk])
            token_loss_N = token_loss_N + settings.kl_loss_coef * kl_N
            self._record.add_kl(kl_N)
        loss = (weight_N * token_loss_N).sum()
        self._record.add(loss, policy.is_clipped_N, scores, sampled_N)
        return loss


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
        self._num_sample_tokens = num_sample_tokens
        self._num_packed_tokens = num_packed_tokens
        self._num_done_tokens = 0
        self._progress = progress
        self._num_tokens = 0
        self._num_gaps = 0
        names = ("loss", "kl", "clipped", "entropy", "gap", "gap_max")
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

    def add_kl(self, kl_N: Tensor) -> None:
        self._sums["kl"] += kl_N.detach().double().sum()

    def finish(self, batch: PackedBatch) -> None:
        self._num_done_tokens += batch.num_tokens
        if self._progress is not None:
            self._progress(self._num_done_tokens, self._num_packed_tokens)

    def metrics(
        self, *, seconds: float, learning_rate: float, has_reference: bool
    ) -> dict[str, float]:
        num_tokens, num_updates = max(1, self._num_tokens), max(1, len(self.updates))
        sums = {name: value.item() for name, value in self._sums.items()}
        metrics = {
            "train/loss": sums["loss"] / num_updates,
            "train/grad_norm": sum(u.grad_norm for u in self.updates) / num_updates,
            "train/clip_fraction": sums["clipped"] / num_tokens,
            "train/logprob_gap_mean": sums["gap"] / max(1, self._num_gaps),
            "train/logprob_gap_max": sums["gap_max"],
            "train/entropy": sums["entropy"] / num_tokens,
            "train/tokens": float(self._num_tokens),
            "train/packed_tokens": float(self._num_packed_tokens),
            "train/sample_tokens": float(self._num_sample_tokens),
            "train/seconds": seconds,
            "train/updates": float(len(self.updates)),
            "train/lr": self.updates[-1].learning_rate if self.updates else 0.0,
        }
        if has_reference:
            metrics["train/kl"] = sums["kl"] / num_tokens
        return metrics
