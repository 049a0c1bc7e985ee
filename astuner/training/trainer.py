"""One training step: samples in, new weights and metrics out.

Owns the order of mini-batches and the reference policy. Packing, attention, scoring, the loss, the
optimizer and the metrics are in the files beside it. Not safe while the same model generates.
"""

import copy
import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from astuner.algorithm.kl import KL_ESTIMATORS
from astuner.algorithm.loss import (
    AGGREGATIONS,
    NEEDS_SEQUENCE_RATIO,
    SampleSize,
)
from astuner.errors import BackboneError
from astuner.models.adapter import adapter_off, has_adapter, switch_dropout
from astuner.models.device import is_out_of_memory
from astuner.models.seeded import seeded_draws
from astuner.training.batch_loss import BatchLoss, MiniBatch
from astuner.training.optimizer import MasterAdamW
from astuner.training.packed_check import verify_packed_pass
from astuner.training.packing import PackedBatch, pack
from astuner.training.score import (
    backward_batch,
    enable_gradient_checkpointing,
    score_batch,
)
from astuner.training.scored import OnScored, StepScores
from astuner.training.settings import PolicyTrainerSettings
from astuner.training.step_record import Progress, StepRecord
from astuner.training.switches import training_switches
from astuner.trajectory.samples import TrainSample


class PolicyTrainer:
    """Trains a model's weights in place. Owns the optimizer and the frozen reference."""

    def __init__(
        self,
        model: PreTrainedModel,
        settings: PolicyTrainerSettings,
        *,
        seed: int,
        reference: PreTrainedModel | None = None,
    ) -> None:
        """`seed` orders the mini-batches and drops what dropout drops. `reference` is by default a
        copy of the weights as given, with an adapter those without it.

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
        if needs_reference and reference is not None:
            verify_packed_pass(reference)
            self._reference = _frozen(reference)
        elif needs_reference and not has_adapter(model):
            self._reference = _frozen(copy.deepcopy(model))

    @property
    def reference(self) -> PreTrainedModel | None:
        """The frozen weights that a divergence is measured from; None where none lie in memory."""
        return self._reference

    @property
    def num_updates(self) -> int:
        return self._optimizer.num_updates

    def train_step(
        self,
        samples: Sequence[TrainSample],
        *,
        on_progress: Progress | None = None,
        on_scored: OnScored | None = None,
    ) -> dict[str, float | None]:
        """Make `mini_batch_num` updates from the samples and return the metrics of the step.

        At its end `on_scored` is told what the passes that trained the samples thought of them.
        Each sample is used once. Fewer samples than mini-batches make fewer updates; none make no
        update. What `on_progress` raises ends the step: updates that were made stay, gradients of
        an unfinished one are dropped. Raises BackboneError when a gradient is not finite.
        """
        # Named by what was done before, so that a continued run needs no state for it.
        draws = seeded_draws(self._seed * 1_000_003 + self.num_updates)
        with training_switches(self.model.device), draws:
            return self._train_step(samples, on_progress, on_scored)

    def _train_step(
        self,
        samples: Sequence[TrainSample],
        on_progress: Progress | None,
        on_scored: OnScored | None,
    ) -> dict[str, float | None]:
        started = time.monotonic()
        mini_batches = [self._packed(part) for part in self._mini_batches(samples)]
        record = StepRecord(
            num_sample_tokens=sum(len(sample.ids) for sample in samples),
            num_packed_tokens=sum(b.num_tokens for mini in mini_batches for b in mini.batches),
            device=self.model.device,
            progress=on_progress,
        )
        scores = StepScores()
        # transformers keeps all layers in evaluation mode; dropout is off in either.
        self.model.train(self.settings.gradient_checkpointing)
        switch_dropout(self.model, is_on=True)
        try:
            self._score_before_updates(mini_batches)
            for mini_batch in mini_batches:
                self._accumulate(mini_batch, record, scores)
                record.updates.append(self._optimizer.update())
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._out_of_memory(record) from error
        finally:
            self.model.eval()
            self._optimizer.discard_gradients()
        if on_scored is not None:
            on_scored(scores.samples())
        return record.metrics(
            seconds=time.monotonic() - started,
            has_reference=self.settings.use_kl_loss,
            weights=self._optimizer.fingerprint(),
        )

    def _out_of_memory(self, record: StepRecord) -> BackboneError:
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

    def _packed(self, samples: Sequence[TrainSample]) -> MiniBatch:
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
        return MiniBatch(
            samples=samples,
            batches=pack(samples, max_tokens=self.settings.max_token_len_per_gpu, device=device),
            temperature_S=torch.tensor([s.temperature for s in samples], device=device),
            weights=weights,
            weight_S=torch.tensor(weights, device=device),
        )

    def _accumulate(self, mini_batch: MiniBatch, record: StepRecord, scores: StepScores) -> None:
        """Add up the gradients of one mini-batch."""
        scores.begin_update(mini_batch.samples, mini_batch.weights)
        for batch in mini_batch.batches:
            record.doing = f"a micro-batch of {batch.num_tokens} tokens"
            loss = BatchLoss(self.settings, mini_batch, batch, record)
            if self.settings.use_kl_loss:
                loss.reference_logprob_N = self._reference_logprobs(batch, loss.temperature_N)
            if self.settings.policy_loss in NEEDS_SEQUENCE_RATIO:
                current_N = score_batch(self.model, batch, loss.temperature_N).logprob_N
                loss.set_sequence_ratios(current_N, num_samples=len(mini_batch.samples))
            backward_batch(self.model, batch, loss.temperature_N, loss)
            scores.add(batch.sample_N, loss.logprob_N, loss.reference_logprob_N)
            record.finish(batch)
        record.doing = "the optimizer's update"

    def _score_before_updates(self, mini_batches: Sequence[MiniBatch]) -> None:
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
        """Of the frozen weights; where none were given and there is an adapter, of its base."""
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
        with training_switches(self.model.device):
            return totals | self._divergences(samples)

    def _divergences(self, samples: Sequence[TrainSample]) -> dict[tuple[str, int], float]:
        totals: dict[tuple[str, int], float] = defaultdict(float)
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
