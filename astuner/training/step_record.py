"""What one training step has seen: sums over its trained tokens, and the metrics made of them.

Owns the names of the metrics `train/…`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from astuner.training.optimizer import Fingerprint, Update
from astuner.training.packing import PackedBatch
from astuner.training.score import TokenScores

Progress = Callable[[int, int], None]
"""Called between micro-batches with the packed tokens done and the total of this step."""


class StepRecord:
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
        """What the step is at, for the message of an error."""
        self._num_sample_tokens = num_sample_tokens
        self._num_packed_tokens = num_packed_tokens
        self._num_done_tokens = 0
        self._progress = progress
        self._num_tokens = 0
        self._num_gaps = 0
        self._has_importance = False
        names = ("loss", "kl", "clipped", "entropy", "gap", "gap_max", "importance", "bounded")
        self._sums = {name: torch.zeros((), dtype=torch.float64, device=device) for name in names}

    def add(
        self, loss: Tensor, is_clipped_N: Tensor, scores: TokenScores, sampled_logprob_N: Tensor
    ) -> None:
        """Count a chunk's tokens, and until the first update their distance from the sampler."""
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
        self._has_importance = True
        self._sums["importance"] += importance_N.double().sum()
        self._sums["bounded"] += ((importance_N == 0) | (importance_N >= bound)).sum()

    def add_kl(self, kl_N: Tensor) -> None:
        self._sums["kl"] += kl_N.detach().double().sum()

    def finish(self, batch: PackedBatch) -> None:
        """Tell of progress; what the listener raises passes."""
        self._num_done_tokens += batch.num_tokens
        if self._progress is not None:
            self._progress(self._num_done_tokens, self._num_packed_tokens)

    def metrics(
        self, *, seconds: float, has_reference: bool, weights: Fingerprint
    ) -> dict[str, float | None]:
        """By name; None where no token, or no update, gave a number."""
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
        if self._has_importance:
            metrics["train/importance_weight_mean"] = sums["importance"] / num_tokens
            metrics["train/importance_bounded_fraction"] = sums["bounded"] / num_tokens
        if has_reference:
            metrics["train/kl"] = sums["kl"] / num_tokens
        metrics["train/weights_norm"] = weights.norm
        metrics["train/weights_checksum"] = float(weights.checksum)
        return metrics
